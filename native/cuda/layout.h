// Where things lie in a workspace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fpl {
namespace cuda {

// Gives out places in the workspace, one after the other: inputs, then results, then scratch. Walked over twice: to
// learn the size, and to have the addresses.
class Layout {
 public:
  // Bytes of the host's, and their place in the workspace.
  struct Copy {
    void* host;
    size_t offset, bytes;
  };

  explicit Layout(char* base) : base_(base) {}

  template <typename T>
  T* scratch(int64_t count) {
    const size_t at = end_;
    end_ += (size_t(count) * sizeof(T) + 255) / 256 * 256;
    return reinterpret_cast<T*>(base_ + at);
  }

  // A copy of what `host` points to; null for null.
  template <typename T>
  T* input(const T* host, int64_t count) {
    if (!host) return nullptr;
    inputs.push_back({const_cast<T*>(host), end_, size_t(count) * sizeof(T)});
    return scratch<T>(count);
  }

  template <typename T>
  T* result(T* host, int64_t count) {
    if (!host) return nullptr;
    results.push_back({host, end_, size_t(count) * sizeof(T)});
    return scratch<T>(count);
  }

  size_t end() const { return end_; }

  std::vector<Copy> inputs, results;

 private:
  char* base_;
  size_t end_ = 0;
};

}  // namespace cuda
}  // namespace fpl
