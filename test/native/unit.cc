// Native tests without Node: random jobs against the oracle, the corpus of the fuzzer, conversions over their whole
// range, output layers against their logits stored and on tiles, the thread pool under many callers, cancellation, jobs
// that run out of memory, and jobs on threads whose floating-point environment is not what it should be.
//
//   unit [--examples N] [--memory-only] [FILE...]
//
// FILE: one example of the fuzzer's each. --memory-only is for valgrind, whose long double has the range of float64 and
// whose floating-point environment is always the same: values are not held against the oracle, nor jobs against those
// in other environments.
//
// Prints what it tried; exits with 1 when something is wrong. Meant to be run under sanitizers and valgrind.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <numeric>
#include <stdexcept>
#include <thread>

#if defined(__linux__) && defined(__x86_64__)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#endif

#include "../../native/blas/cblas.h"
#include "../../native/core/float_environment.h"
#include "../../native/cpu/head_products.h"
#include "emulated_tiles.h"
#include "example.h"
#include "head_call.h"
#include "short_memory.h"

namespace {

using namespace fpl;

int64_t failures = 0;
bool memoryOnly = false;

void check(bool holds, const std::string& what) {
  if (holds) return;
  ++failures;
  fprintf(stderr, "wrong: %s\n", what.c_str());
}

void runExample(const std::vector<uint8_t>& bytes, ThreadPool& pool) {
  Example example(bytes.data(), bytes.size());
  const std::string problem = differential(example, pool);
  check(problem.empty() || memoryOnly, example.text() + ": " + problem);
}

int64_t examples(int64_t count, ThreadPool& pool) {
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<uint8_t> bytes(400);
    for (uint8_t& byte : bytes) byte = uint8_t((state = state * 1664525 + 1013904223) >> 24);
    runExample(bytes, pool);
  }
  return count;
}

// Every 16-bit pattern there and back, and the rounding of what lies between.
template <typename T>
void conversions(const char* name) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    T value, back;
    value.bits = uint16_t(bits);
    const float wide = toFloat(value);
    fromFloat(wide, back);
    check(std::isnan(wide) ? std::isnan(toFloat(back)) : back.bits == value.bits,
          std::string(name) + " there and back");
    T next;
    next.bits = uint16_t(bits + 1);
    const float above = toFloat(next);
    if ((bits & 0x7fff) == 0x7fff || !std::isfinite(wide) || !std::isfinite(above)) continue;
    T middle;
    fromFloat(float((double(wide) + double(above)) / 2), middle);
    check(middle.bits == (bits & 1 ? next.bits : value.bits), std::string(name) + " rounds a tie to even");
  }
}

// Streamed rows have the bits of the others, at every offset and length.
int64_t streams() {
  int64_t tried = 0;
  const InstructionSets& found = instructionSets();
  for (int32_t set = 0; set < found.count; ++set) {
    for (int32_t dtype = 0; dtype < 3; ++dtype) {
      const int64_t size = elementSize(DType(dtype));
      for (int64_t offset = 0; offset < 33; ++offset) {
        for (const int64_t count : {1, 7, 64, 129, 500}) {
          Elements row, plain, streamed;
          for (Elements* e : {&row, &plain, &streamed}) e->allocate(DType(dtype), offset, count);
          for (int64_t i = 0; i < count; ++i) row.set(i, float(i % 17) / 4 - 3);
          const ExpConstants constants(1.5);
          found.sets[set]->gradient[dtype][dtype](row.data(), plain.data(), 0, count, constants, {0, 1}, -0.75f);
          found.sets[set]->gradientStreamed[dtype][dtype](row.data(), streamed.data(), 0, count, constants, {0, 1},
                                                          -0.75f);
          check(memcmp(plain.data(), streamed.data(), size * count) == 0, "a streamed row has other bits");
          if (count > 2) {
            // Zeros but for the first and the last element.
            const std::vector<char> zeros((count - 2) * size);
            char* const first = static_cast<char*>(streamed.data());
            const char* const wanted = static_cast<const char*>(plain.data());
            const int64_t last = (count - 1) * size;
            found.sets[set]->streamZeros(first + size, last - size);
            check(memcmp(first + size, zeros.data(), zeros.size()) == 0, "a row of zeros holds something else");
            check(memcmp(first, wanted, size) == 0 && memcmp(first + last, wanted + last, size) == 0,
                  "zeros were written beside a row");
          }
          ++tried;
        }
      }
    }
  }
  return tried;
}

bool close(double got, double wanted, double size) { return std::fabs(got - wanted) <= 1e-5 * size + 1e-30; }

