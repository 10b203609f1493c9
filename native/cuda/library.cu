// The library's table of functions: every error of the CUDA runtime ends here, as a sentence.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "../core/float_environment.h"
#include "api.h"
#include "communicator.h"
#include "devices.h"
#include "plan.h"
#include "pools.h"

namespace fpl {
namespace cuda {
namespace {

void say(Problem* problem, const std::string& message, Origin origin = Origin::kCuda) {
  snprintf(problem->message, sizeof problem->message, "%s", message.c_str());
  problem->origin = origin;
}

// Runs `body`, on that device when one is given; false and the problem when it fails. What is computed on the way to
// the kernels is computed in one environment, as on the CPU.
template <typename Body>
bool guarded(Problem* problem, const char* doing, int32_t device, const Body& body) {
  const FloatEnvironment environment;
  try {
    const CurrentDevice current(device, doing);
    body();
    return true;
  } catch (const nccl::Failure& failure) {
    say(problem, failure.message, Origin::kNccl);
  } catch (const Error& error) {
    say(problem, error.message);
  } catch (const std::exception& error) {
    say(problem, error.what());
  }
  cudaGetLastError();  // it has been told, and is not an error of later calls
  return false;
}

// Of what gives something back: where its device cannot be made the thread's, that is done all the same.
template <typename Body>
bool givenBack(Problem* problem, const char* doing, int32_t device, const Body& body) {
  bool begun = false;
  const auto begins = [&] {
    begun = true;
    body();
  };
  return guarded(problem, doing, device, begins) || (!begun && guarded(problem, doing, kAnyDevice, body));
}

// The same, of which nobody is told that it failed.
template <typename Body>
void quietly(int32_t device, const Body& body) {
  Problem problem;
  givenBack(&problem, "giving memory back", device, body);
}

}  // namespace

// The workspaces that no call uses.
class IdleWorkspaces {
 public:
  ~IdleWorkspaces();

  // A new one where there is none for the device.
  std::unique_ptr<Workspace> take(int32_t device);
  void giveBack(int32_t device, std::unique_ptr<Workspace> workspace);
  // Gives back the memory of those of a device, which is current.
  void clear(int32_t device);

 private:
  struct Idle {
    int32_t device;
    std::unique_ptr<Workspace> workspace;
  };
  std::mutex mutex_;
  std::vector<Idle> idle_;
};

struct Context {
  std::shared_ptr<IdleWorkspaces> idle = std::make_shared<IdleWorkspaces>();
};

struct Prepared {
  const Job& job;
  int32_t device;
  std::unique_ptr<Workspace> workspace;
  std::unique_ptr<Plan> plan;
  // Where the workspace goes, until it runs; null: nowhere. It may outlive the context.
  std::shared_ptr<IdleWorkspaces> origin;
};

IdleWorkspaces::~IdleWorkspaces() {
  for (Idle& idle : idle_) quietly(idle.device, [&] { idle.workspace.reset(); });
}

std::unique_ptr<Workspace> IdleWorkspaces::take(int32_t device) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = 0; i < idle_.size(); ++i) {
    if (idle_[i].device != device) continue;
    std::unique_ptr<Workspace> workspace = std::move(idle_[i].workspace);
    idle_.erase(idle_.begin() + std::ptrdiff_t(i));
    return workspace;
  }
  return std::make_unique<Workspace>();
}

void IdleWorkspaces::giveBack(int32_t device, std::unique_ptr<Workspace> workspace) {
  const std::lock_guard<std::mutex> lock(mutex_);
  idle_.push_back({device, std::move(workspace)});
}

void IdleWorkspaces::clear(int32_t device) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto isOther = [&](const Idle& idle) { return idle.device != device; };
  idle_.erase(std::partition(idle_.begin(), idle_.end(), isOther), idle_.end());
}

