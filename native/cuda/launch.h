// Launching kernels, and the errors of the CUDA runtime.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device.h"

namespace fpl {
namespace cuda {

using Stream = cudaStream_t;

// An error of the CUDA runtime: its name, where it showed, and what that means.
struct Error {
  std::string message;
};

[[noreturn]] inline void fail(cudaError_t status, const std::string& doing) {
  throw Error{std::string(cudaGetErrorName(status)) + " while " + doing + ": " + cudaGetErrorString(status)};
}

inline void check(cudaError_t status, const char* doing) {
  if (status != cudaSuccess) fail(status, doing);
}

// For what may fail without anybody being told: it must not be taken for an error of a later call.
inline void ignore(cudaError_t status) {
  if (status != cudaSuccess) cudaGetLastError();
}

// All kernels that are launched anywhere.
std::vector<const void*>& kernels();

// Puts a kernel on that list when the library is opened.
template <auto kernel>
struct Listed {
  static const bool done;
};
template <auto kernel>
const bool Listed<kernel>::done = (kernels().push_back(reinterpret_cast<const void*>(kernel)), true);

// The most blocks of a grid.
constexpr int64_t kMostBlocks = 0x7fffffff;

#if defined(FPL_HOST_EXECUTION)
#define FPL_LAUNCH(stage, kernel, blocks, threads, stream, ...)                                  \
  do {                                                                                           \
    static_cast<void>(&::fpl::cuda::Listed<kernel>::done);                                       \
    namespace host = ::fpl::cuda::host;                                                          \
    host::launch(stage, reinterpret_cast<const void*>(kernel), stream, int64_t(blocks), threads, \
                 host::kernelWith<kernel>(kernel, __VA_ARGS__));                                 \
    ::fpl::cuda::check(cudaGetLastError(), "running " stage);                                    \
  } while (false)
#else
#define FPL_LAUNCH(stage, kernel, blocks, threads, stream, ...)              \
  do {                                                                       \
    static_cast<void>(&::fpl::cuda::Listed<kernel>::done);                   \
    kernel<<<unsigned(blocks), unsigned(threads), 0, stream>>>(__VA_ARGS__); \
    ::fpl::cuda::check(cudaGetLastError(), "running " stage);                \
  } while (false)
#endif

}  // namespace cuda
}  // namespace fpl
