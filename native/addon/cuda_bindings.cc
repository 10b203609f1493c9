#include "cuda_bindings.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace fpl {
namespace {

using cuda::Api;
using cuda::Problem;
using GetApi = const Api* (*)();

// Opens the library and never closes it: the CUDA runtime in it may not be unloaded.
GetApi openLibrary(const std::string& path, std::string& problem) {
#if defined(_WIN32)
  const HMODULE library = LoadLibraryA(path.c_str());
  if (!library) {
    problem = "LoadLibrary failed with error " + std::to_string(GetLastError());
    return nullptr;
  }
  void* symbol = reinterpret_cast<void*>(GetProcAddress(library, cuda::kApiSymbol));
#else
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    problem = dlerror();
    return nullptr;
  }
  void* symbol = dlsym(library, cuda::kApiSymbol);
#endif
  if (!symbol) problem = path + " is not this package's CUDA library";
  return reinterpret_cast<GetApi>(symbol);
}

CodedError errorOf(const Problem& problem) {
  return {problem.origin == cuda::Origin::kNccl ? "ERR_NCCL" : "ERR_CUDA", problem.message};
}

int32_t integer(const Napi::Value& value) { return value.As<Napi::Number>().Int32Value(); }
uint64_t address(const Napi::Value& value) { return uint64_t(value.As<Napi::Number>().DoubleValue()); }
void* handle(const Napi::Value& value) { return reinterpret_cast<void*>(uintptr_t(address(value))); }
Napi::Value number(Napi::Env env, uint64_t value) { return Napi::Number::New(env, double(value)); }

// The bytes that the garbage collector is told of when a whole GPU's memory is allocated. It counts them as its own. It
// begins to look for garbage in the background when it has been told of 64 MB since it last did, and it stops
// everything for that when it is told of much more. So it finds buffers that nobody refers to before they take a third
// of the GPU, and gradients of gigabytes at every step do not make it stop.
constexpr double kToldOfAll = 256 << 20;

// One side of a copy: an address, or an array of the host's.
uint64_t side(const Napi::Value& value) {
  if (value.IsNumber()) return address(value);
  const Napi::TypedArray array = value.As<Napi::TypedArray>();
  return uint64_t(reinterpret_cast<uintptr_t>(array.ArrayBuffer().Data())) + array.ByteOffset();
}

// A prepared job, and the arrays it points to.
struct PreparedJob {
  Job job;
  Napi::ObjectReference arguments;
  LentMemory lent;
  cuda::Prepared* prepared = nullptr;
  const Api* api = nullptr;

  ~PreparedJob() { release(); }
  void release() {
    if (cuda::Prepared* mine = take()) api->destroyPrepared(mine);
  }
  cuda::Prepared* take() { return std::exchange(prepared, nullptr); }
};

// A communicator, once it is connected. Where nobody has destroyed it, it is aborted: other ranks may be gone.
struct Rank {
  cuda::Communicator* communicator = nullptr;
  const Api* api = nullptr;

  ~Rank() {
    if (!communicator) return;
    api->abortCommunicator(communicator);
    api->destroyCommunicator(communicator);
  }
};

Rank& rankOf(const Napi::Value& value) { return *value.As<Napi::External<Rank>>().Data(); }

PreparedJob& preparedOf(const Napi::Value& value) { return *value.As<Napi::External<PreparedJob>>().Data(); }

Napi::ObjectReference keep(const Napi::CallbackInfo& info) {
  Napi::Array arguments = Napi::Array::New(info.Env(), info.Length());
  for (size_t i = 0; i < info.Length(); ++i) arguments[uint32_t(i)] = info[i];
  return Napi::Persistent(arguments.As<Napi::Object>());
}

}  // namespace

CudaBindings::~CudaBindings() {
  // The garbage of an environment that ends is not collected.
  Problem problem;
  for (const auto& [at, device] : buffers_) api_->release(device, at, &problem);
  if (context_) api_->destroyContext(context_);
}

bool CudaBindings::release(int32_t device, uint64_t at, Problem* problem) {
  {
    // Before: another thread may be given the same address as soon as it is free.
    const std::lock_guard<std::mutex> lock(buffersMutex_);
    buffers_.erase(at);
  }
  return api_->release(device, at, problem);
}

void CudaBindings::require(bool done, const Problem& problem) const {
  if (done) return;
  const CodedError found = errorOf(problem);
  const Napi::Error error = Napi::Error::New(env_, found.what());
  error.Set("code", found.code);
  throw error;
}

