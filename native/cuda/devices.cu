#include "devices.h"

#include <mutex>
#include <set>

#include "launch.h"

namespace fpl {
namespace cuda {
namespace {

// Everything from the oldest of them on is served: by its own code, or by what the driver makes of an intermediate
// form.
#if defined(__CUDA_ARCH_LIST__)
constexpr int kCompiledFor[] = {__CUDA_ARCH_LIST__};
#else
constexpr int kCompiledFor[] = {750};
#endif

int oldest() {
  int found = kCompiledFor[0];
  for (const int architecture : kCompiledFor) found = architecture < found ? architecture : found;
  return found / 10;
}

std::string written(int capability) { return std::to_string(capability / 10) + "." + std::to_string(capability % 10); }

// Of the driver: what the runtime knows as the thread's device is no more than a number, and asking for device 0 where
// nobody has used it would make a context there.
struct Contexts {
  int (*current)(void** context) = nullptr;
  int (*makeCurrent)(void* context) = nullptr;
  int (*state)(int device, unsigned* flags, int* active) = nullptr;  // of a device's primary context

  Contexts() {
    current = reinterpret_cast<decltype(current)>(entry("cuCtxGetCurrent"));
    makeCurrent = reinterpret_cast<decltype(makeCurrent)>(entry("cuCtxSetCurrent"));
    state = reinterpret_cast<decltype(state)>(entry("cuDevicePrimaryCtxGetState"));
  }

  static void* entry(const char* name) {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t status = cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t status = cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found);
#endif
    ignore(status);
    return status == cudaSuccess && found == cudaDriverEntryPointSuccess ? function : nullptr;
  }
};

const Contexts& contexts() {
  static const Contexts found;
  return found;
}

}  // namespace

int capabilityOf(int device) {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking for a compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking for a compute capability");
  return 10 * major + minor;
}

bool isServed(int device, std::string& reason) {
  const int capability = capabilityOf(device);
  if (capability >= oldest()) return true;
  reason = "GPU " + std::to_string(device) + " has compute capability " + written(capability) + "; this build needs " +
           written(oldest()) + " or newer";
  return false;
}

void requireServed(int device) {
  std::string reason;
  if (!isServed(device, reason)) throw Error{reason};
}

namespace {

int attributeOfCurrent(cudaDeviceAttr attribute, const char* doing) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  check(cudaDeviceGetAttribute(&value, attribute, device), doing);
  return value;
}

}  // namespace

int multiprocessors() { return attributeOfCurrent(cudaDevAttrMultiProcessorCount, "asking for multiprocessors"); }
int64_t cacheBytes() { return attributeOfCurrent(cudaDevAttrL2CacheSize, "asking for the cache's size"); }

std::vector<const void*>& kernels() {
  static std::vector<const void*> list;
  return list;
}

Tuning currentTuning() {
  // All are compiled for the same.
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernels().front()), "asking for the kernels' architecture");
  return tuningFor(attributes.ptxVersion);
}

void loadKernels(int device) {
  static std::mutex mutex;
  static std::set<int> done;
  const std::lock_guard<std::mutex> lock(mutex);
  if (done.count(device)) return;
  const CurrentDevice current(device, "loading kernels");
  for (const void* kernel : kernels()) {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, kernel), "loading kernels");
  }
  done.insert(device);
}

int deviceInUse() {
  const Contexts& driver = contexts();
  void* context = nullptr;
  const bool known = driver.current && driver.state && driver.current(&context) == 0;
  if (!known || context) return kAnyDevice;
  int count = 0;
  check(cudaGetDeviceCount(&count), "looking for a device in use");
  for (int device = 0; device < count; ++device) {
    unsigned flags = 0;
    int active = 0;
    if (driver.state(device, &flags, &active) == 0 && active) return device;
  }
  return kNoDevice;
}

CurrentDevice::CurrentDevice(int device, const char* doing) {
  if (device == kAnyDevice) return;
  const Contexts& driver = contexts();
  restores_ = driver.current && driver.makeCurrent && driver.current(&before_) == 0;
  check(cudaSetDevice(device), doing);
}

CurrentDevice::~CurrentDevice() {
  if (restores_) contexts().makeCurrent(before_);
}

}  // namespace cuda
}  // namespace fpl
