// The part of the CUDA runtime that the backend uses, on the host, for tests. It is as strict as it can be: work waits
// in its stream until somebody waits for it, taking memory and giving it back wait for all devices, but for that of
// pools, which work of a stream can use that is in order after it was taken, and before it was given back, and no
// other; device memory is out of the host's reach (memory.h), what is not on the device a kernel runs on makes it fail,
// and an error stays the thread's last one until it is asked for.
//
// The environment can make it fail, or look closer:
//   FPL_HOST_DEVICES       how many there are, default 1
//   FPL_HOST_CAPABILITY    their compute capabilities, default 9.0 for all: '7.0,9.0'
//   FPL_HOST_POOLS         0: devices have no pools of memory
//   FPL_HOST_POOL_BYTES    a file to which a pool that grows or shrinks adds a line with the bytes it has
//   FPL_HOST_DEVICE_BYTES  the most that can be allocated
//   FPL_HOST_PINNED_BYTES  the most that can be pinned at once
//   FPL_HOST_DRIVER        version of the driver, default that of the build
//   FPL_HOST_FAULT         a stage whose kernel hits an illegal address
//   FPL_HOST_FAIL_CALL     how many calls from now on, of the runtime, cuBLASLt and NCCL, the one that fails is, once
//   FPL_HOST_FAILED        a file to which that call adds a line with its name or its stage
//   FPL_HOST_HELD          a file to which each stream, event, graph, pool and piece of memory adds 1, then -1
//   FPL_HOST_LAUNCHES      a file to which each launch adds a line with its stage
//   FPL_HOST_COPIES        a file to which each copy between host and device adds a line with its bytes when it begins
//   FPL_HOST_COPY_MS       milliseconds that each copy between host and device takes, default 0
//   FPL_HOST_INITCHECK     1: the process ends where bytes are copied to the host that nobody has written
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <vector>

#include "block.h"
#include "memory.h"

#define CUDART_VERSION 13000

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureUnjoined = 904,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorStreamCaptureImplicit = 906,
  cudaErrorCapturedEvent = 907,
  cudaErrorUnknown = 999,
};
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();

struct HostStream;
struct HostEvent;
struct HostGraph;
struct HostPool;
using cudaStream_t = HostStream*;
using cudaEvent_t = HostEvent*;
using cudaGraph_t = HostGraph*;
using cudaGraphExec_t = HostGraph*;
using cudaMemPool_t = HostPool*;

enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2,
};
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDisableTiming = 2;

struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount, l2CacheSize;
  size_t totalGlobalMem;
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMemoryPoolsSupported = 115,
};
enum cudaMemAllocationType { cudaMemAllocationTypePinned = 1 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  struct {
    cudaMemLocationType type;
    int id;
  } location;
};
enum cudaMemPoolAttr { cudaMemPoolReuseAllowInternalDependencies = 3, cudaMemPoolAttrReleaseThreshold = 4 };
enum cudaMemoryType {
  cudaMemoryTypeUnregistered = 0,
  cudaMemoryTypeHost = 1,
  cudaMemoryTypeDevice = 2,
  cudaMemoryTypeManaged = 3,
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
  void *devicePointer, *hostPointer;
};
struct cudaFuncAttributes {
  int ptxVersion;
};
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0, cudaDriverEntryPointSymbolNotFound = 1 };
constexpr unsigned long long cudaEnableDefault = 0;

cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult* result);
cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties);
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes);
cudaError_t cudaMallocFromPoolAsync(void** memory, size_t bytes, cudaMemPool_t pool, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaMallocHost(void** memory, size_t bytes);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end);

namespace fpl {
namespace cuda {
namespace host {

// The number that a variable of the environment holds.
int64_t numberIn(const char* name, int64_t otherwise);

// Work of a device, which is told which one it is. Where it waits for another process it returns false until that has
// come, and is called again.
class Work {
 public:
  template <typename Function>
  Work(Function function) {
    if constexpr (std::is_void_v<std::invoke_result_t<Function&, int>>) {
      step_ = [function](int device) mutable { return function(device), true; };
    } else {
      step_ = function;
    }
  }
  bool operator()(int device) { return step_(device); }

 private:
  std::function<bool(int device)> step_;
};

// A kernel with its arguments.
struct Kernel {
  // The mangled name of Named<kernel>.
  const char* name;
  // What each thread of the grid does, once the arguments are those that the device sees.
  std::function<std::function<void()>(int device)> threads;
  // The arguments' bytes, with the device's addresses.
  std::vector<std::string> arguments;
};
template <auto kernel>
struct Named {};

template <typename T>
std::string bytesOf(T argument) {
  return std::string(reinterpret_cast<const char*>(&argument), sizeof argument);
}

template <auto kernel, typename... Parameters, typename... Arguments>
Kernel kernelWith(void (*)(Parameters...), const Arguments&... arguments) {
  const auto threads = [=](int device) -> std::function<void()> {
    return [seen = std::make_tuple(resolvedArgument<std::decay_t<Parameters>>(arguments, device)...)] {
      std::apply(kernel, seen);
    };
  };
  return {typeid(Named<kernel>).name(), threads, {bytesOf<std::decay_t<Parameters>>(arguments)...}};
}

// Carries launches out in the place of runGrid, where somebody has set it.
using Carrier = void (*)(const Kernel& kernel, int64_t blocks, int threads, int device);
extern Carrier carrier;

// Puts a kernel into its stream; what is wrong with that becomes the last error.
void launch(const char* stage, const void* identity, cudaStream_t stream, int64_t blocks, int threads, Kernel kernel);

}  // namespace host
}  // namespace cuda
}  // namespace fpl