Napi::Object CudaBindings::functions() {
  Napi::Object out = Napi::Object::New(env_);
  const auto define = [&](const char* name, auto function) { out[name] = Napi::Function::New(env_, function, name); };
  const auto method = [&](const char* name, Napi::Value (CudaBindings::*function)(const Napi::CallbackInfo&)) {
    define(name, [this, function](const Napi::CallbackInfo& info) { return (this->*function)(info); });
  };
  // A function of the library that returns only whether it has succeeded.
  const auto action = [&](const char* name, auto call) {
    define(name, [this, call](const Napi::CallbackInfo& info) {
      Problem problem;
      require(call(*api_, info, &problem), problem);
    });
  };
  // A function of the library that returns a handle or an address.
  const auto maker = [&](const char* name, auto call) {
    define(name, [this, call](const Napi::CallbackInfo& info) {
      Problem problem;
      uint64_t made = 0;
      require(call(*api_, info, &made, &problem), problem);
      return number(env_, made);
    });
  };
  using Info = const Napi::CallbackInfo&;
  using Made = uint64_t*;
  const auto asHandle = [](Made made) { return reinterpret_cast<void**>(made); };

  method("open", &CudaBindings::open);
  method("devices", &CudaBindings::devices);
  method("cublasLt", &CudaBindings::cublasLt);
  method("run", &CudaBindings::run);
  method("runAsync", &CudaBindings::runAsync);
  define("cancel", [this](Info info) { queue_.cancel(info[0].As<Napi::Number>().DoubleValue()); });
  define("job", [this](Info info) -> Napi::Value {
    auto made = std::make_unique<PreparedJob>();
    memory_.read(info, 0, made->job, &made->lent);
    made->arguments = keep(info);
    made->api = api_;
    return Napi::External<PreparedJob>::New(env_, made.release(), [](Napi::Env, PreparedJob* job) { delete job; });
  });
  action("ready", [this](const Api& api, Info info, Problem* problem) {
    PreparedJob& job = preparedOf(info[0]);
    return api.ready(context_, &job.job, &job.prepared, problem);
  });
  define("readyAsync", [this](Info info) -> Napi::Value {
    return later(info, [api = api_, context = context_, job = &preparedOf(info[1])](Problem* problem) {
      return api->ready(context, &job->job, &job->prepared, problem);
    });
  });
  action("runReady", [](const Api& api, Info info, Problem* problem) {
    bool finished = false;
    return api.runReady(preparedOf(info[0]).prepared, &finished, problem);
  });
  define("runReadyAsync", [this](Info info) -> Napi::Value {
    PreparedJob& job = preparedOf(info[1]);
    const auto work = [api = api_, prepared = job.prepared](Job&) {
      Problem problem;
      bool finished = false;
      if (!api->runReady(prepared, &finished, &problem)) throw errorOf(problem);
      return finished;
    };
    return queued(info, work, &job.job.cancelled);
  });
  method("prepare", &CudaBindings::prepare);
  action("enqueue", [](const Api& api, Info info, Problem* problem) {
    return api.enqueue(preparedOf(info[0]).prepared, handle(info[1]), problem);
  });
  action("read", [](const Api& api, Info info, Problem* problem) {
    return api.read(preparedOf(info[0]).prepared, handle(info[1]), problem);
  });
  define("destroyPrepared", [](Info info) {
    PreparedJob& job = preparedOf(info[0]);
    job.release();
    job.lent.release();
    job.arguments.Reset();
  });
  define("destroyPreparedAsync", [this](Info info) -> Napi::Value {
    cuda::Prepared* prepared = preparedOf(info[1]).take();
    return later(info, [api = api_, prepared](Problem*) {
      if (prepared) api->destroyPrepared(prepared);
      return true;
    });
  });

  define("workspaceBytes", [this](Info info) {
    const PreparedJob& job = preparedOf(info[0]);
    return number(env_, job.prepared ? api_->workspaceBytes(job.prepared) : 0);
  });

  define("resultAt", [this](Info info) {
    const PreparedJob& job = preparedOf(info[0]);
    const void* const host = reinterpret_cast<const void*>(side(info[1]));
    return number(env_, job.prepared ? api_->resultAt(job.prepared, host) : 0);
  });

  define("allocate", [this](Info info) {
    Problem problem;
    uint64_t made = 0;
    const int64_t bytes = info[1].As<Napi::Number>().Int64Value();
    require(api_->allocate(integer(info[0]), uint64_t(bytes), &made, &problem), problem);
    {
      const std::lock_guard<std::mutex> lock(buffersMutex_);
      buffers_[made] = integer(info[0]);
    }
    tellCollector(integer(info[0]), bytes);
    return number(env_, made);
  });
  define("release", [this](Info info) {
    Problem problem;
    require(release(integer(info[0]), address(info[1]), &problem), problem);
    tellCollector(integer(info[0]), -info[2].As<Napi::Number>().Int64Value());
  });
  define("releaseAsync", [this](Info info) -> Napi::Value {
    tellCollector(integer(info[1]), -info[3].As<Napi::Number>().Int64Value());
    return later(info, [this, device = integer(info[1]), at = address(info[2])](Problem* problem) {
      return release(device, at, problem);
    });
  });
  action("trim",
         [this](const Api& api, Info info, Problem* problem) { return api.trim(context_, integer(info[0]), problem); });
  define("collect", [this](Info) {
    // More than the collector tolerates.
    constexpr int64_t kMore = int64_t(1) << 50;
    Napi::MemoryManagement::AdjustExternalMemory(env_, kMore);
    Napi::MemoryManagement::AdjustExternalMemory(env_, -kMore);
  });
  define("memoryAt", [this](Info info) -> Napi::Value {
    Problem problem;
    auto first = cuda::MemoryKind::kHost, last = first;
    int32_t device = 0;
    require(api_->memoryAt(address(info[0]), address(info[1]), &first, &last, &device, &problem), problem);
    Napi::Object found = Napi::Object::New(env_);
    found["first"] = Napi::Number::New(env_, int32_t(first));
    found["last"] = Napi::Number::New(env_, int32_t(last));
    found["device"] = Napi::Number::New(env_, device);
    return found;
  });
  method("copy", &CudaBindings::copy);
  method("copyAsync", &CudaBindings::copyAsync);

  action("fill", [](const Api& api, Info info, Problem* problem) {
    return api.fill(integer(info[0]), address(info[1]), integer(info[2]), address(info[3]), handle(info[4]), problem);
  });

  maker("createStream", [asHandle](const Api& api, Info info, Made made, Problem* problem) {
    return api.createStream(integer(info[0]), asHandle(made), problem);
  });
  action("destroyStream", [](const Api& api, Info info, Problem* problem) {
    return api.destroyStream(integer(info[0]), handle(info[1]), problem);
  });
  action("synchronize", [](const Api& api, Info info, Problem* problem) {
    return api.synchronize(integer(info[0]), handle(info[1]), problem);
  });
  method("synchronizeAsync", &CudaBindings::synchronizeAsync);
  maker("createEvent", [asHandle](const Api& api, Info info, Made made, Problem* problem) {
    return api.createEvent(integer(info[0]), asHandle(made), problem);
  });
  action("destroyEvent", [](const Api& api, Info info, Problem* problem) {
    return api.destroyEvent(integer(info[0]), handle(info[1]), problem);
  });
  action("recordEvent", [](const Api& api, Info info, Problem* problem) {
    return api.recordEvent(integer(info[0]), handle(info[1]), handle(info[2]), problem);
  });
  action("waitForEvent", [](const Api& api, Info info, Problem* problem) {
    return api.waitForEvent(integer(info[0]), handle(info[1]), handle(info[2]), problem);
  });
  define("milliseconds", [this](Info info) {
    Problem problem;
    double milliseconds = 0;
    require(api_->milliseconds(integer(info[0]), handle(info[1]), handle(info[2]), &milliseconds, &problem), problem);
    return Napi::Number::New(env_, milliseconds);
  });
  action("beginCapture", [](const Api& api, Info info, Problem* problem) {
    return api.beginCapture(integer(info[0]), handle(info[1]), problem);
  });
  define("discardCapture", [this](Info info) { api_->discardCapture(integer(info[0]), handle(info[1])); });
  maker("endCapture", [asHandle](const Api& api, Info info, Made made, Problem* problem) {
    return api.endCapture(integer(info[0]), handle(info[1]), asHandle(made), problem);
  });
  action("launchGraph", [](const Api& api, Info info, Problem* problem) {
    return api.launchGraph(integer(info[0]), handle(info[1]), handle(info[2]), problem);
  });
  action("destroyGraph", [](const Api& api, Info info, Problem* problem) {
    return api.destroyGraph(integer(info[0]), handle(info[1]), problem);
  });

  define("ncclVersion", [this](Info) {
    Problem problem;
    int32_t version = 0;
    require(api_->ncclVersion(&version, &problem), problem);
    return Napi::Number::New(env_, version);
  });
  action("ncclId", [](const Api& api, Info info, Problem* problem) {
    return api.ncclId(reinterpret_cast<void*>(side(info[0])), problem);
  });
  define("communicator", [this](Info) -> Napi::Value {
    return Napi::External<Rank>::New(env_, new Rank{nullptr, api_}, [](Napi::Env, Rank* rank) { delete rank; });
  });
  method("connect", &CudaBindings::connect);
  define("addressOf", [this](Info info) -> Napi::Value {
    Problem problem;
    cuda::Communicator* const communicator = rankOf(info[0]).communicator;
    require(api_->communicatorIsUsable(communicator, &problem), problem);
    return Napi::BigInt::New(env_, uint64_t(reinterpret_cast<uintptr_t>(communicator)));
  });
  action("allGather", [](const Api& api, Info info, Problem* problem) {
    return api.allGather(rankOf(info[0]).communicator, address(info[1]), address(info[2]), address(info[3]),
                         handle(info[4]), problem);
  });
  action("allReduceSum", [](const Api& api, Info info, Problem* problem) {
    return api.allReduceSum(rankOf(info[0]).communicator, address(info[1]), address(info[2]), integer(info[3]),
                            handle(info[4]), problem);
  });
  action("broadcast", [](const Api& api, Info info, Problem* problem) {
    return api.broadcast(rankOf(info[0]).communicator, address(info[1]), address(info[2]), integer(info[3]),
                         handle(info[4]), problem);
  });
  method("waitFor", &CudaBindings::waitFor);
  define("abortCommunicator", [this](Info info) { api_->abortCommunicator(rankOf(info[0]).communicator); });
  define("destroyCommunicator", [](Info info) {
    Rank& rank = rankOf(info[0]);
    const auto destroy = [api = rank.api, mine = std::exchange(rank.communicator, nullptr)] {
      if (mine) api->destroyCommunicator(mine);
    };
    if (info[1].As<Napi::Boolean>()) {
      destroy();
    } else {
      // Other ranks may never come: nothing else must wait for that.
      std::thread(destroy).detach();
    }
  });
  return out;
}

