// Holds the memory of the caller's arrays while threads of the addon use it.
//
// A reference keeps an ArrayBuffer alive, but not its memory. The memory goes to another owner when the buffer is
// transferred, and is freed when that owner drops it. Node-API cannot hold it. V8 can, by a share in its ownership.
// V8's own interface is stable within a major version of Node only, and a share is a std::shared_ptr, whose layout
// depends on the C++ library. So memory is held where both are known: on Linux x64, where V8 was compiled with
// libstdc++, in the major versions of Node with which this was tried; V8's functions are looked up by name when the
// addon is loaded. Elsewhere nothing is held, and callers are asked not to transfer arrays in use.
#pragma once

#include <vector>

#include "napi.h"

namespace fpl {

// A share in the ownership of memory: a std::shared_ptr of libstdc++, even if the addon is compiled with another
// library.
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

// Shares in the memory of arrays. They may be dropped on any thread while the environment exists.
class LentMemory {
 public:
  // Whether memory can be held in this process.
  static bool held(napi_env env);

  // Holds the memory of a typed array, if that is possible. Shared memory, which nobody can take away, is not held.
  void hold(napi_env env, napi_value typedArray);

  void release() { shares_.clear(); }

 private:
  std::vector<MemoryShare> shares_;
};

}  // namespace fpl
