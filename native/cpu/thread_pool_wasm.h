// The thread pool of a WebAssembly module. Its threads are workers that JavaScript starts, each with an instance of the
// module in the same memory, and which call `help`. A module without shared memory has no other thread than the
// caller's.
#pragma once

#include <atomic>
#include <cstdint>

#include "mutex.h"
#include "task.h"

namespace fpl {

class ThreadPool {
 public:
  // As the other ThreadPool's. A worker that is not there yet is not waited for: the caller does its work.
  void run(int64_t count, int64_t threads, Task task);

  // Whether threads that call `run` may sleep, as all but the main thread of a page may. By default they may not.
  void letCallersSleep(bool value) { callersSleep_ = value; }

  // Helps with whatever is run, for ever.
  [[noreturn]] void help();

 private:
  struct Batch {
    const Task task;
    const int64_t count;
    int64_t helpersWanted;  // guarded by mutex_
    Batch* following = nullptr;
    std::atomic<int32_t> helpersInside{0};
    std::atomic<int64_t> next{0};

    void work() {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
    }
  };

  Batch* take();
  void remove(Batch* batch);

  std::atomic<bool> callersSleep_{false};
  Mutex mutex_;
  Batch* open_ = nullptr;             // batches that want helpers
  std::atomic<int32_t> opened_{0};    // changes with every batch
  std::atomic<int32_t> sleeping_{0};  // threads
};

}  // namespace fpl
