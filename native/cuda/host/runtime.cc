#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "access.h"

using namespace fpl::cuda::host;

namespace {

// What has ended when something begins: the work of each queue up to a position, by the queue's number.
using Past = std::map<uint64_t, uint64_t>;

void add(Past& past, const Past& more) {
  for (const auto& [queue, position] : more) past[queue] = std::max(past[queue], position);
}
bool holds(const Past& past, uint64_t queue, uint64_t position) {
  const auto found = past.find(queue);
  return found != past.end() && found->second >= position;
}

// Work in its place among all other.
struct Placed {
  Work work;
  uint64_t queue, position;
  Past past;
};

// The work of a stream that nobody has waited for yet.
struct Queue : std::enable_shared_from_this<Queue> {
  Queue(int device, uint64_t number) : device(device), number(number) {}

  const int device;
  const uint64_t number;  // that no other has had
  std::deque<Placed> waiting;
  uint64_t enqueued = 0, done = 0;
  Past past;  // of its next work, but for its own
  Past end() const {
    Past all = past;
    all[number] = enqueued;
    return all;
  }
};

}  // namespace

struct HostGraph {
  std::vector<Work> operations;
  bool invalid = false;
  uint64_t capture = 0;             // the number of the capture that it is made by
  std::thread::id thread;           // that has begun it
  std::vector<HostStream*> joined;  // streams that have waited for an event of the capture
};
struct HostStream {
  std::shared_ptr<Queue> queue;
  HostGraph* captured = nullptr;
  // Of one that has joined a capture: the work that it has put there, and how much of it others have waited for.
  bool hasJoined = false;
  size_t captures = 0, awaited = 0;
};
namespace fpl {
namespace cuda {
namespace host {

int64_t numberIn(const char* name, int64_t otherwise) {
  const char* value = getenv(name);
  return value && *value ? atoll(value) : otherwise;
}

}  // namespace host
}  // namespace cuda
}  // namespace fpl

using fpl::cuda::host::numberIn;

// Memory that is taken and given back in the order of streams.
struct HostPool {
  int device;
  size_t used = 0, held = 0, threshold = 0;  // bytes: taken, of the device's, and to be kept of them
};
struct HostEvent {
  explicit HostEvent(int itsDevice) : device(itsDevice) {}

  int device;
  // Records that wait in a stream may outlive the event.
  std::shared_ptr<double> time = std::make_shared<double>(0);
  // Where it was last recorded, but for graphs.
  std::shared_ptr<Queue> queue;
  uint64_t position = 0;
  Past past;
  // Where it was last recorded in a capture: the number of that, the stream, and the work before it there.
  uint64_t capture = 0;
  size_t captures = 0;
  HostStream* capturing = nullptr;
};

namespace {

const char* variable(const char* name) {
  const char* value = getenv(name);
  return value && *value ? value : nullptr;
}

// Adds a line to the file that the variable names.
void note(const char* name, const char* line) {
  const char* path = variable(name);
  FILE* file = path ? fopen(path, "a") : nullptr;
  if (!file) return;
  fprintf(file, "%s\n", line);
  fclose(file);
}

// Whoever has waited longest is next: a thread that always comes back at once would keep all others out, and with them
// what they would do at the wrong moment. May be locked again by its owner, as work may wait for that of another
// stream.
class FairMutex {
 public:
  void lock() {
    std::unique_lock<std::mutex> own(mutex_);
    if (owner_ == std::this_thread::get_id()) {
      ++depth_;
      return;
    }
    const uint64_t ticket = next_++;
    turn_.wait(own, [&] { return serving_ == ticket; });
    owner_ = std::this_thread::get_id();
  }
  void unlock() {
    const std::lock_guard<std::mutex> own(mutex_);
    if (depth_ > 0) {
      --depth_;
      return;
    }
    owner_ = {};
    ++serving_;
    turn_.notify_all();
  }
  // Lets others have their turn, unless the owner has locked it more than once.
  void pause() {
    const bool once = depth_ == 0;
    if (once) unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    if (once) lock();
  }

