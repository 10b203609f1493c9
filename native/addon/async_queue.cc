#include "async_queue.h"

#include <algorithm>
#include <exception>
#include <new>

namespace fpl {

void AsyncQueue::push(std::unique_ptr<AsyncJob> job) {
  if (!messages_) {
    napi_value name = Napi::String::New(env_, "fused-preference-loss");
    const napi_status status = napi_create_threadsafe_function(env_, nullptr, nullptr, name, 0, 1, nullptr, nullptr,
                                                               this, &AsyncQueue::onMessage, &messages_);
    if (status != napi_ok) throw Napi::Error::New(env_);
    napi_unref_threadsafe_function(env_, messages_);
  }
  if (!thread_.joinable()) thread_ = std::thread(&AsyncQueue::work, this);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(job));
  }
  // The promise is counted when nothing can throw any more. It is settled on this thread, and so not before.
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, messages_);
  wake_.notify_one();
}

void AsyncQueue::cancel(double id) {
  std::unique_ptr<AsyncJob> unstarted;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (running_ && running_->id == id) *running_->cancelled = true;
    const auto found = std::find_if(waiting_.begin(), waiting_.end(), [&](auto& job) { return job->id == id; });
    if (found != waiting_.end()) {
      unstarted = std::move(*found);
      waiting_.erase(found);
    }
  }
  if (unstarted) settle(*unstarted);
}

void AsyncQueue::stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    if (running_) *running_->cancelled = true;
  }
  wake_.notify_one();
  thread_.join();
  if (!messagesClosed_) napi_release_threadsafe_function(messages_, napi_tsfn_abort);
}

void AsyncQueue::work() {
  for (;;) {
    std::unique_ptr<AsyncJob> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      job = std::move(waiting_.front());
      waiting_.pop_front();
      running_ = job.get();
    }
    try {
      job->finished = job->work(job->job);
    } catch (const CodedError& error) {
      job->error = error.what();
      job->code = error.code;
    } catch (const std::exception& error) {
      job->error = error.what();
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      running_ = nullptr;
    }
    if (!send(std::move(job->end))) {
      // The environment is closing: nobody will settle the promise. Its references may only be dropped on the main
      // thread, where they go with the environment anyway.
      job->lent.release();
      job.release();
      return;
    }
    job.release();  // onMessage owns it now
  }
}

void AsyncQueue::report(AsyncJob& job, uint32_t argument, int64_t number) {
  std::unique_ptr<AsyncMessage> message(new (std::nothrow) AsyncMessage{&job, argument, number});
  if (message) send(std::move(message));
}

// False when the environment is closing.
bool AsyncQueue::send(std::unique_ptr<AsyncMessage> message) {
  if (messagesClosed_) return false;
  messagesClosed_ = napi_call_threadsafe_function(messages_, message.get(), napi_tsfn_nonblocking) != napi_ok;
  if (!messagesClosed_) message.release();
  return !messagesClosed_;
}

void AsyncQueue::onMessage(napi_env env, napi_value, void* context, void* data) {
  const std::unique_ptr<AsyncMessage> message(static_cast<AsyncMessage*>(data));
  AsyncQueue& queue = *static_cast<AsyncQueue*>(context);
  if (message->argument > 0) {
    if (env) queue.pass(*message);
    return;
  }
  const std::unique_ptr<AsyncJob> job(message->job);
  if (!env) {
    job->arguments.SuppressDestruct();
    return;  // the environment is closing
  }
  queue.settle(*job);
}

void AsyncQueue::pass(const AsyncMessage& report) {
  const Napi::HandleScope scope(env_);
  try {
    const Napi::Value function = report.job->arguments.Get(report.argument);
    function.As<Napi::Function>().Call({Napi::Number::New(env_, double(report.number))});
  } catch (const Napi::Error&) {
    // A worker that is being terminated runs no more JavaScript.
  }
}

void AsyncQueue::settle(AsyncJob& job) {
  const Napi::HandleScope scope(env_);
  if (--pending_ == 0) napi_unref_threadsafe_function(env_, messages_);
  try {
    if (job.error.empty()) {
      job.deferred.Resolve(Napi::Boolean::New(env_, job.finished));
    } else {
      const Napi::Error error = Napi::Error::New(env_, job.error);
      if (job.code) error.Set("code", job.code);
      job.deferred.Reject(error.Value());
    }
  } catch (const Napi::Error&) {
    // A worker that is being terminated runs no more JavaScript: nobody waits for the promise.
  }
}

}  // namespace fpl
