// Packs factors of matrix products in panels (see PanelShape), and has the memory for them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"
#include "mutex.h"

namespace fpl {

// Memory for floats. It begins at a cache line and is not cleared.
class FloatBuffer {
 public:
  explicit FloatBuffer(int64_t count) : memory_(new float[count + kLine]) {
    FPL_ASSERT(count >= 0);
    const auto skipped = (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64) % 64;
    data_ = memory_.get() + skipped / sizeof(float);
  }

  float* data() const { return data_; }

 private:
  static constexpr int64_t kLine = 64 / sizeof(float);
  std::unique_ptr<float[]> memory_;
  float* data_;
};

// Buffers that tasks borrow. There are as many as tasks can run at once: each task finds one, and none allocates.
class BufferPool {
 public:
  BufferPool(int64_t count, int64_t size) {
    buffers_.reserve(count);
    for (int64_t i = 0; i < count; ++i) buffers_.emplace_back(size);
    for (const FloatBuffer& buffer : buffers_) free_.push_back(buffer.data());
  }

  class Loan {
   public:
    explicit Loan(BufferPool& pool) : pool_(pool) {
      const Locked locked(pool_.mutex_);
      FPL_ASSERT(!pool_.free_.empty());
      data_ = pool_.free_.back();
      pool_.free_.pop_back();
    }
    ~Loan() {
      const Locked locked(pool_.mutex_);
      pool_.free_.push_back(data_);
    }
    Loan(const Loan&) = delete;
    float* data() const { return data_; }

   private:
    BufferPool& pool_;
    float* data_;
  };

 private:
  Mutex mutex_;
  std::vector<FloatBuffer> buffers_;
  std::vector<float*> free_;  // never longer than it was: it does not allocate
};

inline void packAlong(const Kernels& kernels, const Vectors& vectors, int64_t count, int64_t depth, int64_t width,
                      int64_t first, int64_t end, float* panels, int64_t panel) {
  kernels.packAlong[int(vectors.dtype)](vectors, count, depth, width, first, end, panels, panel);
}
inline void packAcross(const Kernels& kernels, const Vectors& vectors, int64_t offset, int64_t count, int64_t depth,
                       int64_t width, int64_t first, int64_t end, float* panels, int64_t panel) {
  kernels.packAcross[int(vectors.dtype)](vectors, offset, count, depth, width, first, end, panels, panel);
}

}  // namespace fpl
