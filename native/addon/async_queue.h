// Runs jobs off the main thread, one after the other, in the order in which they came.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "../core/job.h"
#include "lent_memory.h"
#include "napi.h"

namespace fpl {

// An error with a code of lib/errors.ts.
struct CodedError : std::runtime_error {
  CodedError(const char* itsCode, const std::string& message) : std::runtime_error(message), code(itsCode) {}

  const char* code;  // a literal
};

struct AsyncJob;

// What the thread tells the main one: that a job has ended, or a report of it.
struct AsyncMessage {
  AsyncJob* job;
  uint32_t argument = 0;  // 0: it has ended
  int64_t number = 0;
};

struct AsyncJob {
  AsyncJob(Napi::Env env, double jobId) : id(jobId), deferred(env) {}

  double id;  // the caller's, for cancel
  Napi::Promise::Deferred deferred;
  Napi::ObjectReference arguments;  // keeps the caller's arrays alive
  LentMemory lent;                  // and their memory
  Job job;
  std::atomic<bool>* cancelled = &job.cancelled;  // what work watches
  std::function<bool(Job&)> work;                 // returns false when it was cancelled, and throws when it fails
  bool finished = false;                          // false when it was cancelled
  std::string error;                              // not empty when it has failed
  const char* code = nullptr;                     // that of the error, if it has one
  // There before the job has written anything.
  std::unique_ptr<AsyncMessage> end = std::make_unique<AsyncMessage>(AsyncMessage{this});
};

// All methods but `report` and the private ones are for the main thread.
class AsyncQueue {
 public:
  explicit AsyncQueue(Napi::Env env) : env_(env) {}
  ~AsyncQueue() { stop(); }

  // Its promise gives true when the job is done and false when it was cancelled.
  void push(std::unique_ptr<AsyncJob> job);

  // For the job's own work: passes a number on to the function that is the job's argument of this index. A report for
  // which there is no memory is left out.
  void report(AsyncJob& job, uint32_t argument, int64_t number);

  // Settles a job at once if it has not started, and else as soon as it notices.
  void cancel(double id);

  // Cancels everything and waits for the thread: the environment is going away.
  void stop();

 private:
  void work();
  bool send(std::unique_ptr<AsyncMessage> message);
  void settle(AsyncJob& job);
  void pass(const AsyncMessage& report);
  static void onMessage(napi_env env, napi_value, void* context, void* data);

  Napi::Env env_;
  napi_threadsafe_function messages_ = nullptr;
  bool messagesClosed_ = false;  // written by the thread, and read when it has been joined
  int64_t pending_ = 0;          // promises that are not settled yet; they keep the event loop alive

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<AsyncJob>> waiting_;
  AsyncJob* running_ = nullptr;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace fpl