namespace {

// A driver's version as people know it: CUDA 13.0 came with driver 580.
std::string driverProblem(int driver) {
  const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  if (driver == 0) return "no NVIDIA driver found";
  return "the NVIDIA driver supports CUDA " + version(driver) + ", older than this build needs (" +
         version(CUDART_VERSION) + (CUDART_VERSION >= 13000 ? ", driver 580 or newer)" : ", driver 525 or newer)");
}

bool deviceCount(int32_t* count, Problem* problem) {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  int found = 0;
  const cudaError_t status = cudaGetDeviceCount(&found);
  *count = found;
  if (status == cudaSuccess && found > 0) {
    std::string reason;
    bool isAny = false;
    const bool asked = guarded(problem, "asking for a compute capability", kAnyDevice, [&] {
      for (int device = 0; device < found && !isAny; ++device) isAny = isServed(device, reason);
    });
    if (asked && !isAny) say(problem, reason);
    return isAny;
  }
  cudaGetLastError();
  if (driver / 1000 < CUDART_VERSION / 1000)
    say(problem, driverProblem(driver));
  else if (status == cudaErrorNoDevice || status == cudaSuccess)
    say(problem, "no NVIDIA GPU found");
  else
    say(problem, std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status));
  return false;
}

bool deviceInfo(int32_t device, DeviceInfo* info, Problem* problem) {
  return guarded(problem, "asking for a device's properties", kAnyDevice, [&] {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, device), "asking for a device's properties");
    memcpy(info->name, properties.name, sizeof info->name);
    info->major = properties.major;
    info->minor = properties.minor;
    info->multiprocessors = properties.multiProcessorCount;
    info->memory = int64_t(properties.totalGlobalMem);
    info->l2Cache = properties.l2CacheSize;
  });
}

bool cublasLt(Problem* problem) {
  std::string reason;
  if (cublaslt::open(reason)) return true;
  say(problem, reason);
  return false;
}

Context* createContext() { return new Context; }

void destroyContext(Context* context) { delete context; }

// Runs the collectives of a job. Where this rank cannot go on, it ends those in which others wait for it and it for
// them.
template <typename Body>
void together(const Job& job, const Body& body) {
  try {
    body();
  } catch (...) {
    auto* const communicator = static_cast<Communicator*>(job.exchange.communicator);
    if (communicator) communicator->abort("a call has failed on this rank");
    throw;
  }
}

std::unique_ptr<Prepared> planned(Context* context, Job& job) {
  requireServed(job.device);
  // Not while a kernel waits for other ranks: loading waits for kernels.
  if (job.exchange.present()) loadKernels(job.device);
  const std::shared_ptr<IdleWorkspaces>& idle = context->idle;
  std::unique_ptr<Prepared> made(new Prepared{job, job.device, idle->take(job.device), nullptr, idle});
  made->plan = std::make_unique<Plan>(job, *made->workspace);
  made->plan->reserve();
  return made;
}

void giveBack(IdleWorkspaces& to, Prepared& prepared) {
  prepared.plan.reset();
  to.giveBack(prepared.device, std::move(prepared.workspace));
}

bool runPlanned(Prepared& prepared) {
  // Where it fails, kernels may go on that use the workspace: then it is nobody's.
  const std::shared_ptr<IdleWorkspaces> origin = std::exchange(prepared.origin, nullptr);
  if (!origin) throw Error{"a call that is made ready runs once"};
  bool finished = false;
  const StreamUse use(Stream(prepared.job.stream));
  together(prepared.job, [&] { finished = prepared.plan->run(Stream(prepared.job.stream)); });
  if (finished) prepared.plan->read();
  giveBack(*origin, prepared);
  return finished;
}

bool run(Context* context, Job* job, bool* finished, Problem* problem) {
  return guarded(problem, "beginning a call", job->device, [&] {
    *finished = false;
    if (!job->cancelled) *finished = runPlanned(*planned(context, *job));
  });
}

bool ready(Context* context, Job* job, Prepared** prepared, Problem* problem) {
  return guarded(problem, "beginning a call", job->device, [&] { *prepared = planned(context, *job).release(); });
}

bool runReady(Prepared* prepared, bool* finished, Problem* problem) {
  return guarded(problem, "running a call", prepared->device, [&] { *finished = runPlanned(*prepared); });
}

bool prepare(Job* job, Prepared** prepared, Problem* problem) {
  return guarded(problem, "preparing a call", job->device, [&] {
    requireServed(job->device);
    // Not when they are enqueued: that may be for a graph, which is captured while nothing may wait for the device.
    loadKernels(job->device);
    std::unique_ptr<Prepared> made(new Prepared{*job, job->device, std::make_unique<Workspace>(), nullptr, nullptr});
    made->plan = std::make_unique<Plan>(*job, *made->workspace);
    const StreamUse use(Stream(job->stream));
    made->plan->upload(Stream(job->stream));
    check(cudaStreamSynchronize(Stream(job->stream)), "preparing a call");
    *prepared = made.release();
  });
}

