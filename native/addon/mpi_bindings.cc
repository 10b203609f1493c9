#include "mpi_bindings.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace fpl {
namespace {

using mpi::Kind;
using mpi::World;
using Info = const Napi::CallbackInfo&;

void* bytesOf(const Napi::TypedArray& array) {
  return static_cast<char*>(array.ArrayBuffer().Data()) + array.ByteOffset();
}

std::shared_ptr<mpi::Operation> made(Kind kind) {
  auto operation = std::make_shared<mpi::Operation>();
  operation->kind = kind;
  return operation;
}

std::shared_ptr<mpi::Operation> allGather(Info info, size_t first) {
  const auto send = info[first].As<Napi::TypedArray>(), receive = info[first + 1].As<Napi::TypedArray>();
  auto operation = made(Kind::kAllGather);
  operation->send = bytesOf(send);
  operation->data = bytesOf(receive);
  operation->bytes = int64_t(send.ByteLength());
  return operation;
}

std::shared_ptr<mpi::Operation> allReduceSum(Info info, size_t first) {
  const auto data = info[first].As<Napi::TypedArray>();
  auto operation = made(data.TypedArrayType() == napi_float32_array ? Kind::kSumFloat32 : Kind::kSumFloat64);
  operation->data = bytesOf(data);
  operation->bytes = int64_t(data.ByteLength());
  return operation;
}

}  // namespace

Napi::Object MpiBindings::functions() {
  Napi::Object out = Napi::Object::New(env_);
  const auto define = [&](const char* name, auto function) { out[name] = Napi::Function::New(env_, function, name); };
  define("describe", [this](Info info) { return describe(info); });
  define("open", [this](Info info) { return open(info); });
  define("world", [this](Info info) { return world(info); });
  define("allGather", [this](Info info) { return now(allGather(info, 0)); });
  define("allGatherAsync", [this](Info info) { return later(info, allGather(info, 1)); });
  define("allReduceSum", [this](Info info) { return now(allReduceSum(info, 0)); });
  define("allReduceSumAsync", [this](Info info) { return later(info, allReduceSum(info, 1)); });
  define("barrier", [this](Info) { return now(made(Kind::kBarrier)); });
  define("barrierAsync", [this](Info info) { return later(info, made(Kind::kBarrier)); });
  define("closeAsync", [this](Info info) { return later(info, made(Kind::kClose)); });
  define("abort", [](Info info) { World::ofProcess().abort(info[0].As<Napi::Number>().Int32Value()); });
  define("exiting", [](Info info) { World::ofProcess().setExitCode(info[0].As<Napi::Number>().Int32Value()); });
  return out;
}

void MpiBindings::stop() {
  if (hasOpened_) World::ofProcess().drain();
  queue_.stop();
}

Napi::Value MpiBindings::describe(Info info) {
  try {
    const mpi::Description description = mpi::describe(info[0].As<Napi::String>());
    Napi::Object found = Napi::Object::New(env_);
    found["version"] = Napi::String::New(env_, description.version);
    found["handles"] = Napi::String::New(env_, description.handles);
    return found;
  } catch (const std::runtime_error& error) {
    return Napi::String::New(env_, error.what());
  }
}

// The calling thread waits, as libraries of MPI change the environment and more while they start, and expect to be
// alone.
Napi::Value MpiBindings::open(Info info) {
  auto operation = made(Kind::kOpen);
  operation->path = info[0].As<Napi::String>();
  operation->longest = info[1].As<Napi::Number>().Int64Value();
  hasOpened_ = true;
  return now(operation);
}

Napi::Value MpiBindings::world(Info) {
  const World& found = World::ofProcess();
  if (!found.isOpen()) return env_.Undefined();
  Napi::Object out = Napi::Object::New(env_);
  out["rank"] = Napi::Number::New(env_, found.rank());
  out["size"] = Napi::Number::New(env_, found.size());
  return out;
}

Napi::Value MpiBindings::now(const Made& operation) {
  World::ofProcess().enqueue(operation);
  World::ofProcess().wait(*operation);
  if (!operation->error.empty()) throw Napi::Error::New(env_, operation->error);
  return env_.Undefined();
}

Napi::Value MpiBindings::later(Info info, const Made& operation) {
  auto job = std::make_unique<AsyncJob>(env_, info[0].As<Napi::Number>().DoubleValue());
  Napi::Array arguments = Napi::Array::New(env_, info.Length());
  for (size_t i = 0; i < info.Length(); ++i) {
    arguments[uint32_t(i)] = info[i];
    if (info[i].IsTypedArray()) job->lent.hold(env_, info[i]);
  }
  job->arguments = Napi::Persistent(arguments.As<Napi::Object>());
  job->work = [operation](Job&) {
    World::ofProcess().wait(*operation);
    if (!operation->error.empty()) throw std::runtime_error(operation->error);
    return true;
  };
  const Napi::Promise promise = job->deferred.Promise();
  queue_.push(std::move(job));  // throws before MPI has the arrays
  World::ofProcess().enqueue(operation);
  return promise;
}

}  // namespace fpl
