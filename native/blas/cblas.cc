#include "cblas.h"

#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "../core/dtypes.h"
#include "../core/library_handle.h"

#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace fpl {
namespace blas {
namespace {

// CBLAS's numbers.
constexpr int kRowMajor = 101, kNoTranspose = 111, kTranspose = 112;

// What builds put around the names: those with 64-bit integers come first, as MKL has both.
struct Names {
  const char *prefix, *suffix;
  bool saysWide;  // that integers have 64 bits
};
constexpr Names kNames[] = {
    {"", "64_", true}, {"", "_64", true}, {"scipy_", "64_", true}, {"", "", false}, {"scipy_", "", false}};

// The functions of a library, by their plain names.
class Functions {
 public:
  Functions(const LibraryHandle& handle, const Names& names) : handle_(handle), names_(names) {}

  // Null where there is none.
  template <class Function>
  bool find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(handle_.find((names_.prefix + std::string(name) + names_.suffix).c_str()));
    return function != nullptr;
  }
  // Those that have the same name whatever the integers are.
  template <class Function>
  bool findPlain(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(handle_.find(name));
    return function != nullptr;
  }

  bool has(const char* name) const {
    void* found;
    return find(name, found);
  }

 private:
  const LibraryHandle& handle_;
  const Names names_;
};

// The number of the library's threads.
class ThreadCount {
 public:
  explicit ThreadCount(const Functions& functions) {
    if (functions.findPlain("MKL_Set_Num_Threads_Local", setOfMkl_)) return;
    if (functions.find("openblas_set_num_threads", set_) && functions.find("openblas_get_num_threads", get_)) return;
    set_ = nullptr;
    if (!functions.findPlain("bli_thread_set_num_threads", setOfBlis_)) return;
    if (!functions.findPlain("bli_thread_get_num_threads", getOfBlis_)) setOfBlis_ = nullptr;
  }

  // Sets it, and gives what it was.
  int64_t exchange(int64_t threads) const {
    if (setOfMkl_) return setOfMkl_(int(threads));  // 0: as many as for all threads of the process
    const int64_t before = set_ ? get_() : setOfBlis_ ? getOfBlis_() : threads;
    if (before == threads) return before;
    if (set_) set_(int(threads));
    if (setOfBlis_) setOfBlis_(threads);
    return before;
  }

 private:
  int (*setOfMkl_)(int) = nullptr;  // of the calling thread
  void (*set_)(int) = nullptr;
  int (*get_)() = nullptr;
  void (*setOfBlis_)(int64_t) = nullptr;
  int64_t (*getOfBlis_)() = nullptr;
};

// Has the library to itself, with that many threads. These and their number are the process's: the lock is one for all
// environments.
class Turn {
 public:
  Turn(const ThreadCount& count, int64_t threads) : only_(mutex()), count_(count), before_(count.exchange(threads)) {}
  Turn(const Turn&) = delete;
  ~Turn() { count_.exchange(before_); }

 private:
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }

  const std::lock_guard<std::mutex> only_;
  const ThreadCount& count_;
  const int64_t before_;
};

// `Int`: what the library takes as an integer.
template <class Int>
class LibraryOf : public Library {
 public:
  explicit LibraryOf(const Functions& functions) : threads_(functions) {
    integerBits = 8 * sizeof(Int);
    functions.find("cblas_sgemm", product_);
    // MKL's name, and OpenBLAS's.
    hasBFloat16 = functions.find("cblas_gemm_bf16bf16f32", productOfBFloat16_) ||
                  functions.find("cblas_sbgemm", productOfBFloat16_);
  }

  void multiply(const Product& product, int64_t threads) const override { run(product_, product, threads); }
  void multiplyBFloat16(const Product& product, int64_t threads) const override {
    run(productOfBFloat16_, product, threads);
  }

 private:
  template <class Element>
  using Gemm = void (*)(int, int, int, Int, Int, Int, float, const Element*, Int, const Element*, Int, float, float*,
                        Int);

  template <class Element>
  void run(Gemm<Element> gemm, const Product& p, int64_t threads) const {
    const Turn turn(threads_, threads);
    const auto order = [](const Factor& factor) { return factor.transposed ? kTranspose : kNoTranspose; };
    gemm(kRowMajor, order(p.a), order(p.b), Int(p.rows), Int(p.columns), Int(p.depth), 1,
         static_cast<const Element*>(p.a.data), Int(p.a.stride), static_cast<const Element*>(p.b.data), Int(p.b.stride),
         p.add ? 1 : 0, p.c, Int(p.stride));
  }

  const ThreadCount threads_;
  Gemm<float> product_ = nullptr;
  Gemm<BFloat16> productOfBFloat16_ = nullptr;
};

// The bits of the integers that a library takes. A vector whose length is 2 in 32 bits is below 0 in 64, and a product
// of vectors without elements is 0: nothing is read where it must not be, whichever they are. All of its arguments are
// in registers.
int32_t integerBitsOf(const Functions& functions) {
  float (*dot)(int64_t, const float*, int64_t, const float*, int64_t);
  if (!functions.find("cblas_sdot", dot)) throw std::runtime_error("it has no cblas_sdot");
  const float x[] = {3, 5}, y[] = {7, 11};
  const float wide = dot(2, x, 1, y, 1), narrow = dot(2 - (int64_t(1) << 32), x, 1, y, 1);
  if (wide != 76 || (narrow != 76 && narrow != 0)) throw std::runtime_error("its cblas_sdot gives wrong results");
  return narrow == 0 ? 64 : 32;
}

