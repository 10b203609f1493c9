#include "runtime.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace {

const char* variable(const char* name) {
  const char* value = getenv(name);
  return value && *value ? value : nullptr;
}

int64_t numberIn(const char* name, int64_t otherwise) {
  const char* value = variable(name);
  return value ? atoll(value) : otherwise;
}

std::mutex mutex;
std::map<void*, size_t> allocations;
size_t allocated = 0;
cudaError_t sticky = cudaSuccess;
HostStream defaultStream;
thread_local int currentDevice = 0;

size_t deviceBytes() { return size_t(numberIn("FPL_HOST_DEVICE_BYTES", int64_t(1) << 34)); }

cudaError_t enqueue(cudaStream_t stream, HostOperation operation) {
  HostStream& at = stream ? *stream : defaultStream;
  if (at.captured)
    at.captured->operations.push_back(std::move(operation));
  else
    operation();
  return sticky;
}

double now() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
  }
  return "unknown";
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
  }
  return "unknown";
}
cudaError_t cudaGetLastError() { return sticky; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = int(numberIn("FPL_HOST_DRIVER", CUDART_VERSION));
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  int driver;
  cudaDriverGetVersion(&driver);
  if (driver < CUDART_VERSION) return cudaErrorInsufficientDriver;
  *count = int(numberIn("FPL_HOST_DEVICES", 1));
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  snprintf(properties->name, sizeof properties->name, "host");
  properties->major = 9;
  properties->multiProcessorCount = 2;
  properties->l2CacheSize = 1 << 20;
  properties->totalGlobalMem = deviceBytes();
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = currentDevice;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= numberIn("FPL_HOST_DEVICES", 1)) return cudaErrorInvalidDevice;
  currentDevice = device;
  return sticky;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (sticky) return sticky;
  const std::lock_guard<std::mutex> lock(mutex);
  if (allocated + bytes > deviceBytes()) return cudaErrorMemoryAllocation;
  // As aligned as on a device; garbage, as on a device.
  *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!*memory) return cudaErrorMemoryAllocation;
  memset(*memory, 0xff, bytes);
  allocations[*memory] = bytes;
  allocated += bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = allocations.find(memory);
  if (found == allocations.end()) return memory ? cudaErrorInvalidValue : sticky;
  allocated -= found->second;
  allocations.erase(found);
  free(memory);
  return sticky;
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  *memory = malloc(bytes);
  return *memory ? sticky : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void* memory) {
  free(memory);
  return sticky;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard<std::mutex> lock(mutex);
  *total = deviceBytes();
  *free = *total - allocated;
  return sticky;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return enqueue(stream, [=] { memmove(to, from, bytes); });
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  return enqueue(stream, [=] { memset(memory, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new HostStream;
  return sticky;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return sticky;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return sticky; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return sticky; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->captured) return cudaErrorInvalidValue;
  stream->captured = new HostGraph;
  return sticky;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->captured) return cudaErrorInvalidValue;
  *graph = stream->captured;
  stream->captured = nullptr;
  return sticky;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new HostGraph(*graph);
  return sticky;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  for (const HostOperation& operation : executable->operations) operation();
  return sticky;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return sticky;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return sticky;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new HostEvent;
  return sticky;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return sticky;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return enqueue(stream, [=] { event->time = now(); });
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return sticky; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  *milliseconds = float(end->time - start->time);
  return sticky;
}

namespace fpl {
namespace cuda {
namespace host {

void launch(const char* stage, cudaStream_t stream, int64_t blocks, int threads, std::function<void()> kernel) {
  if (sticky) return;
  const char* fault = variable("FPL_HOST_FAULT");
  if (fault && strcmp(fault, stage) == 0) {
    sticky = cudaErrorIllegalAddress;
    return;
  }
  enqueue(stream, [=] { runGrid(blocks, threads, kernel); });
}

}  // namespace host
}  // namespace cuda
}  // namespace fpl
