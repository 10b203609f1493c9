#if !defined(__wasm__)
#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace fpl {
namespace {

// Waking a thread up takes about as long as this. A thread that the next stage may want at once spins for as long
// before it goes to sleep.
constexpr std::chrono::microseconds kSpin(50);

template <typename Condition>
void spinUntil(const Condition& holds) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  while (!holds() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

}  // namespace

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  // No thread leaves any more.
  for (std::thread& thread : threads_) thread.join();
  for (std::thread& thread : ended_) thread.join();
}

int64_t ThreadPool::size() {
  std::lock_guard<std::mutex> lock(mutex_);
  return int64_t(threads_.size());
}

void ThreadPool::run(int64_t count, int64_t threads, Task task) {
  FPL_ASSERT(count >= 0 && threads > 0);
  const int64_t helpers = std::min(threads, count) - 1;
  if (helpers <= 0) {
    const FloatEnvironment environment;
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  Batch batch(task, count, helpers);
  std::unique_lock<std::mutex> lock(mutex_);
  // One at a time: a list for all of them allocates with some standard libraries.
  while (!ended_.empty()) {
    std::thread ended = std::move(ended_.front());
    ended_.pop_front();
    lock.unlock();
    ended.join();
    lock.lock();
  }
  // Threads are started when first needed. If there are none to be had, or no memory for them, the caller does the work
  // alone.
  try {
    while (int64_t(threads_.size()) < helpers) threads_.emplace_back(&ThreadPool::help, this);
  } catch (const std::exception&) {
  }
  open(batch);
  lock.unlock();
  for (int64_t i = 0; i < helpers; ++i) wake_.notify_one();
  batch.work();
  lock.lock();
  close(batch);
  lock.unlock();
  spinUntil([&] { return batch.helpersInside == 0; });
  lock.lock();
  batch.idle.wait(lock, [&] { return batch.helpersInside == 0; });
  if (batch.error) std::rethrow_exception(batch.error);
}

void ThreadPool::help() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    lock.unlock();
    spinUntil([&] { return wanted_.load(); });
    lock.lock();
    if (!wake_.wait_for(lock, idle_, [&] { return stopping_ || open_; })) return leave();
    if (stopping_) return;
    Batch* const batch = open_;
    ++batch->helpersInside;
    if (--batch->helpersWanted == 0) close(*batch);
    lock.unlock();
    batch->work();
    lock.lock();
    // The caller waits for this under the same mutex, so the batch outlives the notification.
    if (--batch->helpersInside == 0) batch->idle.notify_one();
  }
}

// Both under the mutex.
void ThreadPool::open(Batch& batch) {
  Batch** end = &open_;
  while (*end) end = &(*end)->following;
  *end = &batch;
  wanted_ = true;
}

void ThreadPool::close(Batch& batch) {
  Batch** at = &open_;
  while (*at && *at != &batch) at = &(*at)->following;
  if (*at) *at = batch.following;
  wanted_ = open_ != nullptr;
}

// The last thing that a thread does, under the mutex. Another thread has to join it.
void ThreadPool::leave() {
  const auto self = std::find_if(threads_.begin(), threads_.end(), [](const std::thread& thread) {
    return thread.get_id() == std::this_thread::get_id();
  });
  ended_.splice(ended_.end(), threads_, self);
}

}  // namespace fpl
#endif
