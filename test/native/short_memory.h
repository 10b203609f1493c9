// Memory that runs out: operator new of this program, which fails when it is told to.
#pragma once

#include <cstdint>

// ThreadSanitizer has an operator new of its own.
#if defined(__SANITIZE_THREAD__)
#define FPL_OWN_MEMORY 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FPL_OWN_MEMORY 0
#endif
#endif
#if !defined(FPL_OWN_MEMORY)
#define FPL_OWN_MEMORY 1
#endif

namespace fpl {

// While it lives, the k-th allocation from here on fails, of all threads; for 0 none. One at a time.
struct ShortMemory {
  explicit ShortMemory(int64_t k);
  ~ShortMemory();
  ShortMemory(const ShortMemory&) = delete;

  // Whether it has failed.
  bool hasFailed() const;
};

}  // namespace fpl
