// The addon: the functions that JavaScript calls, and the state that each environment (the main thread or a worker)
// has. It does no arithmetic.
//
//   values, arena                       where lib writes a job: see job_reader.h
//   run(...arrays)                      runs that job on the calling thread and the pool
//   runAsync(id, ...arrays)             the same off the calling thread; its promise gives false when it was cancelled
//   cancel(id)                          cancels a call of runAsync
//   nextId()                            an id that no other call has
//   jobFields                           the order of `values`, in words
//   holdsMemory                         whether arrays may be transferred while runAsync uses them, see lent_memory.h
//   lossNames, unpairedLossNames, instructionSets   in the order in which `values` refers to them
//   cuda                                the CUDA backend, see cuda_bindings.h
//   mpi                                 the processes of an MPI job, see mpi_bindings.h
//   amxProblem()                        why products cannot be AMX's, or undefined; the first call asks the system
//   blas                                libraries of BLAS, see blas_bindings.h
//   bandwidth(sweep, buffer, target or undefined, threads)   seconds of a sweep over the bytes of `buffer`
//   multiplyAddRate(instruction set, threads)                floating-point operations a second
//   pairProductRate(threads)   the same of bfloat16 pairs, 0 where the CPU has no instruction for them
//                              the last three are for npm run bench
//
// Several copies of the package may share one addon (CommonJS beside ES modules, a cleared module cache, a bundle):
// all that calls share, the memory of jobs and the ids, therefore belongs to the addon and not to its callers.
#include "../cpu/limits.h"
#include "../cpu/stages.h"
#include "../cpu/tiles.h"
#include "async_queue.h"
#include "blas_bindings.h"
#include "cuda_bindings.h"
#include "job_reader.h"
#include "mpi_bindings.h"
#include "napi.h"

namespace {

class FusedPreferenceLoss : public Napi::Addon<FusedPreferenceLoss> {
 public:
  FusedPreferenceLoss(Napi::Env env, Napi::Object exports)
      : memory_(env), blas_(env), cuda_(env, queue_, memory_), queue_(env), mpi_(env) {
    const auto arrayOf = [env](const char* const* names, int32_t count) {
      Napi::Array array = Napi::Array::New(env);
      for (int32_t i = 0; i < count; ++i) array[uint32_t(i)] = Napi::String::New(env, names[i]);
      return array;
    };
    const Napi::Array lossNames = arrayOf(fpl::kLossNames, fpl::kLossCount);
    const Napi::Array unpairedLossNames = arrayOf(fpl::kUnpairedLossNames, fpl::kUnpairedLossCount);
    Napi::Array sets = Napi::Array::New(env);
    const fpl::InstructionSets& found = fpl::instructionSets();
    for (int32_t i = 0; i < found.count; ++i) sets[uint32_t(i)] = Napi::String::New(env, found.sets[i]->name);

    DefineAddon(exports,
                {
                    InstanceMethod("run", &FusedPreferenceLoss::run),
                    InstanceMethod("runAsync", &FusedPreferenceLoss::runAsync),
                    InstanceMethod("cancel", &FusedPreferenceLoss::cancel),
                    InstanceMethod("nextId", &FusedPreferenceLoss::nextId),
                    InstanceMethod("bandwidth", &FusedPreferenceLoss::bandwidth),
                    InstanceMethod("multiplyAddRate", &FusedPreferenceLoss::multiplyAddRate),
                    InstanceMethod("pairProductRate", &FusedPreferenceLoss::pairProductRate),
                    InstanceValue("jobFields", Napi::String::New(env, fpl::jobFields()), napi_enumerable),
                    InstanceValue("holdsMemory", Napi::Boolean::New(env, fpl::LentMemory::held(env)), napi_enumerable),
                    InstanceValue("values", memory_.values(), napi_enumerable),
                    InstanceValue("arena", memory_.arena(), napi_enumerable),
                    InstanceValue("cuda", cuda_.functions(), napi_enumerable),
                    InstanceValue("mpi", mpi_.functions(), napi_enumerable),
                    InstanceValue("blas", blas_.functions(), napi_enumerable),
                    InstanceMethod("amxProblem", &FusedPreferenceLoss::amxProblem),
                    InstanceValue("lossNames", lossNames, napi_enumerable),
                    InstanceValue("unpairedLossNames", unpairedLossNames, napi_enumerable),
                    InstanceValue("instructionSets", sets, napi_enumerable),
                });
    // The queues' threads must be gone before the environment is torn down.
    env.AddCleanupHook([this] {
      queue_.stop();
      mpi_.stop();
    });
  }