bool enqueue(Prepared* prepared, void* stream, Problem* problem) {
  return guarded(problem, "enqueueing a call", prepared->device, [&] {
    const StreamUse use{Stream(stream)};
    together(prepared->job, [&] { prepared->plan->enqueue(Stream(stream)); });
  });
}

bool read(Prepared* prepared, void* stream, Problem* problem) {
  return guarded(problem, "waiting for a call to end", prepared->device, [&] {
    const StreamUse use{Stream(stream)};
    prepared->plan->download(Stream(stream));
    prepared->plan->waitFor(Stream(stream), "waiting for a call to end");
    prepared->plan->read();
  });
}

void destroyPrepared(Prepared* prepared) {
  quietly(prepared->device, [&] {
    const std::unique_ptr<Prepared> owned(prepared);
    if (owned->origin) giveBack(*owned->origin, *owned);
  });
}

uint64_t workspaceBytes(const Prepared* prepared) { return prepared->workspace->device.size(); }

uint64_t resultAt(const Prepared* prepared, const void* host) {
  return reinterpret_cast<uint64_t>(prepared->plan->resultAt(host));
}

bool allocate(int32_t device, uint64_t bytes, uint64_t* address, Problem* problem) {
  return guarded(problem, "allocating device memory", device,
                 [&] { *address = reinterpret_cast<uint64_t>(allocateOnDevice(bytes, "a buffer")); });
}

bool release(int32_t device, uint64_t address, Problem* problem) {
  return givenBack(problem, "releasing device memory", device,
                   [&] { releaseOnDevice(reinterpret_cast<void*>(address)); });
}

bool trim(Context* context, int32_t device, Problem* problem) {
  return guarded(problem, "giving memory back", device, [&] {
    context->idle->clear(device);
    trimPool();
  });
}

MemoryKind kindOf(uint64_t address, int32_t* device) {
  void* memory = reinterpret_cast<void*>(address);
  cudaPointerAttributes found{};
  check(cudaPointerGetAttributes(&found, memory), "asking what an address is of");
  *device = found.device;
  if (found.type == cudaMemoryTypeDevice) {
    return isGivenBack(found.device, memory) ? MemoryKind::kHost : MemoryKind::kOnDevice;
  }
  // Pinned memory may have another address for devices.
  const bool shared = found.type == cudaMemoryTypeManaged || found.type == cudaMemoryTypeHost;
  return shared && found.devicePointer == memory ? MemoryKind::kShared : MemoryKind::kHost;
}

bool memoryAt(uint64_t address, uint64_t bytes, MemoryKind* first, MemoryKind* last, int32_t* device,
              Problem* problem) {
  return guarded(problem, "asking what an address is of", kAnyDevice, [&] {
    *first = *last = MemoryKind::kHost;
    const int inUse = deviceInUse();
    if (inUse == kNoDevice) return;
    const CurrentDevice current(inUse, "asking what an address is of");
    *first = kindOf(address, device);
    int32_t other = *device;
    *last = bytes > 1 ? kindOf(address + bytes - 1, &other) : *first;
    // The end lies in an allocation of another device.
    if (*last == MemoryKind::kOnDevice && *first == MemoryKind::kOnDevice && other != *device)
      *last = MemoryKind::kHost;
  });
}

void copyAsync(uint64_t to, uint64_t from, uint64_t bytes, CopyKind kind, void* stream) {
  const StreamUse use{Stream(stream)};
  check(cudaMemcpyAsync(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes, cudaMemcpyKind(kind),
                        Stream(stream)),
        "copying memory");
}

bool copy(int32_t device, uint64_t to, uint64_t from, uint64_t bytes, CopyKind kind, void* stream, Problem* problem) {
  return guarded(problem, "copying memory", device, [&] {
    copyAsync(to, from, bytes, kind, stream);
    check(cudaStreamSynchronize(Stream(stream)), "copying memory");
  });
}

bool copyOnDevice(int32_t device, uint64_t to, uint64_t from, uint64_t bytes, void* stream, Problem* problem) {
  return guarded(problem, "copying memory", device, [&] { copyAsync(to, from, bytes, CopyKind::kOnDevice, stream); });
}

