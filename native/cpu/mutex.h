// A lock for a few instructions.
#pragma once

#if defined(__wasm__)
#include <atomic>
#else
#include <mutex>
#endif

namespace fpl {

#if defined(__wasm__)
// The C++ library has none for WebAssembly, whose main thread on a page must not sleep anyway.
class Mutex {
 public:
  void lock() {
    while (locked_.exchange(true, std::memory_order_acquire)) {
    }
  }
  void unlock() { locked_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> locked_{false};
};
#else
using Mutex = std::mutex;
#endif

class Locked {
 public:
  explicit Locked(Mutex& mutex) : mutex_(mutex) { mutex_.lock(); }
  ~Locked() { mutex_.unlock(); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  Mutex& mutex_;
};

}  // namespace fpl