float valueOf(int64_t i, int64_t k, int64_t seed) { return float((5 * i + 3 * k + seed) % 7 - 3); }

// The element of a factor that has these rows and columns.
template <class Element>
std::vector<Element> factorOf(int64_t rows, int64_t columns, int64_t stride, bool transposed, int64_t seed) {
  std::vector<Element> elements((transposed ? columns : rows) * stride);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < columns; ++k) {
      fromFloat(valueOf(i, k, seed), elements[transposed ? k * stride + i : i * stride + k]);
    }
  }
  return elements;
}

// Whether a small product of whole numbers is right, and nothing else is written.
template <class Element, class Multiply>
bool isRight(const Multiply& multiply, bool transposedA, bool transposedB, bool add) {
  constexpr int64_t kRows = 5, kColumns = 7, kDepth = 6, kStride = 9;
  constexpr float kOutside = 12345;
  const auto a = factorOf<Element>(kRows, kDepth, kStride, transposedA, 1);
  const auto b = factorOf<Element>(kDepth, kColumns, kStride, transposedB, 2);
  std::vector<float> c((kRows + 2) * kStride, kOutside);
  float* const begin = c.data() + kStride;
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kColumns; ++j) begin[i * kStride + j] = add ? float(i - j) : kOutside;
  }
  multiply({{a.data(), kStride, transposedA},
            {b.data(), kStride, transposedB},
            kRows,
            kColumns,
            kDepth,
            begin,
            kStride,
            add});
  for (int64_t i = -1; i <= kRows; ++i) {
    for (int64_t j = 0; j < kStride; ++j) {
      float wanted = kOutside;
      if (i >= 0 && i < kRows && j < kColumns) {
        wanted = add ? float(i - j) : 0;
        for (int64_t k = 0; k < kDepth; ++k) wanted += valueOf(i, k, 1) * valueOf(k, j, 2);
      }
      if (begin[i * kStride + j] != wanted) return false;
    }
  }
  return true;
}

template <class Element, class Multiply>
void check(const char* name, const Multiply& multiply) {
  for (int i = 0; i < 8; ++i) {
    if (!isRight<Element>(multiply, i & 1, i & 2, i & 4)) {
      throw std::runtime_error(std::string("its ") + name + " gives wrong results");
    }
  }
}

// MKL's library opens others beside it at the first call, and ends the process where one is missing: they are looked
// for before. Those of another threading layer are left to whoever has chosen it.
void checkPartsOfMkl(const LibraryHandle& handle) {
#if defined(_WIN32)
  (void)handle;
#else
  Dl_info found;
  void* const function = handle.find("MKL_Set_Num_Threads_Local");
  if (!function || dladdr(function, &found) == 0) return;
  const std::string file = found.dli_fname, whole = "mkl_rt";
  const size_t at = file.rfind(whole);
  if (at == std::string::npos) return;
  const auto look = [&](const char* part) {
    const std::string path = std::string(file).replace(at, whole.size(), part);
    if (access(path.c_str(), R_OK) != 0) throw std::runtime_error("it needs " + path);
  };
  look("mkl_core");
  if (getenv("MKL_THREADING_LAYER")) return;
  look("mkl_intel_thread");
  LibraryHandle threads;
  std::string problem;
  if (threads.open(file.substr(0, file.rfind('/') + 1) + "libiomp5.so", problem)) return;
  if (!threads.open("libiomp5.so", problem)) throw std::runtime_error("it needs libiomp5.so: " + problem);
#endif
}

std::unique_ptr<Library> opened(const LibraryHandle& handle) {
  checkPartsOfMkl(handle);
  for (const Names& names : kNames) {
    const Functions functions(handle, names);
    if (!functions.has("cblas_sgemm")) continue;
    const int32_t bits = integerBitsOf(functions);
    if (names.saysWide && bits != 64) {
      throw std::runtime_error(std::string("its names end in ") + names.suffix +
                               ", which says integers of 64 bits, but they have 32");
    }
    std::unique_ptr<Library> library;
    if (bits == 64)
      library = std::make_unique<LibraryOf<int64_t>>(functions);
    else
      library = std::make_unique<LibraryOf<int32_t>>(functions);
    check<float>("cblas_sgemm", [&](const Product& product) { library->multiply(product, 1); });
    if (library->hasBFloat16) {
      check<BFloat16>("product of bfloat16", [&](const Product& product) { library->multiplyBFloat16(product, 1); });
    }
    return library;
  }
  throw std::runtime_error("it has no cblas_sgemm");
}

}  // namespace

std::unique_ptr<Library> open(const std::string& path) {
  LibraryHandle handle;
  std::string problem;
  if (!handle.open(path, problem)) throw std::runtime_error(problem);
  try {
    return opened(handle);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

}  // namespace blas
}  // namespace fpl
