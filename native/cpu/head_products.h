// The three products of an output layer's step, on a chunk of rows whose logits are in memory: by a library of BLAS, or
// on AMX's tiles.
#pragma once

#include <algorithm>
#include <memory>

#include "head.h"

namespace fpl {

// Words first .. end of the vocabulary.
struct Words {
  int64_t first, end;
  int64_t count() const { return end - first; }
};

// What they need is allocated when they are made. Logits and gradients are those of a block of words of a chunk of
// rows, which are `stride` elements apart.
class HeadProducts {
 public:
  virtual ~HeadProducts() = default;

  // The rows of the logits that follow.
  virtual void setRows(const int64_t* rows, int64_t count) = 0;
  virtual void logits(const Words& block, float* out, int64_t stride) = 0;

  // What the sums take in the place of a gradient of all words, where it is to be rounded before they take it. (Tiles
  // round as they pack.)
  virtual void round(float*, int64_t /* stride */, int64_t /* count */) {}
  // out [count, D] = gradient · weight over the block; it is added to `out` where the block is not the first.
  virtual void hiddenSums(const Words& block, const float* gradient, int64_t stride, int64_t count, float* out) = 0;

  // The rows of the weightSums that follow. Only hidden states of rows that take part are read: 0 times the others need
  // not be 0.
  virtual void setStates(const int64_t* rows, const char* takesPart, int64_t count) = 0;
  // Σ gradient · hidden over the rows, for the block's words, in `out` [V, D] in the order of the weight's elements,
  // without gaps.
  virtual void weightSums(const Words& block, const float* gradient, int64_t stride, int64_t count, float* out,
                          bool add) = 0;
};

// Those of context.blas, of chunks of up to `mostRows` rows; gradients are rounded to that precision.
std::unique_ptr<HeadProducts> blasProducts(const Head& head, int64_t vocab, int64_t mostRows, DType precision,
                                           const CpuContext& context);
// Those of context.tiles. Their bits do not depend on the chunks, where each but the last has whole steps of rows.
std::unique_ptr<HeadProducts> tileProducts(const Head& head, int64_t vocab, int64_t mostRows, DType precision,
                                           const CpuContext& context);

// Words of a block: whole steps of them, as many as give each thread the logits that its cache has room for. A library
// of BLAS, which has blocks of its own, has all words at once.
inline int64_t wordsOfBlock(int64_t rows, int64_t vocab, int64_t step, int64_t threads, bool onTiles) {
  constexpr int64_t kLogits = 1 << 19;
  return onTiles ? std::min(vocab, ceilDiv(threads * kLogits, rows * step) * step) : vocab;
}

// Elements from one row to the next of logits of so many words: an odd number of cache lines, as rows whose distance is
// a power of two would share a few lines of the cache.
constexpr int64_t strideOfLogits(int64_t words) {
  constexpr int64_t kLine = 64 / sizeof(float);
  return (ceilDiv(words, kLine) | 1) * kLine;
}

constexpr int64_t kStepOfStates = kBlock;  // of stage 1, whose row states take blocks
constexpr int64_t kStepOfSums = 1024;      // of stage 4: tiles sum the products of so many words for hidden's gradient

// Calls work(begin, end) for parts of [0, count), on all threads.
template <typename Work>
void forParts(int64_t count, int64_t part, const CpuContext& context, const Work& work) {
  context.pool.run(ceilDiv(count, part), context.threads,
                   [&](int64_t task) { work(task * part, std::min(count, (task + 1) * part)); });
}

}  // namespace fpl
