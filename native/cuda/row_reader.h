// How the threads of a block read a row of logits: by Quads, 16 bytes a load, wherever the row lies in memory. Nothing
// behind the row is read nor, where the first Quad begins with it, before it.
#pragma once

#include "reduce.h"

namespace fpl {
namespace cuda {

// A row as Quads, the first of which has its first `ahead` logits before the row. They need not lie on 16-byte
// boundaries: then each is put together from the two aligned ones that it reaches into.
template <typename T>
class RowReader {
 public:
  static constexpr uint32_t kPer = kPerQuad<T>, kThreads = kBlockThreads;

  FPL_DEVICE RowReader(const T* row, uint32_t vocab, uint32_t ahead) : vocab_(vocab), ahead_(ahead) {
    const char* const first = reinterpret_cast<const char*>(row - ahead);
    off_ = uint32_t(reinterpret_cast<uintptr_t>(first) % sizeof(Quad));
    from_ = reinterpret_cast<const Quad*>(first - off_);
  }

  FPL_DEVICE bool isAligned() const { return off_ == 0; }
  // The Quads that can be loaded; what else the row has is read element by element.
  FPL_DEVICE uint32_t begin() const { return ahead_ > 0 || off_ > 0; }
  FPL_DEVICE uint32_t end() const {
    const uint32_t boundaries = (ahead_ + vocab_ + off_ / uint32_t(sizeof(T))) / kPer;
    const int32_t first = int32_t(begin()), end = int32_t(boundaries) - (off_ > 0);
    return uint32_t(end < first ? first : end);
  }
  // Where the first logit of a Quad stands in the row.
  FPL_DEVICE uint32_t placeOf(uint32_t quad) const { return quad * kPer - ahead_; }

  // Quads first + v · kThreads, all loads before the first use of one. Unless `kWhole`, those that are not among low ..
  // high are zeros. `kKeeps`: the row will be read again soon.
  template <bool kAligned, bool kWhole, bool kKeeps, int kCount>
  FPL_DEVICE void load(uint32_t first, uint32_t low, uint32_t high, Quad (&quads)[kCount]) const {
    const Quad* const from = from_ + first;
    Quad next[kCount];
#pragma unroll
    for (uint32_t v = 0; v < kCount; ++v) {
      const uint32_t at = first + v * kThreads;
      quads[v] = next[v] = {};
      if (!kWhole && (at < low || at >= high)) continue;
      const Quad* const p = from + v * kThreads;
      quads[v] = kAligned && !kKeeps ? loadStreaming(p) : loadCached(p);
      if (!kAligned) next[v] = loadCached(p + 1);
    }
#pragma unroll
    for (uint32_t v = 0; v < kCount; ++v) quads[v] = kAligned ? quads[v] : between(quads[v], next[v], off_);
  }

  // The logits of Quads first + v · kThreads, with `outside` in the place of what is not the row's. Whether all are.
  template <bool kAligned, bool kKeeps, int kLogits>
  FPL_DEVICE bool read(uint32_t first, float outside, float (&x)[kLogits]) const {
    constexpr uint32_t kCount = kLogits / kPer;
    const uint32_t low = begin(), high = end();
    const T* const row = reinterpret_cast<const T*>(reinterpret_cast<const char*>(from_) + off_) + ahead_;
    Quad quads[kCount];
    const bool isWhole = first >= low && first + (kCount - 1) * kThreads < high;
    if (isWhole) {
      load<kAligned, true, kKeeps>(first, low, high, quads);
    } else {
      load<kAligned, false, kKeeps>(first, low, high, quads);
    }
#pragma unroll
    for (uint32_t v = 0; v < kCount; ++v) unpack(quads[v], x + v * kPer, row);
    if (isWhole) return true;
#pragma unroll
    for (uint32_t v = 0; v < kCount; ++v) {
      const uint32_t quad = first + v * kThreads, at = placeOf(quad);
      if (quad >= low && quad < high) continue;
#pragma unroll
      for (uint32_t i = 0; i < kPer; ++i) x[v * kPer + i] = at + i < vocab_ ? toFloat(row[at + i]) : outside;
    }
    return false;
  }

 private:
  const Quad* from_;              // the boundary at or before the first Quad
  uint32_t vocab_, ahead_, off_;  // bytes from there to it
};

}  // namespace cuda
}  // namespace fpl
