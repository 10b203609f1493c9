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

// A matrix as a list of vectors, its rows or its columns. The elements of a vector are neighbours, and each vector has
// an address of its own.
struct Vectors {
  DType dtype;
  const void* const* begins;
  int64_t skipped = 0;  // elements of each vector that are not part of the matrix, before the first that is

  // `count` elements of vector i, from `first` on. Float32 elements stay where they are; others are converted and put
  // into `buffer`.
  const float* read(int64_t i, int64_t first, int64_t count, float* buffer) const;
};

// Both pack panels first .. end of a factor that has `count` rows (or columns) and `depth` terms. A panel has `width`
// of the rows, and panels are `panel` elements apart. (In BLIS, one of them packs a transposed matrix.)
//
// Vector i is row i of the factor: its elements go along the depth.
void packAlong(const Vectors& vectors, int64_t count, int64_t depth, int64_t width, int64_t first, int64_t end,
               float* panels, int64_t panel);
// Vector k has term k of all rows: its elements go across them. Element `offset` is the one of row 0.
void packAcross(const Vectors& vectors, int64_t offset, int64_t count, int64_t depth, int64_t width, int64_t first,
                int64_t end, float* panels, int64_t panel);

}  // namespace fpl
