// Memory that runs out: operator new of this program, which fails when it is told to.
#pragma once

#include <cstdint>

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
