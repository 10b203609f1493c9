// The processes that MPI has started together, as JavaScript sees them: see mpi/world.h. Operations run in the order of
// the calls; errors begin with their code and ": ".
//
//   describe(path)             { version, handles }, or why the library cannot be used
//   open(path, longest)        starts MPI with that library; `longest`: the most bytes of a message
//   world()                    { rank, size }, or undefined when it is not open
//   allGather(send, receive), allGatherAsync(id, ...)
//   allReduceSum(data), allReduceSumAsync(id, data)
//   barrier(), barrierAsync(id)
//   closeAsync(id)
//   abort(code)
//   exiting(code)              to be told when the process is about to exit
#pragma once

#include <memory>

#include "../mpi/world.h"
#include "async_queue.h"
#include "napi.h"

namespace fpl {

class MpiBindings {
 public:
  explicit MpiBindings(Napi::Env env) : env_(env), queue_(env) {}

  Napi::Object functions();
  // Waits for all operations, if they are this environment's: it is going away.
  void stop();

 private:
  using Made = std::shared_ptr<mpi::Operation>;

  Napi::Value describe(const Napi::CallbackInfo& info);
  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value world(const Napi::CallbackInfo& info);

  Napi::Value now(const Made& operation);
  // Its promise settles when the operation is done; the arguments are kept until then.
  Napi::Value later(const Napi::CallbackInfo& info, const Made& operation);

  Napi::Env env_;
  AsyncQueue queue_;        // waits for operations, and settles their promises
  bool hasOpened_ = false;  // MPI, or tried to
};

}  // namespace fpl
