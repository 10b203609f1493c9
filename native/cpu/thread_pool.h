// The threads of one instance of the addon, which share numbered tasks. Any number of callers may call `run` at once. A
// caller works on its own tasks until all are done, and idle threads help it. Threads that are idle for a while end, so
// a call that asked for a thousand leaves none behind.
#pragma once

#if defined(__wasm__)
#include "thread_pool_wasm.h"
#else

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <list>
#include <mutex>
#include <thread>

#include "../core/asserts.h"
#include "../core/float_environment.h"
#include "task.h"

namespace fpl {

class ThreadPool {
 public:
  // Threads end when they have been idle for this long. Starting one again takes some 20 microseconds.
  explicit ThreadPool(std::chrono::milliseconds idle = std::chrono::seconds(5)) : idle_(idle) {}
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // The number of threads at the moment, without the callers'.
  int64_t size();

  // Calls task(i) once for every i in [0, count) on up to `threads` threads, the caller's included, and returns when
  // all are done. Any thread may run any task, and results must not depend on which does. All tasks have the same
  // floating-point environment. When a task throws, no more tasks are begun, and its exception is thrown here once the
  // others have ended; nothing else is thrown.
  void run(int64_t count, int64_t threads, Task task);

 private:
  struct Batch {
    const Task task;
    const int64_t count;
    int64_t helpersWanted;                  // guarded by mutex_
    Batch* following = nullptr;             // the same
    std::atomic<int64_t> helpersInside{0};  // changed under mutex_
    std::atomic<int64_t> next{0};
    std::condition_variable idle;
    std::atomic<bool> failed{false};
    std::exception_ptr error;  // of the first task that failed; to be read when all are done

    Batch(Task work, int64_t tasks, int64_t helpers) : task(work), count(tasks), helpersWanted(helpers) {}

    void work() {
      const FloatEnvironment environment;
      try {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
        next = count;
      }
    }
  };

  void help();
  void leave();
  void open(Batch& batch);
  void close(Batch& batch);

  const std::chrono::milliseconds idle_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Batch* open_ = nullptr;            // batches that want helpers, the oldest first
  std::atomic<bool> wanted_{false};  // whether there is such a batch; changed under mutex_
  std::list<std::thread> threads_;
  std::list<std::thread> ended_;  // have left, or are about to leave; they are still to be joined
  bool stopping_ = false;
};

}  // namespace fpl
#endif
