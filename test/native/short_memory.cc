#include "short_memory.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

std::atomic<int64_t> left{0};  // allocations until one fails; 0: none does, below 0: it has

[[maybe_unused]] void* allocate(size_t bytes, size_t alignment = 1) noexcept {
  if (left > 0 && --left == 0) {
    left = -1;
    return nullptr;
  }
  if (alignment <= alignof(std::max_align_t)) return std::malloc(bytes == 0 ? 1 : bytes);
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

[[maybe_unused]] void* allocateOrThrow(size_t bytes, size_t alignment = 1) {
  if (void* const memory = allocate(bytes, alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

namespace fpl {

ShortMemory::ShortMemory(int64_t k) { left = k; }
ShortMemory::~ShortMemory() { left = 0; }
bool ShortMemory::hasFailed() const { return left < 0; }

}  // namespace fpl

#if FPL_OWN_MEMORY
void* operator new(size_t bytes) { return allocateOrThrow(bytes); }
void* operator new[](size_t bytes) { return allocateOrThrow(bytes); }
void* operator new(size_t bytes, std::align_val_t alignment) { return allocateOrThrow(bytes, size_t(alignment)); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return allocate(bytes); }
void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return allocate(bytes, size_t(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
#endif
