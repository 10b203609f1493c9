// What others need of the library that runs the kernels on the host: those that stand in for cuBLASLt and NCCL, and
// tests.
#pragma once

#include <dlfcn.h>

#include <cstdlib>

#include "runtime.h"

namespace fpl {
namespace cuda {
namespace host {

struct Access {
  cudaError_t (*enqueue)(cudaStream_t stream, Work work);
  void (*synchronize)();  // waits for all devices
  uint64_t (*resolved)(uint64_t word, int device);
  int (*currentContext)(void** context);
  int (*makeCurrent)(void* context);
  bool (*isInUse)(int device);
  bool (*isFailing)(const char* name);  // whether that call of another library is the one that shall fail
};
constexpr const char* kAccessSymbol = "fusedPreferenceLossHostAccess";
using GetAccess = const Access* (*)();

// That of the library which has opened this one.
inline const Access* access() {
  const char* path = getenv("FUSED_PREFERENCE_LOSS_CUDA_LIBRARY");
  void* library = path ? dlopen(path, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  void* symbol = library ? dlsym(library, kAccessSymbol) : nullptr;
  return symbol ? reinterpret_cast<GetAccess>(symbol)() : nullptr;
}

// Whether FPL_HOST_FAIL_CALL (runtime.h) means that call.
inline bool isFailing(const char* name) {
  const Access* const found = access();
  return found && found->isFailing(name);
}

}  // namespace host
}  // namespace cuda
}  // namespace fpl