void CudaBindings::tellCollector(int32_t device, int64_t bytes) {
  if (sizes_.count(device) == 0) {
    cuda::DeviceInfo found;
    Problem problem;
    sizes_[device] = api_->deviceInfo(device, &found, &problem) ? double(found.memory) : kToldOfAll;
  }
  Napi::MemoryManagement::AdjustExternalMemory(env_, int64_t(double(bytes) / sizes_[device] * kToldOfAll));
}

Napi::Value CudaBindings::open(const Napi::CallbackInfo& info) {
  const std::string path = info[0].As<Napi::String>();
  // Another copy of the package may have opened it.
  if (api_ && path == path_) return env_.Undefined();
  if (api_) return Napi::String::New(env_, path_ + " is open already, and " + path + " cannot be opened beside it");
  std::string reason;
  const GetApi get = openLibrary(path, reason);
  if (!get) return Napi::String::New(env_, reason);
  const Api* api = get();
  if (api->version != cuda::kApiVersion) {
    return Napi::String::New(env_, path + " belongs to another version of this package");
  }
  Problem problem;
  int32_t count = 0;
  if (!api->deviceCount(&count, &problem)) return Napi::String::New(env_, problem.message);
  api_ = api;
  path_ = path;
  context_ = api->createContext();
  return env_.Undefined();
}

