// The sweeps. They touch each cache line of a buffer once, 32 bytes at a time where the CPU can: memory is no faster
// with wider vectors. They have several accumulators, so that no load waits for an addition.
#include "limits.h"

#include <atomic>
#include <chrono>
#include <cstring>

#include "intrinsics.h"
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#if defined(__GNUC__) || defined(__clang__)
#define FPL_AVX2 __attribute__((target("avx2")))
#define FPL_PAIRS __attribute__((target("avx512f,avx512bf16")))
#else
#define FPL_AVX2
#endif
#endif

namespace fpl {

const char* const kSweepNames[kSweepCount] = {"read",   "readAhead",   "copy", "copyStreaming", "copyAhead",
                                              "update", "updateAhead", "fill", "fillStreaming"};

namespace {

// Bytes of a task: as many as a row of 32 Ki float32 logits has.
constexpr int64_t kChunk = 128 * 1024;
constexpr int64_t kLine = 64;
// Bytes from a line to the one that is fetched meanwhile: as in the stages.
constexpr int64_t kAhead = 4096;

// `bytes` is a multiple of kLine here and below, and both buffers are aligned to it.
struct Sweeps {
  uint64_t (*read)(const char* from, int64_t bytes);
  uint64_t (*readAhead)(const char* from, int64_t bytes);
  void (*copy)(const char* from, char* to, int64_t bytes);
  void (*copyStreaming)(const char* from, char* to, int64_t bytes);
  void (*copyAhead)(const char* from, char* to, int64_t bytes);
  // Flips the bits that are set in `flip`, in each 64 bits of the buffer.
  void (*update)(char* buffer, int64_t bytes, uint64_t flip);
  void (*updateAhead)(char* buffer, int64_t bytes, uint64_t flip);
  void (*fill)(char* to, int64_t bytes);
  void (*fillStreaming)(char* to, int64_t bytes);
};

namespace portable {

uint64_t read(const char* from, int64_t bytes) {
  uint64_t sums[kLine / 8] = {};
  for (int64_t i = 0; i < bytes; i += kLine) {
    uint64_t line[kLine / 8];
    memcpy(line, from + i, kLine);
    for (int64_t k = 0; k < kLine / 8; ++k) sums[k] += line[k];
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

void copy(const char* from, char* to, int64_t bytes) { memcpy(to, from, bytes); }

void update(char* buffer, int64_t bytes, uint64_t flip) {
  for (int64_t i = 0; i < bytes; i += kLine) {
    uint64_t line[kLine / 8];
    memcpy(line, buffer + i, kLine);
    for (uint64_t& word : line) word ^= flip;
    memcpy(buffer + i, line, kLine);
  }
}

void fill(char* to, int64_t bytes) { memset(to, 0, bytes); }

const Sweeps kSweeps = {read, read, copy, copy, copy, update, update, fill, fill};

}  // namespace portable

#if defined(FPL_AVX2)
namespace avx2Sweeps {

FPL_AVX2 inline __m256i load(const char* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
FPL_AVX2 inline void store(char* p, __m256i x) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), x); }
FPL_AVX2 inline void stream(char* p, __m256i x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), x); }

FPL_AVX2 inline void fetch(const char* p) { _mm_prefetch(p + kAhead, _MM_HINT_T0); }

FPL_AVX2 inline uint64_t total(__m256i sum) {
  uint64_t sums[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), sum);
  return sums[0] + sums[1] + sums[2] + sums[3];
}

// Reads at four places of the chunk by turns. Each is one stream to the prefetcher, and one stream alone does not fill
// the memory's queue.
FPL_AVX2 uint64_t read(const char* from, int64_t bytes) {
  const int64_t quarter = bytes / 4 / kLine * kLine;
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (int64_t i = 0; i < quarter; i += 32) {
    a = _mm256_add_epi64(a, load(from + i));
    b = _mm256_add_epi64(b, load(from + quarter + i));
    c = _mm256_add_epi64(c, load(from + 2 * quarter + i));
    d = _mm256_add_epi64(d, load(from + 3 * quarter + i));
  }
  for (int64_t i = 4 * quarter; i < bytes; i += 32) a = _mm256_add_epi64(a, load(from + i));
  return total(_mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d)));
}

FPL_AVX2 uint64_t readAhead(const char* from, int64_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a;
  for (int64_t i = 0; i < bytes; i += kLine) {
    fetch(from + i);
    a = _mm256_add_epi64(a, load(from + i));
    b = _mm256_add_epi64(b, load(from + i + 32));
  }
  return total(_mm256_add_epi64(a, b));
}

FPL_AVX2 void copy(const char* from, char* to, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLine) {
    const __m256i low = load(from + i), high = load(from + i + 32);
    store(to + i, low);
    store(to + i + 32, high);
  }
}

FPL_AVX2 void copyStreaming(const char* from, char* to, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLine) {
    const __m256i low = load(from + i), high = load(from + i + 32);
    stream(to + i, low);
    stream(to + i + 32, high);
  }
  _mm_sfence();
}

FPL_AVX2 void copyAhead(const char* from, char* to, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kLine) {
    fetch(from + i);
    const __m256i low = load(from + i), high = load(from + i + 32);
    stream(to + i, low);
    stream(to + i + 32, high);
  }
  _mm_sfence();
}

FPL_AVX2 inline void updateLine(char* line, __m256i flip) {
  const __m256i low = load(line), high = load(line + 32);
  store(line, _mm256_xor_si256(low, flip));
  store(line + 32, _mm256_xor_si256(high, flip));
}

