#include "async_queue.h"

#include <algorithm>
#include <exception>

namespace fpl {

void AsyncQueue::push(std::unique_ptr<AsyncJob> job) {
  if (!done_) {
    napi_value name = Napi::String::New(env_, "fused-preference-loss");
    const napi_status status = napi_create_threadsafe_function(env_, nullptr, nullptr, name, 0, 1, nullptr, nullptr,
                                                               this, &AsyncQueue::onDone, &done_);
    if (status != napi_ok) throw Napi::Error::New(env_);
    napi_unref_threadsafe_function(env_, done_);
  }
  if (!thread_.joinable()) thread_ = std::thread(&AsyncQueue::work, this);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back(std::move(job));
  }
  // The promise is counted when nothing can throw any more. It is settled on this thread, and so not before.
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, done_);
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
  if (!doneClosed_) napi_release_threadsafe_function(done_, napi_tsfn_abort);
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
    } catch (const std::exception& error) {
      job->error = error.what();
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      running_ = nullptr;
    }
    if (napi_call_threadsafe_function(done_, job.get(), napi_tsfn_nonblocking) != napi_ok) {
      // The environment is closing: nobody will settle the promise. Its references may only be dropped on the main
      // thread, where they go with the environment anyway.
      job->lent.release();
      job.release();
      doneClosed_ = true;
      return;
    }
    job.release();  // onDone owns it now
  }
}

void AsyncQueue::onDone(napi_env env, napi_value, void* context, void* data) {
  std::unique_ptr<AsyncJob> job(static_cast<AsyncJob*>(data));
  if (!env) {
    job->arguments.SuppressDestruct();
    return;  // the environment is closing
  }
  static_cast<AsyncQueue*>(context)->settle(*job);
}

void AsyncQueue::settle(AsyncJob& job) {
  const Napi::HandleScope scope(env_);
  if (--pending_ == 0) napi_unref_threadsafe_function(env_, done_);
  try {
    if (job.error.empty()) {
      job.deferred.Resolve(Napi::Boolean::New(env_, job.finished));
    } else {
      job.deferred.Reject(Napi::Error::New(env_, job.error).Value());
    }
  } catch (const Napi::Error&) {
    // A worker that is being terminated runs no more JavaScript: nobody waits for the promise.
  }
}

}  // namespace fpl
