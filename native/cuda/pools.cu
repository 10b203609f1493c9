#include "pools.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

namespace fpl {
namespace cuda {
namespace {

constexpr const char* kOpening = "opening a pool of device memory";
constexpr const char* kReleasing = "releasing device memory";

}  // namespace

struct Pool {
  // Pinned memory that was given back, which may still be copied to until `free`.
  struct IdlePinned {
    char* data;
    cudaEvent_t free;
  };

  // Null: the device has none, and its memory is taken and given back while everything waits.
  cudaMemPool_t memory = nullptr;
  // Has no work, so that what is taken on it is there at once.
  Stream taking = nullptr;
  // Waits for whatever may use what is given back on it.
  Stream giving = nullptr;
  cudaEvent_t reached = nullptr;
  std::mutex mutex;
  std::multimap<size_t, IdlePinned> pinned;  // by their bytes
  // Bytes by their beginnings: of what is taken, and of what was given back and is not somebody else's yet.
  std::map<uintptr_t, size_t> taken, given;

  Pool() = default;
  Pool(const Pool&) = delete;
  // Of one that could not be opened: the others stay.
  ~Pool() {
    if (memory) ignore(cudaMemPoolDestroy(memory));
    if (reached) ignore(cudaEventDestroy(reached));
    if (giving) ignore(cudaStreamDestroy(giving));
    if (taking) ignore(cudaStreamDestroy(taking));
  }

  // On its device, which is current. Throws.
  void open(int device) {
    int supported = 0;
    check(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, device), kOpening);
    if (!supported) return;
    check(cudaStreamCreateWithFlags(&taking, cudaStreamNonBlocking), kOpening);
    check(cudaStreamCreateWithFlags(&giving, cudaStreamNonBlocking), kOpening);
    check(cudaEventCreateWithFlags(&reached, cudaEventDisableTiming), kOpening);
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    check(cudaMemPoolCreate(&memory, &properties), kOpening);
    uint64_t kept = UINT64_MAX;
    check(cudaMemPoolSetAttribute(memory, cudaMemPoolAttrReleaseThreshold, &kept), kOpening);
    // What is taken is there at once, or is other memory: it is not waited for.
    int waits = 0;
    check(cudaMemPoolSetAttribute(memory, cudaMemPoolReuseAllowInternalDependencies, &waits), kOpening);
  }

  // What is given back from now on is so when what the stream has by now has ended. A graph keeps what it uses.
  void follow(Stream stream) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaError_t status = cudaStreamIsCapturing(stream, &capture);
    // Implicit: the default stream, while a stream is captured that it waits for.
    if (status == cudaErrorStreamCaptureImplicit || capture != cudaStreamCaptureStatusNone) return ignore(status);
    const std::lock_guard<std::mutex> lock(mutex);
    if (status == cudaSuccess) status = cudaEventRecord(reached, stream);
    if (status == cudaSuccess) status = cudaStreamWaitEvent(giving, reached, 0);
    if (status == cudaSuccess) return;
    ignore(status);
    ignore(cudaStreamSynchronize(stream));  // the host waits in its place
  }

  cudaError_t take(char** data, size_t bytes) {
    void* found = nullptr;
    cudaError_t status = memory ? cudaMallocFromPoolAsync(&found, bytes, memory, taking) : cudaMalloc(&found, bytes);
    if (status != cudaSuccess) return status;
    if (memory) {
      status = cudaStreamSynchronize(taking);
      if (status != cudaSuccess) {
        ignore(cudaFreeAsync(found, taking));
        return status;
      }
      noteTaken(reinterpret_cast<uintptr_t>(found), bytes);
    }
    *data = static_cast<char*>(found);
    return cudaSuccess;
  }

  void give(void* data) {
    follow(nullptr);
    noteGiven(reinterpret_cast<uintptr_t>(data));
    check(cudaFreeAsync(data, giving), kReleasing);
  }

  void noteTaken(uintptr_t begin, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (auto at = given.lower_bound(begin); at != given.end() && at->first < begin + bytes;) at = given.erase(at);
    if (const auto before = holding(begin); before != given.end()) given.erase(before);
    taken[begin] = bytes;
  }

  void noteGiven(uintptr_t begin) {
    const std::lock_guard<std::mutex> lock(mutex);
    given.insert(taken.extract(begin));
  }

  bool hasTaken(uintptr_t begin) {
    const std::lock_guard<std::mutex> lock(mutex);
    return taken.count(begin) > 0;
  }

  bool wasGiven(uintptr_t address) {
    const std::lock_guard<std::mutex> lock(mutex);
    return holding(address) != given.end();
  }

  // What was given back that has this address.
  std::map<uintptr_t, size_t>::iterator holding(uintptr_t address) {
    auto found = given.upper_bound(address);
    if (found == given.begin()) return given.end();
    --found;
    return address < found->first + found->second ? found : given.end();
  }