// A head against the same job on its logits, and against the products of these with their gradient in float64.
void head(HeadCall& call, ThreadPool& pool) {
  const int64_t rows = call.rowCount, width = call.width, vocab = call.vocab;
  std::vector<float> logits(rows * vocab), gradient(rows * vocab), tokenLogProbs(rows);
  for (int64_t i = 0; i < rows * vocab; ++i) {
    const int64_t row = i / vocab, v = i % vocab;
    double sum = call.bias.at(v);
    for (int64_t d = 0; d < width; ++d) sum += double(call.hidden.at(row * width + d)) * call.weightAt(v, d);
    logits[i] = float(sum);
  }
  Job stored;
  double logProb;
  std::vector<TokenState> states(rows);
  std::vector<int32_t> argmax(rows, -1);
  stored.instructionSet = call.job.instructionSet;
  stored.hasPolicy = stored.hasGradient = true;
  stored.tokens = call.job.tokens;
  stored.policy.logits = {logits.data(), DType::kFloat32, 1, rows, vocab, rows * vocab, vocab};
  stored.policy.logProbs = &logProb;
  stored.policy.states = states.data();
  stored.policy.tokenLogProbs = tokenLogProbs.data();
  stored.policy.tokenArgmax = argmax.data();
  stored.gradient.logits = stored.gradient.out = stored.policy.logits;
  stored.gradient.out.data = gradient.data();
  stored.gradient.states = states.data();
  stored.gradient.coefficients = &call.coefficient;
  runJob(stored, pool);
  runJob(call.job, pool);

  check(close(call.logProb, logProb, std::fabs(logProb)), "log-prob of a head");
  for (int64_t row = 0; row < rows; ++row) {
    check(close(call.tokenLogProbs[row], tokenLogProbs[row], std::fabs(tokenLogProbs[row])), "token of a head");
    check(call.tokenArgmax[row] == argmax[row], "argmax of a head");
  }
  const auto product = [&](float got, int64_t terms, auto term, const char* what) {
    double sum = 0, size = 0;
    for (int64_t k = 0; k < terms; ++k) {
      sum += term(k);
      size += std::fabs(term(k));
    }
    check(close(got, sum, size), what);
  };
  const auto g = [&](int64_t row, int64_t v) { return double(gradient[row * vocab + v]); };
  for (int64_t d = 0; d < width; ++d) {
    for (int64_t row = 0; row < rows; ++row) {
      product(
          call.gradHidden[row * width + d], vocab, [&](int64_t v) { return g(row, v) * call.weightAt(v, d); },
          "hidden's gradient");
    }
    for (int64_t v = 0; v < vocab; ++v) {
      product(
          call.gradWeight[call.byWord ? v * width + d : d * vocab + v], rows,
          [&](int64_t row) { return g(row, v) * call.hidden.at(row * width + d); }, "weight's gradient");
    }
  }
  for (int64_t v = 0; v < vocab; ++v) {
    product(
        call.gradBias[v], rows, [&](int64_t row) { return g(row, v); }, "bias' gradient");
  }
}

int64_t heads(ThreadPool& pool) {
  constexpr int64_t kSizes[][3] = {{1, 1, 1}, {3, 5, 7}, {97, 17, 203}, {9, 300, 65}, {1100, 3, 40}, {5, 8, 1300}};
  int64_t tried = 0;
  for (int32_t set = 0; set < instructionSets().count; ++set) {
    for (const auto& [rows, width, vocab] : kSizes) {
      for (int32_t dtype = 0; dtype < 3; ++dtype, ++tried) {
        HeadCall call(DType(dtype), rows, width, vocab, (rows + dtype) % 2 == 0, set, 1 + tried % 3);
        head(call, pool);
      }
    }
  }
  return tried;
}

// The backward of a head as a job of its own, of which only the head's stage is filled in: on as many threads as asked
// for, and with the coefficients of a loss.
int64_t headsAlone() {
  HeadCall call(DType::kFloat32, 97, 64, 500, true, 0, 1);
  ThreadPool first;
  runJob(call.job, first);
  const std::vector<float> wanted = call.gradWeight;
  call.job.hasPolicy = false;
  call.job.threads = 3;
  ThreadPool pool;
  runJob(call.job, pool);
  check(call.gradWeight == wanted, "the backward of a head has other bits on its own");
  check(pool.size() == 2, "the backward of a head does not run on three threads");

  double values[11][3] = {};
  const int32_t pairs[] = {0, 0};
  PreferenceLoss& loss = call.job.loss;
  loss.terms.list[0] = {LossType::cpo, 1, 0};
  loss.terms.count = 1;
  loss.constants.beta = 1;
  loss.pairCount = 1;
  loss.pairs = pairs;
  double** const lists[] = {&loss.chosen,       &loss.rejected,      &loss.referenceChosen, &loss.referenceRejected,
                            &loss.losses,       &loss.chosenRewards, &loss.rejectedRewards, &loss.gradChosen,
                            &loss.gradRejected, &loss.summary};
  for (size_t i = 0; i < std::size(lists); ++i) *lists[i] = values[i];
  call.job.hasPolicy = call.job.hasLoss = true;
  runJob(call.job, pool);
  // One sequence is chosen and rejected: what the two slopes add up to.
  check(loss.gradChosen[0] == -0.5 && call.coefficient == 0, "the coefficients of a head's backward");
  return 3;
}

