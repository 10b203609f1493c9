// The memory of the caller's arrays while threads of ours use it.
//
// A reference keeps an ArrayBuffer, but not its memory: that goes to somebody else when the buffer is transferred, and
// is freed when they let go of it. Node-API cannot hold it. V8 can, by a share in its ownership. V8's own interface is
// stable within a major version of Node only, and shares are std::shared_ptr, whose layout is that of a C++ library. So
// V8 is asked where both are known: by names looked up when the addon is loaded, in major versions on which this was
// tried, on Linux x64, where V8 was compiled with libstdc++. Elsewhere nothing is held, and callers are asked not to
// transfer arrays in use.
#pragma once

#include <vector>

#include "napi.h"

namespace fpl {

// A share in the ownership of memory: a std::shared_ptr of libstdc++, whatever library the addon is compiled with.
class MemoryShare {
 public:
  MemoryShare() = default;
  MemoryShare(MemoryShare&& other) noexcept;
  MemoryShare& operator=(MemoryShare&& other) noexcept;
  ~MemoryShare();

 private:
  struct Owners;

  void* memory_ = nullptr;
  Owners* owners_ = nullptr;
};

// Shares in the memory of arrays. May be dropped on any thread while the environment exists.
class LentMemory {
 public:
  // Whether it can be held, in this process.
  static bool held(napi_env env);

  // Holds the memory of a typed array, if it can be held, and unless it is shared, which nobody can take away.
  void hold(napi_env env, napi_value typedArray);

  void release() { shares_.clear(); }

 private:
  std::vector<MemoryShare> shares_;
};

}  // namespace fpl