  cudaError_t takePinned(char** data, size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      const auto [first, end] = pinned.equal_range(bytes);
      const auto idle = std::find_if(first, end, [](const auto& entry) {
        const cudaError_t status = cudaEventQuery(entry.second.free);
        ignore(status);
        return status == cudaSuccess;
      });
      if (idle != end) {
        *data = idle->second.data;
        ignore(cudaEventDestroy(idle->second.free));
        pinned.erase(idle);
        return cudaSuccess;
      }
    }
    void* found = nullptr;
    const cudaError_t status = cudaMallocHost(&found, bytes);
    *data = static_cast<char*>(found);
    return status;
  }

  // Whether it keeps it.
  bool givePinned(char* data, size_t bytes) {
    if (!memory) return false;
    cudaEvent_t free = nullptr;
    cudaError_t status = cudaEventCreateWithFlags(&free, cudaEventDisableTiming);
    if (status == cudaSuccess) status = cudaEventRecord(free, giving);
    ignore(status);
    if (status != cudaSuccess) {
      if (free) ignore(cudaEventDestroy(free));
      return false;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    pinned.insert({bytes, {data, free}});
    return true;
  }

  void trim() {
    if (!memory) return;
    check(cudaStreamSynchronize(giving), "giving memory back");
    check(cudaMemPoolTrimTo(memory, 0), "giving memory back");
    const std::lock_guard<std::mutex> lock(mutex);
    given.clear();  // others may have it by now
    for (const auto& [bytes, idle] : pinned) {
      ignore(cudaEventDestroy(idle.free));
      ignore(cudaFreeHost(idle.data));
    }
    pinned.clear();
  }
};

namespace {

// By their devices. They stay until the process ends, and longer than whatever ends with it.
struct Pools {
  std::mutex mutex;
  std::map<int, std::unique_ptr<Pool>> of;
};
Pools& pools() {
  static Pools& all = *new Pools;
  return all;
}

// That of the current device.
Pool& pool() {
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current device");
  const std::lock_guard<std::mutex> lock(pools().mutex);
  std::unique_ptr<Pool>& found = pools().of[device];
  if (!found) {
    auto made = std::make_unique<Pool>();
    made->open(device);
    found = std::move(made);
  }
  return *found;
}

// The pool that memory was taken from, whichever device is current; null where a device has none.
Pool* poolOf(const void* memory) {
  const std::lock_guard<std::mutex> lock(pools().mutex);
  for (const auto& [device, pool] : pools().of) {
    if (pool && pool->hasTaken(reinterpret_cast<uintptr_t>(memory))) return pool.get();
  }
  return nullptr;
}

// Takes memory, once more when there was no room and what is kept has been given back.
template <typename Take>
cudaError_t takeWithRoom(const Take& take) {
  if (!capturing().empty()) return cudaErrorStreamCaptureUnsupported;
  cudaError_t status = take();
  if (status != cudaErrorMemoryAllocation) return status;
  cudaGetLastError();  // running out of memory is not an error of later calls
  pool().trim();
  status = take();
  ignore(status);
  return status;
}

// Few sizes, so that what one has given back serves another: eight to each power of two.
size_t pinnedSize(size_t bytes) {
  size_t step = 4096;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

}  // namespace

char* allocateOnDevice(size_t bytes, const std::string& purpose) {
  char* memory = nullptr;
  const cudaError_t status = takeWithRoom([&] { return pool().take(&memory, bytes); });
  if (status == cudaSuccess) return memory;
  size_t free = 0, total = 0;
  ignore(cudaMemGetInfo(&free, &total));
  fail(status, "allocating " + std::to_string(bytes) + " bytes of device memory for " + purpose + " (" +
                   std::to_string(free) + " of " + std::to_string(total) + " are free)");
}

void releaseOnDevice(void* memory) {
  if (Pool* const pool = poolOf(memory)) return pool->give(memory);
  check(cudaFree(memory), kReleasing);
}

bool isGivenBack(int device, const void* memory) {
  const std::lock_guard<std::mutex> lock(pools().mutex);
  const auto found = pools().of.find(device);
  return found != pools().of.end() && found->second && found->second->wasGiven(reinterpret_cast<uintptr_t>(memory));
}

void trimPool() { pool().trim(); }

StreamUse::StreamUse(Stream stream) : pool_(pool()), stream_(stream) {}
StreamUse::~StreamUse() {
  if (pool_.memory) pool_.follow(stream_);
}

std::set<Stream>& capturing() {
  static thread_local std::set<Stream> streams;
  return streams;
}

void OnDevice::release(char* memory, size_t) {
  try {
    releaseOnDevice(memory);
  } catch (const Error&) {
    cudaGetLastError();  // nobody is told
  }
}

void Pinned::release(char* memory, size_t bytes) {
  try {
    if (pool().givePinned(memory, bytes)) return;
  } catch (const Error&) {
    cudaGetLastError();
  }
  ignore(cudaFreeHost(memory));
}

DeviceMemory deviceMemory(size_t bytes, const std::string& purpose) {
  DeviceMemory memory(allocateOnDevice(bytes, purpose), bytes);
  const char* clear = getenv("FUSED_PREFERENCE_LOSS_CLEAR_MEMORY");
  if (clear && *clear) {
    check(cudaMemsetAsync(memory.data(), 0, bytes, nullptr), "clearing memory");
    check(cudaStreamSynchronize(nullptr), "clearing memory");
  }
  return memory;
}

PinnedMemory pinnedMemory(size_t bytes) {
  const size_t size = pinnedSize(bytes);
  char* memory = nullptr;
  const cudaError_t status = takeWithRoom([&] { return pool().takePinned(&memory, size); });
  if (status == cudaSuccess) return {memory, size};
  fail(status, "allocating " + std::to_string(size) + " bytes of pinned host memory");
}

}  // namespace cuda
}  // namespace fpl