Napi::Value CudaBindings::devices(const Napi::CallbackInfo&) {
  Problem problem;
  int32_t count = 0;
  require(api_->deviceCount(&count, &problem), problem);
  Napi::Array out = Napi::Array::New(env_, size_t(count));
  for (int32_t i = 0; i < count; ++i) {
    cuda::DeviceInfo found;
    require(api_->deviceInfo(i, &found, &problem), problem);
    Napi::Object device = Napi::Object::New(env_);
    device["name"] = Napi::String::New(env_, found.name);
    device["computeCapability"] =
        Napi::String::New(env_, std::to_string(found.major) + "." + std::to_string(found.minor));
    device["multiprocessors"] = Napi::Number::New(env_, found.multiprocessors);
    device["memory"] = Napi::Number::New(env_, double(found.memory));
    device["l2Cache"] = Napi::Number::New(env_, double(found.l2Cache));
    out[uint32_t(i)] = device;
  }
  return out;
}

Napi::Value CudaBindings::cublasLt(const Napi::CallbackInfo&) {
  Problem problem;
  return api_->cublasLt(&problem) ? env_.Undefined() : Napi::String::New(env_, problem.message);
}

Napi::Value CudaBindings::run(const Napi::CallbackInfo& info) {
  Job job;
  memory_.read(info, 0, job);
  Problem problem;
  bool finished = false;
  require(api_->run(context_, &job, &finished, &problem), problem);
  return env_.Undefined();
}