 private:
  std::mutex mutex_;
  std::condition_variable turn_;
  uint64_t next_ = 0, serving_ = 0;
  std::thread::id owner_;
  int depth_ = 0;
};

// Of everything below.
FairMutex mutex;
cudaError_t sticky = cudaSuccess;
// Streams, events and graphs; as no pointers, so that LeakSanitizer sees those that nobody has destroyed.
std::set<uintptr_t> live;
std::set<Queue*> queues;
Past awaited;                   // by the host
const Placed* doing = nullptr;  // the work that is being done

// Of an allocation of a pool.
struct Pooled {
  HostPool* pool;
  size_t bytes;
  Past taken;  // that it was
  bool isGiven = false;
  Past given;  // what was to end before that
  Past uses;   // the last of each queue
};
std::map<const void*, Pooled> pooled;  // by their beginnings
std::set<HostPool*> pools;
std::map<int, HostStream> defaultStreams;
std::vector<HostStream*> captures;             // that are in progress, by the streams they have begun on
std::set<std::pair<int, const void*>> loaded;  // kernels, on a device

thread_local int currentDevice = 0;
thread_local bool contextIsCurrent = false;
thread_local cudaError_t lastError = cudaSuccess;

uintptr_t keyOf(const void* handle) { return ~reinterpret_cast<uintptr_t>(handle); }
bool isLive(const void* handle) { return live.count(keyOf(handle)) > 0; }

using Lock = std::lock_guard<FairMutex>;

std::set<int> inUse;  // devices that have a context

// Whether that call is the one that the environment wants to fail.
bool isToFail(const char* name) {
  static std::string asked;
  static int64_t left = 0;
  const char* value = variable("FPL_HOST_FAIL_CALL");
  if (asked != (value ? value : "")) {
    asked = value ? value : "";
    left = numberIn("FPL_HOST_FAIL_CALL", 0);
  }
  if (left == 0 || --left > 0) return false;
  note("FPL_HOST_FAILED", name);
  return true;
}

// A call of the runtime. What it must come to is `failure`, which is an error where the environment wants one: of what
// gives something back, which is done all the same, or else before anything is done.
struct Question {
  explicit Question(const char* name) : lock(mutex), failure(isToFail(name) ? cudaErrorUnknown : cudaSuccess) {}