int64_t pools() {
  int64_t tasks = 0;
  for (int round = 0; round < 20; ++round) {
    ThreadPool pool;
    std::vector<std::thread> callers;
    std::atomic<int64_t> done{0};
    for (int64_t caller = 0; caller < 4; ++caller) {
      callers.emplace_back([&, caller] {
        for (int64_t count = 0; count < 40; ++count) {
          // Not atomic: each task is run once, and all of them before `run` returns.
          std::vector<int64_t> ran(count, 0);
          // Some take their time, so that a caller that did not wait would be gone.
          pool.run(count, 1 + (caller + count) % 5, [&](int64_t task) {
            if (task % 8 == 5) std::this_thread::sleep_for(std::chrono::microseconds(100));
            ++ran[task];
          });
          for (const int64_t times : ran) check(times == 1, "a task did not run once");
          done += count;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    tasks += done;
  }
  return tasks;
}

// Threads that are idle end, and those that are wanted again are there: all tasks are run whenever that happens.
int64_t idling() {
  using std::chrono::milliseconds;
  using std::chrono::seconds;
  int64_t ran = 0;
  for (const int64_t idle : {0, 1}) {
    ThreadPool pool{milliseconds(idle)};
    for (int64_t round = 0; round < 500; ++round) {
      std::atomic<int64_t> done{0};
      pool.run(16, 2 + round % 7, [&](int64_t) { ++done; });
      check(done == 16, "a task did not run while threads came and went");
      ran += done;
      if (round % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(100 * (round % 11)));
    }
    const auto end = std::chrono::steady_clock::now() + seconds(60);
    while (pool.size() > 0 && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(milliseconds(1));
    check(pool.size() == 0, "idle threads did not end");
  }
  ThreadPool busy{std::chrono::hours(1)};
  busy.run(16, 5, [](int64_t) {});
  check(busy.size() == 4, "a call did not get the threads it asked for");
  return ran;
}

// A task that throws ends the run with its exception, once all that have begun are done; the pool goes on.
int64_t throwing() {
  int64_t caught = 0;
  ThreadPool pool;
  for (int64_t round = 0; round < 200; ++round) {
    std::atomic<int64_t> inside{0};
    try {
      pool.run(64, 1 + round % 4, [&](int64_t task) {
        ++inside;
        if (task % 3 == 1) std::this_thread::sleep_for(std::chrono::microseconds(20));
        --inside;
        if (task == round % 64) throw std::bad_alloc();
      });
    } catch (const std::bad_alloc&) {
      ++caught;
    }
    check(inside == 0, "a task was running when the pool's run had ended");
  }
  check(caught == 200, "an exception of a task was lost");
  return caught;
}

// Memory with one page that stops a job: the first to touch that page cancels it, and goes on when the page can be
// used. POSIX alone.
struct StoppingPages {
  static inline std::atomic<Job*> job{nullptr};  // the one to cancel
  static inline char* page = nullptr;
  static inline size_t pageSize = 0;

  char* data;
  size_t size;
  struct sigaction faults {
  }, busErrors{};  // what stood there before

  explicit StoppingPages(size_t bytes) : size(bytes) {
    pageSize = size_t(sysconf(_SC_PAGESIZE));
    void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    data = static_cast<char*>(mapped);
    struct sigaction action {};
    action.sa_sigaction = [](int signal, siginfo_t* info, void*) {
      const auto* at = static_cast<char*>(info->si_addr);
      if (page == nullptr || at < page || at >= page + pageSize) {
        std::signal(signal, SIG_DFL);  // a fault of another kind: it comes again, and ends the program
        return;
      }
      if (Job* stopped = job) stopped->cancelled = true;
      mprotect(page, pageSize, PROT_READ | PROT_WRITE);
    };
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &faults);
    sigaction(SIGBUS, &action, &busErrors);
  }
  ~StoppingPages() {
    sigaction(SIGSEGV, &faults, nullptr);
    sigaction(SIGBUS, &busErrors, nullptr);
    munmap(data, size);
  }

  // Whoever touches the page of this byte cancels that job.
  void stop(Job& stopped, size_t byte) {
    job = &stopped;
    page = data + byte / pageSize * pageSize;
    mprotect(page, pageSize, PROT_NONE);
  }
  void stopNothing() {
    job = nullptr;
    mprotect(data, size, PROT_READ | PROT_WRITE);
  }
};

// Cancelled while it reads a row, or from another thread at any time: it stops, and if it says it did, no gradient has
// been written.
int64_t cancellations() {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kRows = 200, kVocab = 3000, kRounds = 128;
  int64_t midway = 0, atRows = 0;
  Clock::duration length{};  // of the shortest job that nobody stopped
  ThreadPool pool;
  StoppingPages memory(kRows * kVocab * sizeof(float));
  auto* logits = reinterpret_cast<float*>(memory.data);
  std::fill(logits, logits + kRows * kVocab, 1.0f);
  std::vector<float> out(kRows * kVocab);
  for (int64_t round = 0; round < kRounds; ++round) {
    std::fill(out.begin(), out.end(), 5.0f);
    std::vector<int32_t> targets(kRows, 3), offsets{0, kRows}, counts{kRows};
    std::vector<double> logProbs(1), coefficients{1};
    std::vector<TokenState> states(kRows);
    Job job;
    job.threads = 2;
    job.cancellable = job.hasPolicy = job.hasGradient = true;
    job.tokens.targets = targets.data();
    job.tokens.offsets = offsets.data();
    job.tokens.counts = counts.data();
    job.tokens.sequences = 1;
    job.policy.logits = {logits, DType::kFloat32, 1, kRows, kVocab, kRows * kVocab, kVocab};
    job.policy.logProbs = logProbs.data();
    job.policy.states = states.data();
    job.gradient.logits = job.gradient.out = job.policy.logits;
    job.gradient.out.data = out.data();
    job.gradient.states = states.data();
    job.gradient.coefficients = coefficients.data();
    const bool atRow = round % 2 == 1;
    std::atomic<bool> begun{false};
    std::thread canceller([&] {
      while (!begun) std::this_thread::yield();
      if (atRow || round == 0) return;
      // The first half reads, and the second writes.
      const auto at = Clock::now() + length * (round % 16) / 24;
      while (Clock::now() < at) std::this_thread::yield();
      job.cancelled = true;
    });
    if (atRow) memory.stop(job, size_t((round % (kRows / 2)) * kVocab) * sizeof(float));
    const auto start = Clock::now();
    begun = true;
    const bool finished = runJob(job, pool);
    const auto took = Clock::now() - start;
    canceller.join();
    if (finished && (round == 0 || took < length)) length = took;
    memory.stopNothing();
    for (const float x : out) check((x == 5) != finished, finished ? "unfinished" : "written though cancelled");
    const auto read = std::count_if(states.begin(), states.end(), [](const TokenState& s) { return s.total != 0; });
    check(!finished || read == kRows, "a row of a finished job was not read");
    check(!atRow || !finished, "a job went on though it was cancelled while it read");
    const bool between = !finished && read > 0 && read < kRows;
    midway += between;
    atRows += between && atRow;
  }
  // The other thread may have read all the other rows before the first one had set the flag.
  check(atRows > kRounds / 8, "a job was not cancelled midway");
  return midway;
}

// What a neighbour may leave on a thread: another rounding, subnormal numbers flushed, flags of past exceptions.
#if defined(__x86_64__)
constexpr uint64_t kUp = 0x4000, kDown = 0x2000, kToZero = 0x6000, kFlush = 0x8000, kInputsToo = 0x40, kFlags = 0x3f;
constexpr uint64_t kEnvironments[] = {kUp, kDown, kToZero, kFlush, kInputsToo, kFlush | kInputsToo | kFlags, kFlags};
#elif defined(__aarch64__)
constexpr uint64_t kUp = 1 << 22, kDown = 2 << 22, kToZero = 3 << 22, kFlush = 1 << 24, kHalves = 1 << 19;
constexpr uint64_t kFlags = 0;
constexpr uint64_t kEnvironments[] = {kUp, kDown, kToZero, kFlush, kFlush | kHalves};
#else
constexpr uint64_t kFlags = 0;
constexpr uint64_t kEnvironments[] = {0};
#endif

void append(std::vector<unsigned char>& out, const void* data, int64_t size) {
  const auto* const begin = static_cast<const unsigned char*>(data);
  out.insert(out.end(), begin, begin + size);
}

// The caller's logits, and the gradient.
std::vector<unsigned char> tensorsOf(const Example& e) {
  std::vector<unsigned char> out;
  for (const Elements* list : {&e.logits, &e.out}) append(out, list->memory.get(), list->bytes);
  return out;
}

// Everything that a run of the example writes, in that environment, to the bit.
std::vector<unsigned char> written(const std::vector<uint8_t>& bytes, int64_t threads, uint64_t environment) {
  Example e(bytes.data(), bytes.size());
  e.job.threads = threads;
  {
    // Its threads begin with this thread's environment.
    const FloatEnvironment before;
    setFloatEnvironment(kFloatEnvironment | environment);
    ThreadPool pool;
    runJob(e.job, pool);
    check(floatEnvironment() == (kFloatEnvironment | environment), "a job changed its caller's environment");
  }
  std::vector<unsigned char> out = tensorsOf(e);
  for (const auto* list : {&e.logProbs, &e.losses, &e.gradChosen, &e.gradRejected, &e.summary, &e.coefficients}) {
    append(out, list->data(), int64_t(list->size() * sizeof(double)));
  }
  for (const auto* list : {&e.tokenLogProbs, &e.tokenEntropies, &e.logSumExp, &e.sumSquaredProbs}) {
    append(out, list->data(), int64_t(list->size() * sizeof(float)));
  }
  return out;
}

// A pool's tasks, on threads that were started in that environment.
void tasksIn(uint64_t environment, int64_t threads) {
  std::atomic<int64_t> wrong{0};
  const FloatEnvironment before;
  setFloatEnvironment(kFloatEnvironment | environment);
  ThreadPool().run(16, threads, [&](int64_t) {
    wrong += (floatEnvironment() & ~kFlags) != kFloatEnvironment;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  });
  const bool untouched = floatEnvironment() == (kFloatEnvironment | environment);
  check(wrong == 0 && untouched, "a pool's task in another environment, or its caller after it");
}

int64_t environments(int64_t count) {
  for (const uint64_t environment : kEnvironments) {
    for (const int64_t threads : {1, 3}) tasksIn(environment, threads);
  }
  uint32_t state = 7;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<uint8_t> bytes(400);
    for (uint8_t& byte : bytes) byte = uint8_t((state = state * 1664525 + 1013904223) >> 24);
    const std::vector<unsigned char> wanted = written(bytes, 1, 0);
    for (const int64_t threads : {1, 2}) {
      for (const uint64_t environment : kEnvironments) {
        check(written(bytes, threads, environment) == wanted, "the caller's environment changed a job's bits");
      }
    }
  }
  return count;
}

// Products on tiles, emulated and, where there is AMX, on its own, whose bits must be the same: sizes around those of
// tiles, weights of words and of columns, a bias, rows that take no part, and sums that go on in a second chunk.
void tilesOf(int64_t rows, int64_t width, int64_t vocab, bool byWord, bool biased, int64_t threads, ThreadPool& pool) {
  const std::string name = "tiles, " + std::to_string(rows) + " rows, width " + std::to_string(width) + ", vocab " +
                           std::to_string(vocab) + (byWord ? "" : ", by column") + (biased ? ", bias" : "");
  uint32_t state = uint32_t(rows * 31 + width * 7 + vocab);
  const auto next = [&] { return double((state = state * 1664525 + 1013904223) >> 8) / (1 << 23) - 1; };
  const auto numbers = [&](int64_t count) {
    std::vector<BFloat16> out(count);
    for (BFloat16& x : out) fromFloat(float(next()), x);
    return out;
  };
  // Between two rows, and two lines of weights, lies one that is not theirs.
  std::vector<BFloat16> states = numbers(rows * 2 * width), weights = numbers(2 * width * vocab);
  for (int64_t i = 0; i < rows * width; ++i) fromFloat(NAN, states[i / width * 2 * width + width + i % width]);
  const int64_t line = byWord ? width : vocab;
  for (int64_t i = 0; i < width * vocab; ++i) fromFloat(NAN, weights[i / line * 2 * line + line + i % line]);
  std::vector<float> bias(vocab), gradient(rows * (vocab + 3), NAN);
  for (float& x : bias) x = float(next());
  for (int64_t i = 0; i < rows * vocab; ++i) gradient[i / vocab * (vocab + 3) + i % vocab] = float(next() * 1e-3);
  std::vector<char> takesPart(rows, 1);
  if (rows > 5) {
    takesPart[4] = 0;
    std::fill_n(gradient.begin() + 4 * (vocab + 3), vocab, 0.0f);
  }

  Head head;
  head.hidden = {states.data(), DType::kBFloat16, 1, rows, width, rows * 2 * width, 2 * width};
  head.weight = {weights.data(), DType::kBFloat16, byWord ? 2 * line : 1, byWord ? 1 : 2 * line, false};
  if (biased) head.bias = {bias.data(), DType::kFloat32};
  std::vector<int64_t> order(rows);
  std::iota(order.begin(), order.end(), 0);

  const std::atomic<bool> cancelled{false};
  const std::function<void(int64_t)> onHiddenRows;
  std::vector<std::vector<float>> found[2];
  const TileKernels* const kernels[2] = {&emulated::kTiles, amxTiles()};
  const int64_t split = rows > 32 ? 32 : rows;
  for (int k = 0; k < 2 && kernels[k]; ++k) {
    const CpuContext context{*instructionSets().sets[0], pool, threads, cancelled, onHiddenRows, nullptr, kernels[k]};
    BFloat16 state = states[rows > 5 ? 4 * 2 * width : 0];
    const auto products = tileProducts(head, vocab, rows, DType::kFloat32, context);
    std::vector<float> logits(rows * (vocab + 3), 7), hiddenSums(rows * width, 7), weightSums(vocab * width, 0.5f);
    // In blocks of words, and in two chunks of rows; then in one of each.
    const auto forBlocks = [&](int64_t step, const auto& work) {
      for (int64_t first = 0; first < vocab; first += step) work(Words{first, std::min(vocab, first + step)});
    };
    const auto isSame = [&](const std::vector<float>& got, const std::vector<float>& wanted, const char* what) {
      check(memcmp(got.data(), wanted.data(), got.size() * sizeof(float)) == 0, name + ": " + what + ", in blocks");
    };
    products->setRows(order.data(), rows);
    forBlocks(vocab, [&](const Words& block) { products->logits(block, logits.data(), vocab + 3); });
    std::vector<float> inBlocks(logits.size(), 7);
    forBlocks(64, [&](const Words& block) { products->logits(block, inBlocks.data() + block.first, vocab + 3); });
    isSame(inBlocks, logits, "logits");
    if (rows > 5) fromFloat(NAN, states[4 * 2 * width]);
    const auto addHidden = [&](int64_t step, std::vector<float>& out) {
      forBlocks(step, [&](const Words& block) {
        products->hiddenSums(block, gradient.data() + block.first, vocab + 3, rows, out.data());
      });
    };
    const auto addWeight = [&](int64_t step, int64_t from, int64_t to, std::vector<float>& out) {
      products->setStates(order.data() + from, takesPart.data() + from, to - from);
      forBlocks(step, [&](const Words& block) {
        products->weightSums(block, gradient.data() + from * (vocab + 3) + block.first, vocab + 3, to - from,
                             out.data(), true);
      });
    };
    std::vector<float> hiddenInBlocks = hiddenSums, weightInBlocks = weightSums;
    addHidden(vocab, hiddenSums);
    addHidden(kStepOfSums, hiddenInBlocks);
    isSame(hiddenInBlocks, hiddenSums, "gradient of hidden");
    addWeight(vocab, 0, rows, weightSums);
    addWeight(64, 0, split, weightInBlocks);
    if (split < rows) addWeight(64, split, rows, weightInBlocks);
    isSame(weightInBlocks, weightSums, "gradient of weight");
    if (rows > 5) std::swap(states[4 * 2 * width], state);
    found[k] = {logits, hiddenSums, weightSums};
  }

  const auto stateOf = [&](int64_t row, int64_t d) { return double(toFloat(states[row * 2 * width + d])); };
  const auto weightOf = [&](int64_t v, int64_t d) {
    return double(toFloat(weights[byWord ? v * 2 * line + d : d * 2 * line + v]));
  };
  const auto gradientOf = [&](int64_t row, int64_t v) { return double(gradient[row * (vocab + 3) + v]); };
  const auto near = [&](float got, double begin, int64_t depth, const char* what, const auto& term) {
    double sum = begin, magnitude = std::fabs(begin);
    for (int64_t k = 0; k < depth; ++k) sum += term(k), magnitude += std::fabs(term(k));
    check(memoryOnly || std::fabs(got - sum) <= 1e-6 * magnitude, name + ": " + what);
  };
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t v = 0; v < vocab + 3; ++v) {
      const float got = found[0][0][row * (vocab + 3) + v];
      if (v >= vocab) {
        check(got == 7, name + ": beyond the logits");
      } else {
        near(got, biased ? bias[v] : 0, width, "logits", [&](int64_t d) { return stateOf(row, d) * weightOf(v, d); });
      }
    }
    for (int64_t d = 0; d < width; ++d) {
      near(found[0][1][row * width + d], 0, vocab, "gradient of hidden",
           [&](int64_t v) { return gradientOf(row, v) * weightOf(v, d); });
    }
  }
  for (int64_t i = 0; i < vocab * width; ++i) {
    const int64_t v = byWord ? i / width : i % vocab, d = byWord ? i % width : i / vocab;
    near(found[0][2][i], 0.5, rows, "gradient of weight",
         [&](int64_t row) { return takesPart[row] ? gradientOf(row, v) * stateOf(row, d) : 0; });
  }
  for (size_t i = 0; i < found[1].size(); ++i) {
    const bool isSame = memcmp(found[0][i].data(), found[1][i].data(), found[0][i].size() * sizeof(float)) == 0;
    check(isSame, name + ": AMX's bits");
  }
}

int64_t tiles(ThreadPool& pool) {
  check(emulated::kTiles.works(), "tiles, emulated");
  constexpr int64_t kSizes[][3] = {{1, 1, 1},     {1, 2, 3},      {3, 15, 17},  {16, 16, 16},
                                   {17, 31, 33},  {31, 33, 64},   {32, 32, 32}, {33, 65, 100},
                                   {40, 21, 130}, {70, 50, 1060}, {3, 1060, 40}};
  int64_t ran = 0;
  for (const auto& [rows, width, vocab] : kSizes) {
    for (int kind = 0; kind < 4; ++kind, ++ran) tilesOf(rows, width, vocab, kind & 1, kind & 2, 1 + kind % 3, pool);
  }
  return ran;
}

// A job whose k-th allocation fails, for every k: it throws and leaves the caller's memory as it was, or does without
// and writes the same bits.
template <typename Make, typename Run, typename Bytes>
int64_t failAtEach(const std::string& name, const Make& make, const Run& run, const Bytes& bytesOf) {
  std::vector<unsigned char> wanted;
  for (int64_t k = 0;; ++k) {
    const auto call = make();
    const std::vector<unsigned char> before = bytesOf(*call);
    bool thrown = false, failed;
    {
      ThreadPool pool;
      const ShortMemory memory(k);
      try {
        run(*call, pool);
      } catch (const std::bad_alloc&) {
        thrown = true;
      }
      failed = memory.hasFailed();
    }
    const std::vector<unsigned char> after = bytesOf(*call);
    if (k == 0) wanted = after;
    check(thrown ? failed && after == before : after == wanted, name + ", allocation " + std::to_string(k));
    if (k > 0 && !failed) return k - 1;
  }
}

// A library of BLAS that multiplies by itself.
struct PlainBlas : blas::Library {
  explicit PlainBlas(bool bfloat16) { hasBFloat16 = bfloat16; }

  template <typename Element>
  static void multiplyAs(const blas::Product& p) {
    const auto at = [](const blas::Factor& f, int64_t i, int64_t k) {
      return toFloat(static_cast<const Element*>(f.data)[f.transposed ? k * f.stride + i : i * f.stride + k]);
    };
    for (int64_t i = 0; i < p.rows; ++i) {
      for (int64_t j = 0; j < p.columns; ++j) {
        float sum = p.add ? p.c[i * p.stride + j] : 0;
        for (int64_t k = 0; k < p.depth; ++k) sum += at(p.a, i, k) * at(p.b, k, j);
        p.c[i * p.stride + j] = sum;
      }
    }
  }
  void multiply(const blas::Product& product, int64_t) const override { multiplyAs<float>(product); }
  void multiplyBFloat16(const blas::Product& product, int64_t) const override { multiplyAs<BFloat16>(product); }
};

// Random jobs, and output layers on our products, on those of a BLAS and on tiles.
int64_t shortMemory(int64_t count) {
  int64_t failed = 0, deferred = 0;
  const auto runPlain = [](auto& call, ThreadPool& pool) { runJob(call.job, pool); };
  uint32_t state = 11;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<uint8_t> bytes(400);
    for (uint8_t& byte : bytes) byte = uint8_t((state = state * 1664525 + 1013904223) >> 24);
    const auto make = [&] { return std::make_unique<Example>(bytes.data(), bytes.size()); };
    const auto first = make();
    // A tenth of all, and those that write rows before other stages.
    const bool isDeferred = first->job.gradient.rowScale && first->job.hasReference;
    deferred += isDeferred;
    if (i % 10 != 0 && !isDeferred) continue;
    failed += failAtEach(first->text(), make, runPlain, tensorsOf);
  }
  check(deferred > 0 || count < 500, "no random job writes rows before it reads those of a reference");

  const PlainBlas wide(false), narrow(true);
  const auto gradients = [](const HeadCall& call) {
    std::vector<unsigned char> out;
    for (const auto* list : {&call.gradHidden, &call.gradWeight, &call.gradBias}) {
      append(out, list->data(), int64_t(list->size() * sizeof(float)));
    }
    return out;
  };
  // The second has two groups of rows, and the third's logits are kept.
  constexpr int64_t kSizes[][3] = {{40, 9, 70}, {1100, 3, 70}, {20, 140, 300}};
  int kind = 0;
  for (const auto& [rows, width, vocab] : kSizes) {
    for (const DType precision : {DType::kFloat32, DType::kBFloat16}) {
      for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
        const int64_t threads = 1 + 2 * (++kind / 2 % 2), stride = (vocab + 15) / 16 * 16;
        std::vector<float> chunk(96 * stride);
        const auto make = [&, rows = rows, width = width, vocab = vocab] {
          auto call = std::make_unique<HeadCall>(DType::kBFloat16, rows, width, vocab, kind % 3 != 0, 0, threads);
          HeadGradient& g = call->job.headGradient;
          g.precision = precision;
          g.dtype = dtype;
          g.accumulate = kind % 5 == 0;
          g.logitsBudget = rows * stride * int64_t(sizeof(float));
          return call;
        };
        const std::string name = "output layer " + std::to_string(kind);
        failed += failAtEach(name, make, runPlain, gradients);
        for (const PlainBlas* const library : {&wide, &narrow}) {
          const auto run = [&](HeadCall& call, ThreadPool& pool) { runJob(call.job, pool, library); };
          failed += failAtEach(name + ", BLAS", make, run, gradients);
        }
        const auto makeSwept = [&] {
          auto call = make();
          ThreadPool pool;
          call->job.hasHeadGradient = false;
          runJob(call->job, pool);
          call->job.headGradient.kept = {chunk.data(), 0, stride, 96};
          return call;
        };
        const auto runTiles = [&](HeadCall& call, ThreadPool& pool) {
          const std::atomic<bool> cancelled{false};
          const std::function<void(int64_t)> onHiddenRows;
          const CpuContext context{*instructionSets().sets[0], pool, threads, cancelled, onHiddenRows, nullptr,
                                   &emulated::kTiles};
          headGradient(call.job.headGradient, call.job.tokens, {0}, context);
        };
        failed += failAtEach(name + ", tiles", makeSwept, runTiles, gradients);
      }
    }
  }
  return failed;
}

