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

// How the factors of a product are packed and multiplied: as float32, or as pairs of bfloat16.
struct Packing {
#if defined(FPL_AVX512BF16)
  const Kernels& kernels;
  const PairKernels* pairs;  // or null
#else
  Packing(const Kernels& kernels, const PairKernels*) : kernels(kernels) {}
  const Kernels& kernels;
  static constexpr const PairKernels* pairs = nullptr;
#endif

  // Of so many terms.
  int64_t depth(int64_t terms) const { return pairs ? ceilDiv(terms, 2) : terms; }
  // Elements from panel to panel. A panel has so many rows or columns.
  int64_t panel(int64_t terms, int64_t width) const { return depth(terms) * width + (pairs ? kLeastSpace : 0); }
  // Elements of all panels of `count` rows or columns.
  int64_t panels(int64_t count, int64_t terms, int64_t width) const {
    return ceilDiv(count, width) * panel(terms, width);
  }

  // As Kernels has them; where the terms of pairs are odd in number, there is one more, which is 0.
  void along(const Vectors& vectors, int64_t count, int64_t terms, int64_t width, int64_t first, int64_t end,
             float* panels, int64_t panel) const {
    const PackAlong pack = pairs ? pairs->packAlong : kernels.packAlong[int(vectors.dtype)];
    pack(vectors, count, depth(terms), width, first, end, panels, panel);
  }
  void across(const Vectors& vectors, int64_t offset, int64_t count, int64_t terms, int64_t width, int64_t first,
              int64_t end, float* panels, int64_t panel) const {
    const PackAcross pack = pairs ? pairs->packAcross : kernels.packAcross[int(vectors.dtype)];
    pack(vectors, offset, count, depth(terms), width, first, end, panels, panel);
  }
  // Of panels first .. end, which have all their terms.
  void putLeast(int64_t first, int64_t end, float* panels, int64_t panel) const {
    for (int64_t p = first; pairs && p < end; ++p) {
      float* const begin = panels + p * panel;
      begin[panel - kLeastSpace] = pairs->least(begin, panel - kLeastSpace);
    }
  }

  void multiply(const Product& product) const { (pairs ? pairs->multiply : kernels.multiply)(product); }
};

}  // namespace fpl
