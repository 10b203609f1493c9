// Factors of matrix products, packed in panels (kernels.h), and the memory they lie in.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"

namespace fpl {

// Memory for floats, not cleared, that begins a cache line.
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

// Buffers that tasks borrow, as many as can be running at once, so that each finds one and none has to allocate.
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
      std::lock_guard<std::mutex> lock(pool_.mutex_);
      FPL_ASSERT(!pool_.free_.empty());
      data_ = pool_.free_.back();
      pool_.free_.pop_back();
    }
    ~Loan() {
      std::lock_guard<std::mutex> lock(pool_.mutex_);
      pool_.free_.push_back(data_);
    }
    Loan(const Loan&) = delete;
    float* data() const { return data_; }

   private:
    BufferPool& pool_;
    float* data_;
  };

 private:
  std::mutex mutex_;
  std::vector<FloatBuffer> buffers_;
  std::vector<float*> free_;  // never longer than it was: it does not allocate
};

// A matrix whose rows (or columns, whichever are `vectors`) are contiguous, each beginning where it likes.
struct Vectors {
  DType dtype;
  const void* const* begins;
  int64_t skipped = 0;  // elements before the first, of each

  // `count` elements from `first` on of vector i; float32 ones where they lie, others converted to `buffer`.
  const float* read(int64_t i, int64_t first, int64_t count, float* buffer) const;
};

// Packs panels first .. end of a factor, `width` of its `count` rows or columns each, `depth` terms; they are `panel`
// elements apart.
// Vector i is row or column i: it goes along the depth.
void packAlong(const Vectors& vectors, int64_t count, int64_t depth, int64_t width, int64_t first, int64_t end,
               float* panels, int64_t panel);
// Vector k is term k of every row or column; element `offset` belongs to the first one.
void packAcross(const Vectors& vectors, int64_t offset, int64_t count, int64_t depth, int64_t width, int64_t first,
                int64_t end, float* panels, int64_t panel);

}  // namespace fpl
