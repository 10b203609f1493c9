// The CUDA backend as JavaScript sees it. `open` opens the library, whose functions then are those of the addon's
// `cuda` object. Handles and device addresses are numbers.
//
//   open(path)                 undefined, or why the library cannot be used
//   devices()                  [{ name, computeCapability, ... }]
//   cublasLt()                 undefined, or why jobs with a head cannot be run
//   collect()                  makes the garbage collector look for garbage at once
//
//   run, runAsync, cancel      as the addon's own, for jobs with a device
//   job(...arrays)             a job that several ranks make together, in two parts: `ready` takes its memory, and only
//   ready(job), runReady(job), readyAsync(id, job), runReadyAsync(id, job)     `runReady` waits for other ranks
//   prepare(...arrays)         a job that can be enqueued again and again
//   enqueue(job, stream), read(job, stream), workspaceBytes(job)
//   resultAt(job, array)       where the result that `array` is for lies on the device; 0 where it is none
//   destroyPrepared(job), destroyPreparedAsync(id, job)
//
//   allocate(device, bytes)
//   release(device, address, bytes), releaseAsync(id, ...)
//   trim(device)               gives back to the system what is kept and not used
//   memoryAt(address, bytes)   the kinds of memory of its first and last byte, and the device: { first, last, device }
//   copy(device, kind, to, from, bytes, stream), copyAsync(id, ...)    the host's side is an array
//   fill(device, address, byte, bytes, stream)
//
//   createStream(device), destroyStream(device, stream)
//   synchronize(device, stream), synchronizeAsync(id, device, stream)
//   createEvent(device), destroyEvent(device, event), recordEvent(device, event, stream)
//   waitForEvent(device, stream, event)
//   milliseconds(device, start, end)
//   beginCapture(device, stream), endCapture(device, stream), discardCapture(device, stream)
//   launchGraph(device, graph, stream), destroyGraph(device, graph)
//
//   ncclVersion(), ncclId(bytes)    fills the 128 bytes by which ranks find each other
//   communicator()                  one of NCCL's, which is nothing yet
//   connect(id, communicator, device, rank, size, bytes)    off the calling thread; waits for all ranks
//   addressOf(communicator)         what jobs know it by, a bigint; throws where it cannot be used any more
//   allGather(communicator, send, receive, bytes, stream)
//   allReduceSum(communicator, data, count, type, stream), broadcast(communicator, data, bytes, root, stream)
//   waitFor(id, communicator, stream)    off the calling thread; throws where another rank has died
//   abortCommunicator(communicator)
//   destroyCommunicator(communicator, now)    waits for other ranks; on a thread of its own, unless `now`
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "../cuda/api.h"
#include "async_queue.h"
#include "job_reader.h"
#include "napi.h"

namespace fpl {

class CudaBindings {
 public:
  CudaBindings(Napi::Env env, AsyncQueue& queue, const JobMemory& memory) : env_(env), queue_(queue), memory_(memory) {}
  ~CudaBindings();

  Napi::Object functions();

 private:
  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value devices(const Napi::CallbackInfo& info);
  Napi::Value cublasLt(const Napi::CallbackInfo& info);
  Napi::Value run(const Napi::CallbackInfo& info);
  Napi::Value runAsync(const Napi::CallbackInfo& info);
  Napi::Value prepare(const Napi::CallbackInfo& info);
  Napi::Value copy(const Napi::CallbackInfo& info);
  Napi::Value copyAsync(const Napi::CallbackInfo& info);
  Napi::Value synchronizeAsync(const Napi::CallbackInfo& info);
  Napi::Value connect(const Napi::CallbackInfo& info);
  Napi::Value waitFor(const Napi::CallbackInfo& info);

  // Throws the problem as a JavaScript error when `done` is false.
  void require(bool done, const cuda::Problem& problem) const;
  // May be called on any thread.
  bool release(int32_t device, uint64_t address, cuda::Problem* problem);
  // Tells the garbage collector of a new buffer of that many bytes; with minus as many, that the buffer is gone.
  void tellCollector(int32_t device, int64_t bytes);
  // Does `work` on the queue's thread; the promise is kept when it has returned true.
  Napi::Value later(const Napi::CallbackInfo& info, std::function<bool(cuda::Problem*)> work);
  // The same for work that watches whether it is cancelled, as it is when the environment goes away: in its job, or
  // here.
  Napi::Value queued(const Napi::CallbackInfo& info, std::function<bool(Job&)> work,
                     std::atomic<bool>* cancelled = nullptr);

  Napi::Env env_;
  AsyncQueue& queue_;
  const JobMemory& memory_;
  const cuda::Api* api_ = nullptr;
  std::string path_;  // of the library
  cuda::Context* context_ = nullptr;
  std::map<int32_t, double> sizes_;  // bytes of memory that devices have
  std::mutex buffersMutex_;
  std::map<uint64_t, int32_t> buffers_;  // the devices of buffers, by address
};

}  // namespace fpl