Napi::Value CudaBindings::runAsync(const Napi::CallbackInfo& info) {
  auto job = std::make_unique<AsyncJob>(env_, info[0].As<Napi::Number>().DoubleValue());
  memory_.read(info, 1, job->job, &job->lent);
  job->arguments = keep(info);
  job->work = [api = api_, context = context_](Job& at) {
    Problem problem;
    bool finished = false;
    if (!api->run(context, &at, &finished, &problem)) throw errorOf(problem);
    return finished;
  };
  const Napi::Promise promise = job->deferred.Promise();
  queue_.push(std::move(job));
  return promise;
}

Napi::Value CudaBindings::prepare(const Napi::CallbackInfo& info) {
  auto made = std::make_unique<PreparedJob>();
  memory_.read(info, 0, made->job);
  made->arguments = keep(info);
  made->api = api_;
  Problem problem;
  require(api_->prepare(&made->job, &made->prepared, &problem), problem);
  return Napi::External<PreparedJob>::New(env_, made.release(), [](Napi::Env, PreparedJob* job) { delete job; });
}

Napi::Value CudaBindings::later(const Napi::CallbackInfo& info, std::function<bool(Problem*)> work) {
  return queued(info, [work = std::move(work)](Job&) {
    Problem problem;
    if (!work(&problem)) throw errorOf(problem);
    return true;
  });
}

Napi::Value CudaBindings::queued(const Napi::CallbackInfo& info, std::function<bool(Job&)> work,
                                 std::atomic<bool>* cancelled) {
  auto job = std::make_unique<AsyncJob>(env_, info[0].As<Napi::Number>().DoubleValue());
  job->arguments = keep(info);
  for (size_t i = 0; i < info.Length(); ++i) {
    if (info[i].IsTypedArray()) job->lent.hold(env_, info[i]);
  }
  job->work = std::move(work);
  if (cancelled) job->cancelled = cancelled;
  const Napi::Promise promise = job->deferred.Promise();
  queue_.push(std::move(job));
  return promise;
}

namespace {

// Reads the arguments of a copy, from the one numbered `first` on.
std::function<bool(Problem*)> copyOf(const Api* api, const Napi::CallbackInfo& info, size_t first) {
  const int32_t device = integer(info[first]);
  const auto kind = cuda::CopyKind(integer(info[first + 1]));
  const uint64_t to = side(info[first + 2]), from = side(info[first + 3]), bytes = address(info[first + 4]);
  void* stream = handle(info[first + 5]);
  return [=](Problem* problem) {
    if (kind == cuda::CopyKind::kOnDevice) return api->copyOnDevice(device, to, from, bytes, stream, problem);
    return api->copy(device, to, from, bytes, kind, stream, problem);
  };
}

}  // namespace

Napi::Value CudaBindings::copy(const Napi::CallbackInfo& info) {
  Problem problem;
  require(copyOf(api_, info, 0)(&problem), problem);
  return env_.Undefined();
}

Napi::Value CudaBindings::copyAsync(const Napi::CallbackInfo& info) { return later(info, copyOf(api_, info, 1)); }

Napi::Value CudaBindings::synchronizeAsync(const Napi::CallbackInfo& info) {
  const int32_t device = integer(info[1]);
  void* stream = handle(info[2]);
  return later(info,
               [api = api_, device, stream](Problem* problem) { return api->synchronize(device, stream, problem); });
}

Napi::Value CudaBindings::connect(const Napi::CallbackInfo& info) {
  const int32_t device = integer(info[2]), rank = integer(info[3]), size = integer(info[4]);
  const auto* id = reinterpret_cast<const void*>(side(info[5]));
  const double seconds = info[6].As<Napi::Number>().DoubleValue();
  return queued(info, [api = api_, made = &rankOf(info[1]), device, rank, size, id, seconds](Job& job) {
    Problem problem;
    if (!api->createCommunicator(device, rank, size, id, seconds, &job.cancelled, &made->communicator, &problem))
      throw errorOf(problem);
    return true;
  });
}

Napi::Value CudaBindings::waitFor(const Napi::CallbackInfo& info) {
  void* stream = handle(info[2]);
  return queued(info, [api = api_, communicator = rankOf(info[1]).communicator, stream](Job& job) {
    for (bool done = false; !done && !job.cancelled;) {
      Problem problem;
      if (!api->communicatorIsDone(communicator, stream, &done, &problem)) throw errorOf(problem);
      if (!done) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    return true;
  });
}

}  // namespace fpl