bool fill(int32_t device, uint64_t address, int32_t byte, uint64_t bytes, void* stream, Problem* problem) {
  return guarded(problem, "filling memory", device, [&] {
    const StreamUse use{Stream(stream)};
    check(cudaMemsetAsync(reinterpret_cast<void*>(address), byte, bytes, Stream(stream)), "filling memory");
  });
}

bool createStream(int32_t device, void** stream, Problem* problem) {
  return guarded(problem, "creating a stream", device, [&] {
    cudaStream_t made;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "creating a stream");
    *stream = made;
  });
}

bool destroyStream(int32_t device, void* stream, Problem* problem) {
  return givenBack(problem, "destroying a stream", device,
                   [&] { check(cudaStreamDestroy(Stream(stream)), "destroying a stream"); });
}

bool synchronize(int32_t device, void* stream, Problem* problem) {
  return guarded(problem, "waiting for a stream", device,
                 [&] { check(cudaStreamSynchronize(Stream(stream)), "waiting for a stream"); });
}

bool createEvent(int32_t device, void** event, Problem* problem) {
  return guarded(problem, "creating an event", device, [&] {
    cudaEvent_t made;
    check(cudaEventCreateWithFlags(&made, 0), "creating an event");
    *event = made;
  });
}

bool destroyEvent(int32_t device, void* event, Problem* problem) {
  return givenBack(problem, "destroying an event", device,
                   [&] { check(cudaEventDestroy(cudaEvent_t(event)), "destroying an event"); });
}

bool recordEvent(int32_t device, void* event, void* stream, Problem* problem) {
  return guarded(problem, "recording an event", device,
                 [&] { check(cudaEventRecord(cudaEvent_t(event), Stream(stream)), "recording an event"); });
}

bool waitForEvent(int32_t device, void* stream, void* event, Problem* problem) {
  return guarded(problem, "waiting for an event", device, [&] {
    // Of work that only the caller knows of.
    const StreamUse use{Stream(stream)};
    check(cudaStreamWaitEvent(Stream(stream), cudaEvent_t(event), 0), "waiting for an event");
  });
}

bool milliseconds(int32_t device, void* start, void* end, double* milliseconds, Problem* problem) {
  return guarded(problem, "reading events", device, [&] {
    float elapsed = 0;
    check(cudaEventSynchronize(cudaEvent_t(end)), "reading events");
    check(cudaEventElapsedTime(&elapsed, cudaEvent_t(start), cudaEvent_t(end)), "reading events");
    *milliseconds = double(elapsed);
  });
}

bool beginCapture(int32_t device, void* stream, Problem* problem) {
  return guarded(problem, "capturing a graph", device, [&] {
    check(cudaStreamBeginCapture(Stream(stream), cudaStreamCaptureModeThreadLocal), "capturing a graph");
    capturing().insert(Stream(stream));
  });
}

bool endCapture(int32_t device, void* stream, void** graph, Problem* problem) {
  return guarded(problem, "capturing a graph", device, [&] {
    capturing().erase(Stream(stream));
    cudaGraph_t captured;
    check(cudaStreamEndCapture(Stream(stream), &captured), "capturing a graph");
    cudaGraphExec_t executable;
    const cudaError_t status = cudaGraphInstantiate(&executable, captured, 0);
    ignore(cudaGraphDestroy(captured));
    check(status, "making a graph ready");
    *graph = executable;
  });
}

void discardCapture(int32_t device, void* stream) {
  quietly(device, [&] {
    capturing().erase(Stream(stream));
    cudaGraph_t captured = nullptr;
    ignore(cudaStreamEndCapture(Stream(stream), &captured));
    if (captured) ignore(cudaGraphDestroy(captured));
  });
}

bool launchGraph(int32_t device, void* graph, void* stream, Problem* problem) {
  return guarded(problem, "launching a graph", device, [&] {
    const StreamUse use{Stream(stream)};
    check(cudaGraphLaunch(cudaGraphExec_t(graph), Stream(stream)), "launching a graph");
  });
}

bool destroyGraph(int32_t device, void* graph, Problem* problem) {
  return givenBack(problem, "destroying a graph", device,
                   [&] { check(cudaGraphExecDestroy(cudaGraphExec_t(graph)), "destroying a graph"); });
}

