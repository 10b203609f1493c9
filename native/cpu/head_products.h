// The three products of an output layer's step, on a chunk of rows whose logits are in memory: by a library of BLAS, or
// on AMX's tiles.
#pragma once

#include <algorithm>
#include <memory>

#include "head.h"

namespace fpl {

// What they need is allocated when they are made.
class HeadProducts {
 public:
  virtual ~HeadProducts() = default;

  // [count, V] logits of these rows, `stride` elements apart.
  virtual void logits(const int64_t* rows, int64_t count, float* out, int64_t stride) = 0;
  // What the two below take in the place of a gradient [count, V], where it is to be rounded before they take it.
  // (Tiles round as they pack.)
  virtual void round(float*, int64_t, int64_t) {}
  // out [count, D] = gradient [count, V] · weight.
  virtual void hiddenSums(const float* gradient, int64_t stride, int64_t count, float* out) = 0;
  // Σ gradient · hidden over these rows, in the order of the weight's elements, without gaps. Only hidden states of
  // rows that take part are read: 0 times the others need not be 0.
  virtual void weightSums(const float* gradient, int64_t stride, const int64_t* rows, const char* takesPart,
                          int64_t count, float* out, bool add) = 0;
};

// Those of context.blas, of chunks of up to `mostRows` rows; gradients are rounded to that precision.
std::unique_ptr<HeadProducts> blasProducts(const Head& head, int64_t vocab, int64_t mostRows, DType precision,
                                           const CpuContext& context);
// Those of context.tiles. Their bits do not depend on the chunks, where each but the last has whole steps of rows.
std::unique_ptr<HeadProducts> tileProducts(const Head& head, int64_t vocab, int64_t mostRows, DType precision,
                                           const CpuContext& context);

// Calls work(begin, end) for parts of [0, count), on all threads.
template <typename Work>
void forParts(int64_t count, int64_t part, const CpuContext& context, const Work& work) {
  context.pool.run(ceilDiv(count, part), context.threads,
                   [&](int64_t task) { work(task * part, std::min(count, (task + 1) * part)); });
}

}  // namespace fpl