#if defined(__linux__) && defined(__x86_64__)
// Has the system refuse this process the registers of tiles, for good. False if that cannot be had.
bool refuseTiles() {
  constexpr uint32_t kRequestPermission = 0x1023;
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kRequestPermission, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{std::size(program), program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}
#endif

// A job that asks for AMX's products where they cannot be had: it throws, says why, and has written nothing.
bool isRefusedAmx() {
  HeadCall call(DType::kBFloat16, 5, 8, 40, true, 0, 1);
  const std::vector<float> hidden = call.gradHidden, weight = call.gradWeight, bias = call.gradBias;
  call.job.products = kProductsOfAmx;
  const char* problem = nullptr;
  if (amxTiles(&problem) || !problem) return false;
  ThreadPool pool;
  try {
    runJob(call.job, pool);
  } catch (const std::runtime_error& error) {
    return strcmp(error.what(), problem) == 0 && call.logProb == 0 && call.gradHidden == hidden &&
           call.gradWeight == weight && call.gradBias == bias;
  }
  return false;
}

// In a process of its own: the answer of the system holds as long as a process.
void withoutAmx() {
#if defined(__linux__) && defined(__x86_64__)
  const pid_t child = fork();
  if (child == 0) {
    // Where there is no seccomp. A machine without AMX refuses by itself.
    if (!refuseTiles() && amxTiles()) {
      fprintf(stderr, "left out: products of AMX that cannot be had, as the system takes no filter\n");
      _exit(0);
    }
    _exit(isRefusedAmx() ? 0 : 1);
  }
  int status = 1;
  check(child > 0 && waitpid(child, &status, 0) == child && status == 0, "products of AMX that cannot be had");
#else
  check(isRefusedAmx(), "products of AMX that cannot be had");
#endif
}

}  // namespace