FPL_AVX2 void update(char* buffer, int64_t bytes, uint64_t flip) {
  const __m256i bits = _mm256_set1_epi64x(int64_t(flip));
  const int64_t quarter = bytes / 4 / kLine * kLine;
  for (int64_t i = 0; i < quarter; i += kLine) {
    for (int64_t k = 0; k < 4; ++k) updateLine(buffer + k * quarter + i, bits);
  }
  for (int64_t i = 4 * quarter; i < bytes; i += kLine) updateLine(buffer + i, bits);
}

FPL_AVX2 void updateAhead(char* buffer, int64_t bytes, uint64_t flip) {
  const __m256i bits = _mm256_set1_epi64x(int64_t(flip));
  for (int64_t i = 0; i < bytes; i += kLine) {
    fetch(buffer + i);
    updateLine(buffer + i, bits);
  }
}

FPL_AVX2 void fill(char* to, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 32) store(to + i, _mm256_setzero_si256());
}

FPL_AVX2 void fillStreaming(char* to, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 32) stream(to + i, _mm256_setzero_si256());
  _mm_sfence();
}

const Sweeps kSweeps = {read, readAhead, copy, copyStreaming, copyAhead, update, updateAhead, fill, fillStreaming};

}  // namespace avx2Sweeps
#endif

const Sweeps& sweepsOfThisCpu() {
#if defined(FPL_AVX2)
  if (findInstructionSet("avx2")) return avx2Sweeps::kSweeps;
#endif
  return portable::kSweeps;
}

#if defined(FPL_PAIRS)
// Chains of products, enough to hide an instruction's latency and few enough for the registers, and their operations in
// a round.
constexpr int32_t kPairChains = 12;
constexpr int64_t kPairOperations = kPairChains * 16 * 2 * 2;

FPL_PAIRS float pairProducts(int64_t rounds) {
  __m512 sums[kPairChains];
  for (int32_t i = 0; i < kPairChains; ++i) sums[i] = _mm512_set1_ps(float(i));
  const __m512bh left = _mm512_cvtne2ps_pbh(sums[1], sums[2]), right = _mm512_cvtne2ps_pbh(sums[3], sums[4]);
  for (int64_t k = 0; k < rounds; ++k) {
    for (int32_t i = 0; i < kPairChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], left, right);
  }
  __m512 total = _mm512_setzero_ps();
  for (int32_t i = 0; i < kPairChains; ++i) total = _mm512_add_ps(total, sums[i]);
  return _mm_cvtss_f32(_mm512_castps512_ps128(total));
}
#endif

// Operations a second of `threads` threads at once.
double rateOf(float (*work)(int64_t rounds), int64_t operationsOfRound, int64_t threads, ThreadPool& pool) {
  constexpr int64_t kRounds = 1 << 18, kTasksPerThread = 32;
  static std::atomic<uint32_t> sink{0};
  const auto start = std::chrono::steady_clock::now();
  pool.run(threads * kTasksPerThread, threads,
           [&](int64_t) { sink.fetch_add(bitsOf(work(kRounds)), std::memory_order_relaxed); });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return double(operationsOfRound * kRounds * threads * kTasksPerThread) / seconds;
}

char* aligned(void* p) { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(p) + kLine - 1) / kLine * kLine); }

}  // namespace

double sweepSeconds(Sweep sweep, void* buffer, void* target, int64_t bytes, int64_t threads, ThreadPool& pool) {
  const Sweeps& sweeps = sweepsOfThisCpu();
  char* const from = aligned(buffer);
  char* const to = target ? aligned(target) : nullptr;
  const int64_t whole = bytes / kLine * kLine - kLine;  // alignment leaves at least this much of both
  // The sums go to `sink`, and the bits to flip, which are none, come from a volatile: no compiler can leave out the
  // work.
  static std::atomic<uint64_t> sink{0};
  const volatile uint64_t noBits = 0;
  const uint64_t flip = noBits;

  const auto start = std::chrono::steady_clock::now();
  pool.run(ceilDiv(whole, kChunk), threads, [&](int64_t task) {
    const int64_t begin = task * kChunk;
    const int64_t length = whole - begin < kChunk ? whole - begin : kChunk;
    switch (sweep) {
      case Sweep::kRead:
        sink.fetch_add(sweeps.read(from + begin, length), std::memory_order_relaxed);
        break;
      case Sweep::kReadAhead:
        sink.fetch_add(sweeps.readAhead(from + begin, length), std::memory_order_relaxed);
        break;
      case Sweep::kCopy:
        sweeps.copy(from + begin, to + begin, length);
        break;
      case Sweep::kCopyStreaming:
        sweeps.copyStreaming(from + begin, to + begin, length);
        break;
      case Sweep::kCopyAhead:
        sweeps.copyAhead(from + begin, to + begin, length);
        break;
      case Sweep::kUpdate:
        sweeps.update(from + begin, length, flip);
        break;
      case Sweep::kUpdateAhead:
        sweeps.updateAhead(from + begin, length, flip);
        break;
      case Sweep::kFill:
        sweeps.fill(from + begin, length);
        break;
      case Sweep::kFillStreaming:
        sweeps.fillStreaming(from + begin, length);
        break;
    }
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double multiplyAddRate(const Kernels& kernels, int64_t threads, ThreadPool& pool) {
  return rateOf(kernels.multiplyAdds, 2 * kernels.panels.rows * kernels.panels.columns, threads, pool);
}

double pairProductRate([[maybe_unused]] int64_t threads, [[maybe_unused]] ThreadPool& pool) {
#if defined(FPL_PAIRS)
  // Where they are slower than multiply-adds, another set comes first.
  if (instructionSets().sets[0]->pairs) return rateOf(pairProducts, kPairOperations, threads, pool);
#endif
  return 0;
}

}  // namespace fpl