  const Lock lock;
  const cudaError_t failure;
};

// One that needs a context: where none is current, one is made on device 0.
struct Call : Question {
  explicit Call(const char* name) : Question(name) { inUse.insert(contextIsCurrent ? currentDevice : 0); }
};

// Streams, events, graphs, pools and memory that somebody holds.
void noteHeld(int difference) { note("FPL_HOST_HELD", std::to_string(difference).c_str()); }

cudaError_t noted(cudaError_t status) {
  if (status == cudaSuccess) status = sticky;
  if (status != cudaSuccess) lastError = status;
  return status;
}

int deviceCount() { return int(numberIn("FPL_HOST_DEVICES", 1)); }
size_t deviceBytes() { return size_t(numberIn("FPL_HOST_DEVICE_BYTES", int64_t(1) << 34)); }

std::shared_ptr<Queue> makeQueue(int device) {
  static uint64_t number = 0;
  std::shared_ptr<Queue> made(new Queue(device, ++number), [](Queue* queue) {
    queues.erase(queue);
    delete queue;
  });
  queues.insert(made.get());
  return made;
}

HostStream* streamAt(cudaStream_t stream) {
  if (stream) return isLive(stream) ? stream : nullptr;
  HostStream& at = defaultStreams[currentDevice];
  if (!at.queue) at.queue = makeQueue(currentDevice);
  return &at;
}

// Goes on with the first work of a queue; false where that waits for another process.
bool advance(Queue& queue) {
  bool isDone = true;
  // It may wait for that of another queue.
  const Placed* const outer = std::exchange(doing, &queue.waiting.front());
  if (sticky == cudaSuccess && !survives([&] { isDone = queue.waiting.front().work(queue.device); })) {
    sticky = cudaErrorIllegalAddress;
  }
  doing = outer;
  if (!isDone) return false;
  queue.waiting.pop_front();
  ++queue.done;
  return true;
}

bool advanceTo(Queue& queue, uint64_t end) {
  while (queue.done < end) {
    if (!advance(queue)) return false;
  }
  return true;
}

void finish(Queue& queue, uint64_t end) {
  while (!advanceTo(queue, end)) mutex.pause();
}

// The host waits for all work of a stream.
void await(Queue& queue) {
  finish(queue, queue.enqueued);
  add(awaited, queue.end());
}

// One device may wait for another, and other threads may destroy streams meanwhile.
void finishAll() {
  std::vector<std::pair<std::shared_ptr<Queue>, uint64_t>> ends;
  for (Queue* queue : queues) ends.emplace_back(queue->shared_from_this(), queue->enqueued);
  for (bool done = false; !done;) {
    done = true;
    for (const auto& [queue, end] : ends) done = advanceTo(*queue, end) && done;
    if (!done) mutex.pause();
  }
  for (const auto& [queue, end] : ends) add(awaited, {{queue->number, end}});
}

void put(HostStream& stream, Work work) {
  if (stream.captured) {
    stream.captured->operations.push_back(std::move(work));
    ++stream.captures;
  } else {
    Queue& queue = *stream.queue;
    add(queue.past, awaited);
    const Past past = queue.end();
    queue.waiting.push_back({std::move(work), queue.number, ++queue.enqueued, past});
  }
}

cudaError_t enqueue(cudaStream_t stream, Work work) {
  const Lock lock(mutex);
  HostStream* at = streamAt(stream);
  if (!at) return noted(cudaErrorInvalidResourceHandle);
  if (sticky == cudaSuccess) put(*at, std::move(work));
  return noted(cudaSuccess);
}

// What a thread that captures may not do, and what comes of it.
cudaError_t refuseCapturing() {
  cudaError_t status = cudaSuccess;
  for (HostStream* stream : captures) {
    if (stream->captured->thread != std::this_thread::get_id()) continue;
    stream->captured->invalid = true;
    status = cudaErrorStreamCaptureUnsupported;
  }
  return status;
}

// Ends the capture that has begun on a stream. What others have put there, and nobody has waited for, is not joined.
HostGraph* endOfCapture(HostStream* stream, bool& isUnjoined) {
  captures.erase(std::find(captures.begin(), captures.end(), stream));
  HostGraph* captured = std::exchange(stream->captured, nullptr);
  isUnjoined = false;
  for (HostStream* other : captured->joined) {
    isUnjoined = isUnjoined || other->awaited < other->captures;
    other->captured = nullptr;
    other->hasJoined = false;
  }
  captured->joined.clear();
  return captured;
}

// Whether the work that is being done may use memory of a pool: it has been taken by then, and not yet given back.
bool isInOrder(const void* begin) {
  const auto found = pooled.find(begin);
  if (found == pooled.end() || !doing) return true;
  Pooled& memory = found->second;
  for (const auto& [queue, position] : memory.taken) {
    if (!holds(doing->past, queue, position)) return false;
  }
  if (memory.isGiven) return holds(memory.given, doing->queue, doing->position);
  add(memory.uses, {{doing->queue, doing->position}});
  return true;
}

// A pool that has a device's memory, or has given it back.
void hold(HostPool& pool, size_t bytes) {
  if (pool.held != bytes) note("FPL_HOST_POOL_BYTES", std::to_string(bytes).c_str());
  pool.held = bytes;
}

size_t takenBytes() {
  size_t bytes = allocatedBytes();
  for (const HostPool* pool : pools) bytes += pool->held - pool->used;
  return bytes;
}

double now() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename Handle>
cudaError_t made(Handle** out, Handle* handle) {
  live.insert(keyOf(handle));
  noteHeld(1);
  *out = handle;
  return noted(cudaSuccess);
}

template <typename Handle>
cudaError_t destroyed(Handle* handle, cudaError_t failure) {
  if (live.erase(keyOf(handle)) == 0) return noted(cudaErrorInvalidResourceHandle);
  delete handle;
  noteHeld(-1);
  return noted(failure);
}

template <typename T>
T* followed(const T* address, int device) {
  return reinterpret_cast<T*>(resolved(reinterpret_cast<uint64_t>(address), device));
}

void copyNow(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, int toDevice, int fromDevice) {
  if (kind != cudaMemcpyDeviceToDevice) {
    note("FPL_HOST_COPIES", std::to_string(bytes).c_str());
    std::this_thread::sleep_for(std::chrono::milliseconds(numberIn("FPL_HOST_COPY_MS", 0)));
  }
  if (kind != cudaMemcpyDeviceToHost) to = followed(static_cast<char*>(to), toDevice);
  if (kind != cudaMemcpyHostToDevice) from = followed(static_cast<const char*>(from), fromDevice);
  if (kind == cudaMemcpyDeviceToHost && numberIn("FPL_HOST_INITCHECK", 0) && isFresh(from, bytes)) {
    fprintf(stderr, "bytes are copied to the host that nobody has written\n");
    abort();
  }
  memmove(to, from, bytes);
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
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureUnjoined:
      return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorStreamCaptureIsolation:
      return "cudaErrorStreamCaptureIsolation";
    case cudaErrorStreamCaptureImplicit:
      return "cudaErrorStreamCaptureImplicit";
    case cudaErrorCapturedEvent:
      return "cudaErrorCapturedEvent";
    case cudaErrorUnknown:
      return "cudaErrorUnknown";
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
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnjoined:
      return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation:
      return "dependency created on uncaptured work in another stream";
    case cudaErrorStreamCaptureImplicit:
      return "dependency on a capturing stream through the default stream";
    case cudaErrorCapturedEvent:
      return "operation not permitted on an event last recorded in a capturing stream";
    case cudaErrorUnknown:
      return "unknown error";
  }
  return "unknown";
}
cudaError_t cudaGetLastError() {
  const Lock lock(mutex);
  const cudaError_t last = std::exchange(lastError, cudaSuccess);
  return sticky ? sticky : last;
}