 private:
  void run(const Napi::CallbackInfo& info) {
    fpl::Job job;
    memory_.read(info, 0, job);
    fpl::runJob(job, pool_, blas_.find(job.products));
  }

  Napi::Value runAsync(const Napi::CallbackInfo& info) {
    auto job = std::make_unique<fpl::AsyncJob>(info.Env(), info[0].As<Napi::Number>().DoubleValue());
    memory_.read(info, 2, job->job, &job->lent);
    Napi::Array arguments = Napi::Array::New(info.Env(), info.Length());
    for (size_t i = 0; i < info.Length(); ++i) arguments[uint32_t(i)] = info[i];
    job->arguments = Napi::Persistent(arguments.As<Napi::Object>());
    constexpr uint32_t kOnHiddenRows = 1;
    if (info[kOnHiddenRows].IsFunction()) {
      job->job.onHiddenRows = [this, at = job.get()](int64_t row) { queue_.report(*at, kOnHiddenRows, row); };
    }
    const fpl::blas::Library* const blas = blas_.find(job->job.products);
    job->work = [this, blas](fpl::Job& at) { return fpl::runJob(at, pool_, blas); };
    const Napi::Promise promise = job->deferred.Promise();
    queue_.push(std::move(job));
    return promise;
  }

  Napi::Value amxProblem(const Napi::CallbackInfo& info) {
    const char* problem;
    if (fpl::amxTiles(&problem)) return info.Env().Undefined();
    return Napi::String::New(info.Env(), problem);
  }

  void cancel(const Napi::CallbackInfo& info) { queue_.cancel(info[0].As<Napi::Number>().DoubleValue()); }

  Napi::Value nextId(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), ++lastId_); }

  Napi::Value bandwidth(const Napi::CallbackInfo& info) {
    const std::string name = info[0].As<Napi::String>();
    int32_t sweep = 0;
    while (sweep < fpl::kSweepCount && name != fpl::kSweepNames[sweep]) ++sweep;
    if (sweep == fpl::kSweepCount) throw Napi::RangeError::New(info.Env(), "no sweep is called '" + name + "'");
    Napi::ArrayBuffer buffer = info[1].As<Napi::ArrayBuffer>();
    void* target = nullptr;
    if (!info[2].IsUndefined()) {
      Napi::ArrayBuffer other = info[2].As<Napi::ArrayBuffer>();
      if (other.ByteLength() != buffer.ByteLength()) {
        throw Napi::RangeError::New(info.Env(), "the buffers differ in length");
      }
      target = other.Data();
    }
    const int64_t threads = info[3].As<Napi::Number>();
    const double seconds =
        fpl::sweepSeconds(fpl::Sweep(sweep), buffer.Data(), target, int64_t(buffer.ByteLength()), threads, pool_);
    return Napi::Number::New(info.Env(), seconds);
  }

  Napi::Value multiplyAddRate(const Napi::CallbackInfo& info) {
    const std::string name = info[0].As<Napi::String>();
    const fpl::Kernels* kernels = fpl::findInstructionSet(name.c_str());
    if (!kernels) throw Napi::RangeError::New(info.Env(), "no instruction set of this CPU is called '" + name + "'");
    const int64_t threads = info[1].As<Napi::Number>();
    return Napi::Number::New(info.Env(), fpl::multiplyAddRate(*kernels, threads, pool_));
  }

  Napi::Value pairProductRate(const Napi::CallbackInfo& info) {
    const int64_t threads = info[0].As<Napi::Number>();
    return Napi::Number::New(info.Env(), fpl::pairProductRate(threads, pool_));
  }

  fpl::JobMemory memory_;
  double lastId_ = 0;
  fpl::ThreadPool pool_;
  fpl::BlasBindings blas_;
  // It outlives the queue, whose thread may be in the middle of a call.
  fpl::CudaBindings cuda_;
  fpl::AsyncQueue queue_;
  fpl::MpiBindings mpi_;
};

}  // namespace

NODE_API_ADDON(FusedPreferenceLoss)