int main(int argc, char** argv) {
  withoutAmx();
  int64_t count = 2000;
  ThreadPool pool;
  int64_t files = 0;
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--examples") == 0 && i + 1 < argc) {
      count = atoll(argv[++i]);
      continue;
    }
    if (strcmp(argv[i], "--memory-only") == 0) {
      memoryOnly = true;
      continue;
    }
    std::ifstream file(argv[i], std::ios::binary);
    runExample({std::istreambuf_iterator<char>(file), {}}, pool);
    ++files;
  }
  const int64_t ran = examples(count, pool);
  conversions<Float16>("float16");
  conversions<BFloat16>("bfloat16");
  const int64_t streamed = streams(), layers = heads(pool) + headsAlone(), onTiles = tiles(pool),
                tasks = pools() + idling(), thrown = throwing(), stopped = cancellations(),
                failed = FPL_OWN_MEMORY ? shortMemory(count / 4) : 0,
                neighbours = memoryOnly ? 0 : environments(count / 20);
  printf(
      "%lld random jobs and %lld of the corpus, 131072 conversions, %lld streamed rows, %lld output layers, "
      "%lld on tiles, %lld pool tasks, %lld exceptions, "
      "%lld cancellations, %lld allocations that fail, %lld jobs in other environments: %lld wrong\n",
      (long long)ran, (long long)files, (long long)streamed, (long long)layers, (long long)onTiles, (long long)tasks,
      (long long)thrown, (long long)stopped, (long long)failed, (long long)neighbours, (long long)failures);
  return failures == 0 ? 0 : 1;
}