constexpr int kMultiprocessors = 2, kCacheBytes = 1 << 18;

cudaError_t cudaDriverGetVersion(int* version) {
  *version = int(numberIn("FPL_HOST_DRIVER", CUDART_VERSION));
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  const Question call(__func__);
  if (call.failure) return noted(call.failure);
  int driver;
  cudaDriverGetVersion(&driver);
  if (driver < CUDART_VERSION) return noted(cudaErrorInsufficientDriver);
  *count = deviceCount();
  return noted(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const Question call(__func__);
  if (call.failure) return noted(call.failure);
  if (device < 0 || device >= deviceCount()) return noted(cudaErrorInvalidDevice);
  if (attribute == cudaDevAttrMemoryPoolsSupported) {
    *value = int(numberIn("FPL_HOST_POOLS", 1));
    return noted(cudaSuccess);
  }
  if (attribute == cudaDevAttrMultiProcessorCount || attribute == cudaDevAttrL2CacheSize) {
    *value = attribute == cudaDevAttrL2CacheSize ? kCacheBytes : kMultiprocessors;
    return noted(cudaSuccess);
  }
  // The entry of that number, or the last one.
  const char* list = variable("FPL_HOST_CAPABILITY");
  const char* entry = list ? list : "9.0";
  for (int i = 0; i < device && strchr(entry, ','); ++i) entry = strchr(entry, ',') + 1;
  int major = 0, minor = 0;
  sscanf(entry, "%d.%d", &major, &minor);
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? major : minor;
  return noted(cudaSuccess);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = {};
  snprintf(properties->name, sizeof properties->name, "host");
  properties->multiProcessorCount = kMultiprocessors;
  properties->l2CacheSize = kCacheBytes;
  properties->totalGlobalMem = deviceBytes();
  const cudaError_t status = cudaDeviceGetAttribute(&properties->major, cudaDevAttrComputeCapabilityMajor, device);
  return status ? status : cudaDeviceGetAttribute(&properties->minor, cudaDevAttrComputeCapabilityMinor, device);
}
cudaError_t cudaGetDevice(int* device) {
  const Question call(__func__);
  if (call.failure) return noted(call.failure);
  *device = currentDevice;
  return noted(cudaSuccess);
}
cudaError_t cudaSetDevice(int device) {
  const Question call(__func__);
  if (call.failure) return noted(call.failure);
  if (device < 0 || device >= deviceCount()) return noted(cudaErrorInvalidDevice);
  currentDevice = device;
  contextIsCurrent = true;
  return noted(cudaSuccess);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  const Place place = placeOf(memory);
  // The end of an allocation is none of it.
  const Place::Kind kind = place.left > 0 ? place.kind : Place::kNowhere;
  attributes->type = kind == Place::kDevice   ? cudaMemoryTypeDevice
                     : kind == Place::kPinned ? cudaMemoryTypeHost
                                              : cudaMemoryTypeUnregistered;
  attributes->device = place.device;
  void* const address = const_cast<void*>(memory);
  attributes->devicePointer = kind == Place::kDevice || kind == Place::kPinned ? address : nullptr;
  attributes->hostPointer = kind == Place::kDevice ? nullptr : address;
  return noted(cudaSuccess);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  loaded.insert({currentDevice, kernel});
  cudaDeviceProp properties;
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, currentDevice)) return status;
  attributes->ptxVersion = 10 * properties.major + properties.minor;
  return noted(cudaSuccess);
}