bool ncclVersion(int32_t* version, Problem* problem) {
  return guarded(problem, "opening NCCL", kAnyDevice, [&] { *version = nccl::version(); });
}

bool ncclId(void* id, Problem* problem) {
  return guarded(problem, "connecting the ranks", kAnyDevice, [&] {
    nccl::require(nccl::opened().getUniqueId(static_cast<nccl::UniqueId*>(id)), "connecting the ranks");
  });
}

bool createCommunicator(int32_t device, int32_t rank, int32_t size, const void* id, double seconds,
                        const std::atomic<bool>* cancelled, Communicator** communicator, Problem* problem) {
  return guarded(problem, "connecting the ranks", device, [&] {
    *communicator = new Communicator(device, rank, size, *static_cast<const nccl::UniqueId*>(id), seconds, *cancelled);
  });
}

bool communicatorIsUsable(Communicator* communicator, Problem* problem) {
  return guarded(problem, "looking for errors", communicator->device, [&] { communicator->requireUsable(); });
}

// Of what a thread enqueues that others cannot tell to stop.
const std::atomic<bool> kNotCancelled{false};

bool allGather(Communicator* communicator, uint64_t send, uint64_t receive, uint64_t bytes, void* stream,
               Problem* problem) {
  return guarded(problem, "gathering", communicator->device, [&] {
    const StreamUse use{Stream(stream)};
    communicator->allGather(reinterpret_cast<const void*>(send), reinterpret_cast<void*>(receive), bytes,
                            Stream(stream), kNotCancelled);
  });
}

bool allReduceSum(Communicator* communicator, uint64_t data, uint64_t count, int32_t type, void* stream,
                  Problem* problem) {
  return guarded(problem, "summing", communicator->device, [&] {
    const StreamUse use{Stream(stream)};
    communicator->allReduceSum(reinterpret_cast<void*>(data), count, nccl::Type(type), Stream(stream), kNotCancelled);
  });
}

bool broadcast(Communicator* communicator, uint64_t data, uint64_t bytes, int32_t root, void* stream,
               Problem* problem) {
  return guarded(problem, "broadcasting", communicator->device, [&] {
    const StreamUse use{Stream(stream)};
    communicator->broadcast(reinterpret_cast<void*>(data), bytes, root, Stream(stream), kNotCancelled);
  });
}

bool communicatorIsDone(Communicator* communicator, void* stream, bool* done, Problem* problem) {
  return guarded(problem, "waiting for a stream", communicator->device,
                 [&] { *done = communicator->isDone(Stream(stream)); });
}

void abortCommunicator(Communicator* communicator) {
  quietly(communicator->device, [&] { communicator->abort(); });
}

void destroyCommunicator(Communicator* communicator) {
  quietly(communicator->device, [&] {
    const std::unique_ptr<Communicator> owned(communicator);
    owned->close();
  });
}

constexpr Api kApi = {kApiVersion,
                      deviceCount,
                      deviceInfo,
                      cublasLt,
                      createContext,
                      destroyContext,
                      run,
                      ready,
                      runReady,
                      prepare,
                      enqueue,
                      read,
                      destroyPrepared,
                      workspaceBytes,
                      resultAt,
                      allocate,
                      release,
                      trim,
                      memoryAt,
                      copy,
                      copyOnDevice,
                      fill,
                      createStream,
                      destroyStream,
                      synchronize,
                      createEvent,
                      destroyEvent,
                      recordEvent,
                      waitForEvent,
                      milliseconds,
                      beginCapture,
                      endCapture,
                      discardCapture,
                      launchGraph,
                      destroyGraph,
                      ncclVersion,
                      ncclId,
                      createCommunicator,
                      communicatorIsUsable,
                      allGather,
                      allReduceSum,
                      broadcast,
                      communicatorIsDone,
                      abortCommunicator,
                      destroyCommunicator};

}  // namespace
}  // namespace cuda
}  // namespace fpl

#if defined(_WIN32)
#define FPL_EXPORT extern "C" __declspec(dllexport)
#else
#define FPL_EXPORT extern "C" __attribute__((visibility("default")))
#endif

FPL_EXPORT const fpl::cuda::Api* fusedPreferenceLossCuda() { return &fpl::cuda::kApi; }