namespace {
// The context of a device is its number plus one.
int currentContext(void** context) {
  *context = contextIsCurrent ? reinterpret_cast<void*>(uintptr_t(currentDevice) + 1) : nullptr;
  return 0;
}
int primaryState(int device, unsigned*, int* active) {
  const Lock lock(mutex);
  *active = inUse.count(device) > 0;
  return 0;
}
int makeCurrent(void* context) {
  contextIsCurrent = context != nullptr;
  if (context) currentDevice = int(reinterpret_cast<uintptr_t>(context)) - 1;
  return 0;
}
}  // namespace
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const std::pair<const char*, void*> known[] = {
      {"cuCtxGetCurrent", reinterpret_cast<void*>(currentContext)},
      {"cuCtxSetCurrent", reinterpret_cast<void*>(makeCurrent)},
      {"cuDevicePrimaryCtxGetState", reinterpret_cast<void*>(primaryState)},
  };
  *function = nullptr;
  for (const auto& [name, entry] : known) {
    if (strcmp(symbol, name) == 0) *function = entry;
  }
  *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  if (const cudaError_t status = refuseCapturing()) return noted(status);
  finishAll();
  if (sticky) return noted(sticky);
  if (takenBytes() + bytes > deviceBytes()) return noted(cudaErrorMemoryAllocation);
  *memory = allocate(currentDevice, bytes);
  if (!*memory) return noted(cudaErrorMemoryAllocation);
  noteHeld(1);
  return noted(cudaSuccess);
}
cudaError_t cudaFree(void* memory) {
  const Call call(__func__);
  if (!memory) return noted(cudaSuccess);
  if (const cudaError_t status = refuseCapturing()) return noted(status);
  finishAll();
  if (pooled.count(memory) || release(memory) == 0) return noted(cudaErrorInvalidValue);
  noteHeld(-1);
  return noted(call.failure);
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  const bool isKnown = numberIn("FPL_HOST_POOLS", 1) && properties->allocType == cudaMemAllocationTypePinned &&
                       properties->location.type == cudaMemLocationTypeDevice &&
                       properties->location.id < deviceCount();
  if (!isKnown) return noted(cudaErrorInvalidValue);
  HostPool* const made = new HostPool{properties->location.id};
  pools.insert(made);
  noteHeld(1);
  *pool = made;
  return noted(cudaSuccess);
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  const Call call(__func__);
  if (pools.erase(pool) == 0) return noted(cudaErrorInvalidValue);
  if (pool->used > 0) sticky = cudaErrorIllegalAddress;
  delete pool;
  noteHeld(-1);
  return noted(call.failure);
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  if (attribute == cudaMemPoolAttrReleaseThreshold) pool->threshold = size_t(*static_cast<uint64_t*>(value));
  return noted(cudaSuccess);
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  hold(*pool, std::max(pool->used, std::min(pool->held, bytes)));
  return noted(cudaSuccess);
}
cudaError_t cudaMallocFromPoolAsync(void** memory, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  if (const cudaError_t status = refuseCapturing()) return noted(status);
  HostStream* at = streamAt(stream);
  if (!at || at->queue->device != pool->device) return noted(cudaErrorInvalidResourceHandle);
  if (sticky) return noted(sticky);
  const size_t more = pool->used + bytes - std::min(pool->held, pool->used + bytes);
  if (takenBytes() + more > deviceBytes()) return noted(cudaErrorMemoryAllocation);
  *memory = allocate(pool->device, bytes);
  if (!*memory) return noted(cudaErrorMemoryAllocation);
  noteHeld(1);
  pool->used += bytes;
  hold(*pool, pool->held + more);
  mayUse = isInOrder;
  put(*at, [](int) {});
  pooled[*memory] = {pool, bytes, {{at->queue->number, at->queue->enqueued}}, false, {}, {}};
  return noted(cudaSuccess);
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  const Call call(__func__);
  HostStream* at = streamAt(stream);
  const auto found = pooled.find(memory);
  if (!at) return noted(cudaErrorInvalidResourceHandle);
  if (found == pooled.end() || found->second.isGiven) return noted(cudaErrorInvalidValue);
  if (at->captured) {
    at->captured->invalid = true;
    return noted(cudaErrorStreamCaptureUnsupported);
  }
  Pooled& gone = found->second;
  put(*at, [memory](int) {
    const auto found = pooled.find(memory);
    const auto [pool, bytes] = std::pair(found->second.pool, found->second.bytes);
    pooled.erase(found);
    release(memory);
    pool->used -= bytes;
    hold(*pool, std::min(pool->held, std::max(pool->used, pool->threshold)));
  });
  noteHeld(-1);
  gone.isGiven = true;
  gone.given = at->queue->waiting.back().past;
  // Work that is not in order with that may be done later, on memory that has become somebody else's.
  for (const auto& [queue, position] : gone.uses) {
    if (!holds(gone.given, queue, position)) sticky = cudaErrorIllegalAddress;
  }
  return noted(call.failure);
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  if (const cudaError_t status = refuseCapturing()) return noted(status);
  finishAll();
  if (bytes > size_t(numberIn("FPL_HOST_PINNED_BYTES", INT64_MAX))) return noted(cudaErrorMemoryAllocation);
  *memory = allocatePinned(bytes);
  if (!*memory) return noted(cudaErrorMemoryAllocation);
  noteHeld(1);
  return noted(cudaSuccess);
}
cudaError_t cudaFreeHost(void* memory) {
  const Call call(__func__);
  if (const cudaError_t status = refuseCapturing()) return noted(status);
  finishAll();
  if (!releasePinned(memory)) return noted(cudaErrorInvalidValue);
  noteHeld(-1);
  return noted(call.failure);
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  *total = deviceBytes();
  *free = *total - takenBytes();
  return noted(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  if (sticky) return noted(sticky);
  HostStream* at = streamAt(stream);
  if (!at) return noted(cudaErrorInvalidResourceHandle);
  if (bytes == 0) return noted(cudaSuccess);
  const Place source = placeOf(from), target = placeOf(to);
  const auto fits = [&](const Place& place, bool onDevice) {
    if (place.kind == Place::kHost) return !onDevice;
    return place.kind == (onDevice ? Place::kDevice : Place::kPinned) && place.left >= bytes;
  };
  if (!fits(source, kind != cudaMemcpyHostToDevice) || !fits(target, kind != cudaMemcpyDeviceToHost)) {
    return noted(cudaErrorInvalidValue);
  }
  const int toDevice = target.device, fromDevice = source.device;
  if (source.kind != Place::kHost && target.kind != Place::kHost) {
    put(*at, [=](int) { copyNow(to, from, bytes, kind, toDevice, fromDevice); });
    return noted(cudaSuccess);
  }
  // Memory that is not pinned: the host's is done with when the call returns.
  if (at->captured) {
    at->captured->invalid = true;
    return noted(cudaErrorStreamCaptureUnsupported);
  }
  if (source.kind == Place::kHost) {
    const char* first = static_cast<const char*>(from);
    put(*at, [=, staged = std::make_shared<std::vector<char>>(first, first + bytes)](int) {
      copyNow(to, staged->data(), bytes, kind, toDevice, fromDevice);
    });
  } else {
    put(*at, [=](int) { copyNow(to, from, bytes, kind, toDevice, fromDevice); });
    await(*at->queue);
  }
  return noted(cudaSuccess);
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  const Question call(__func__);
  if (call.failure) return noted(call.failure);
  const Place place = placeOf(memory);
  if (place.kind != Place::kDevice || place.left < bytes) return noted(cudaErrorInvalidValue);
  return enqueue(stream, [=](int) { memset(followed(static_cast<char*>(memory), place.device), value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  return made(stream, new HostStream{makeQueue(currentDevice), nullptr});
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Call call(__func__);
  if (isLive(stream)) {
    finish(*stream->queue, stream->queue->enqueued);
    if (stream->hasJoined) {
      // What it has put there, and nobody has waited for, is not joined.
      if (stream->awaited < stream->captures) stream->captured->invalid = true;
      std::vector<HostStream*>& joined = stream->captured->joined;
      joined.erase(std::find(joined.begin(), joined.end(), stream));
    } else if (stream->captured) {
      bool isUnjoined;
      delete endOfCapture(stream, isUnjoined);
    }
  }
  return destroyed(stream, call.failure);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  HostStream* at = streamAt(stream);
  if (!at) return noted(cudaErrorInvalidResourceHandle);
  if (at->captured) {
    at->captured->invalid = true;
    return noted(cudaErrorStreamCaptureUnsupported);
  }
  await(*at->queue);
  return noted(cudaSuccess);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  HostStream* at = streamAt(stream);
  if (!at) return noted(cudaErrorInvalidResourceHandle);
  if (at->captured) {
    at->captured->invalid = true;
    return noted(cudaErrorStreamCaptureUnsupported);
  }
  if (!advanceTo(*at->queue, at->queue->enqueued)) return noted(cudaErrorNotReady);
  await(*at->queue);
  return noted(cudaSuccess);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  HostStream* at = streamAt(stream);
  if (!at || !isLive(event)) return noted(cudaErrorInvalidResourceHandle);
  if (at->captured && at->captured->capture != event->capture) {
    at->captured->invalid = true;
    return noted(cudaErrorStreamCaptureIsolation);
  }
  if (event->capture) {
    HostStream* origin = nullptr;
    for (HostStream* begun : captures) {
      if (begun->captured->capture == event->capture) origin = begun;
    }
    const bool isOwn = origin && origin->captured->thread == std::this_thread::get_id();
    if (!isOwn) return noted(cudaErrorCapturedEvent);
    if (isLive(event->capturing)) event->capturing->awaited = std::max(event->capturing->awaited, event->captures);
    if (at->captured) return noted(cudaSuccess);
    at->captured = origin->captured;
    at->hasJoined = true;
    at->captures = at->awaited = 0;
    at->captured->joined.push_back(at);
    return noted(cudaSuccess);
  }
  add(at->queue->past, event->past);
  return enqueue(stream, [queue = event->queue, position = event->position](int) {
    return !queue || advanceTo(*queue, position);
  });
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  HostStream* at = streamAt(stream);
  if (!at) return noted(cudaErrorInvalidResourceHandle);
  *status = !at->captured           ? cudaStreamCaptureStatusNone
            : at->captured->invalid ? cudaStreamCaptureStatusInvalidated
                                    : cudaStreamCaptureStatusActive;
  return noted(cudaSuccess);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  if (!stream) return noted(cudaErrorStreamCaptureUnsupported);
  if (!isLive(stream)) return noted(cudaErrorInvalidResourceHandle);
  if (stream->captured) return noted(cudaErrorInvalidValue);
  static uint64_t number = 0;
  stream->captured = new HostGraph;
  stream->captured->capture = ++number;
  stream->captured->thread = std::this_thread::get_id();
  captures.push_back(stream);
  return noted(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Call call(__func__);
  if (!isLive(stream) || !stream->captured || stream->hasJoined) return noted(cudaErrorInvalidValue);
  bool isUnjoined;
  HostGraph* captured = endOfCapture(stream, isUnjoined);
  if (!captured->invalid && !isUnjoined && !call.failure) return made(graph, captured);
  const cudaError_t status = call.failure        ? call.failure
                             : captured->invalid ? cudaErrorStreamCaptureInvalidated
                                                 : cudaErrorStreamCaptureUnjoined;
  delete captured;
  *graph = nullptr;
  return noted(status);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  if (!isLive(graph)) return noted(cudaErrorInvalidResourceHandle);
  return made(executable, new HostGraph(*graph));
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  if (!isLive(executable)) return noted(cudaErrorInvalidResourceHandle);
  // A graph that is destroyed while it runs runs to its end.
  cudaError_t status = cudaSuccess;
  for (const Work& operation : executable->operations) {
    if (status == cudaSuccess) status = enqueue(stream, operation);
  }
  return status;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const Call call(__func__);
  return destroyed(executable, call.failure);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Call call(__func__);
  return destroyed(graph, call.failure);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  return made(event, new HostEvent(currentDevice));
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Call call(__func__);
  return destroyed(event, call.failure);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  HostStream* at = streamAt(stream);
  if (!at || !isLive(event) || event->device != at->queue->device) return noted(cudaErrorInvalidResourceHandle);
  put(*at, [time = event->time](int) { *time = now(); });
  event->capture = at->captured ? at->captured->capture : 0;
  event->captures = at->captures;
  event->capturing = at;
  event->queue = event->capture ? nullptr : at->queue;
  event->position = at->queue->enqueued;
  event->past = event->capture ? Past() : at->queue->end();
  return noted(cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  if (!isLive(event)) return noted(cudaErrorInvalidResourceHandle);
  if (event->queue) finish(*event->queue, event->position);
  if (event->capture) finishAll();
  add(awaited, event->past);
  return noted(cudaSuccess);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  if (const cudaError_t status = refuseCapturing()) return noted(status);
  if (!isLive(event)) return noted(cudaErrorInvalidResourceHandle);
  if (event->queue && event->queue->done < event->position) return noted(cudaErrorNotReady);
  add(awaited, event->past);
  return noted(cudaSuccess);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Call call(__func__);
  if (call.failure) return noted(call.failure);
  for (const cudaEvent_t event : {start, end}) {
    if (!isLive(event)) return noted(cudaErrorInvalidResourceHandle);
    if (*event->time == 0) return noted(cudaErrorInvalidResourceHandle);  // never recorded
    if (event->queue && event->queue->done < event->position) return noted(cudaErrorNotReady);
  }
  *milliseconds = float(*end->time - *start->time);
  return noted(cudaSuccess);
}

namespace fpl {
namespace cuda {
namespace host {

Carrier carrier = nullptr;

void launch(const char* stage, const void* identity, cudaStream_t stream, int64_t blocks, int threads, Kernel kernel) {
  const Call call(stage);
  if (call.failure) {
    noted(call.failure);
    return;
  }
  HostStream* at = streamAt(stream);
  if (!at || at->queue->device != currentDevice) {
    noted(cudaErrorInvalidResourceHandle);
    return;
  }
  if (loaded.insert({currentDevice, identity}).second && at->captured) {
    // Loading it may wait for the device.
    at->captured->invalid = true;
    noted(cudaErrorStreamCaptureUnsupported);
    return;
  }
  if (blocks < 1) {
    noted(cudaErrorInvalidValue);
    return;
  }
  const char* fault = variable("FPL_HOST_FAULT");
  if (fault && strcmp(fault, stage) == 0) sticky = cudaErrorIllegalAddress;
  enqueue(stream, [=](int device) {
    note("FPL_HOST_LAUNCHES", stage);
    if (carrier) return carrier(kernel, blocks, threads, device);
    runGrid(blocks, threads, kernel.threads(device));
  });
}

namespace {
bool isInUse(int device) {
  const Lock lock(mutex);
  return inUse.count(device) > 0;
}
void synchronize() {
  const Lock lock(mutex);
  finishAll();
}
bool isFailing(const char* name) { return Question(name).failure != cudaSuccess; }
constexpr Access kAccess = {enqueue, synchronize, resolved, currentContext, makeCurrent, isInUse, isFailing};
}  // namespace

}  // namespace host
}  // namespace cuda
}  // namespace fpl

extern "C" __attribute__((visibility("default"))) const Access* fusedPreferenceLossHostAccess() { return &kAccess; }
