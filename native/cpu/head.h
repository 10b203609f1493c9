// The output layer on the CPU: stages 1 and 4 on logits that exist a tile at a time.
//
// Rows are worked on in groups. The packed hidden states of a group stay in the cache while the vocabulary goes by
// once. The order of all additions depends on the sizes alone, so the bits do not depend on the number of threads.
//
// In names, a word is an entry of the vocabulary, a row of the weight; a feature is a column of the weight.
#pragma once

#include <algorithm>
#include <vector>

#include "panels.h"
#include "rows.h"

namespace fpl {

// Stage 1: logProb and state of every active row, and the by-products asked for.
void headTokenLogProbs(const Forward& forward, const Tokens& tokens, const Sequences& sequences, TokenState* states,
                       float* sumSquaredProbs, const CpuContext& context);

// Stage 4: the gradients with respect to hidden, weight and bias.
void headGradient(const HeadGradient& gradient, const Tokens& tokens, const Sequences& sequences,
                  const CpuContext& context);

// Whether other products than ours can be had.
#if defined(__wasm__)
inline constexpr bool kHasChunks = false;
#else
inline constexpr bool kHasChunks = true;
#endif
// Whether gradients are rounded where a job asks for it. A module of WebAssembly has no room for that; lib refuses it.
inline constexpr bool kHasRounding = kHasChunks;

// Both stages with the products of context.blas or context.tiles, on the logits of a chunk of rows after the other.
void chunkedTokenLogProbs(const Forward& forward, const Tokens& tokens, const Sequences& sequences, TokenState* states,
                          float* sumSquaredProbs, const CpuContext& context);
void chunkedGradient(const HeadGradient& gradient, const Tokens& tokens, const Sequences& sequences,
                     const CpuContext& context);

// Stage 4: zeros for the rows of hidden's gradient that take no part, where it is to have these. `idle`: active rows
// whose coefficients are 0.
void clearRows(const HeadGradient& gradient, const Tokens& tokens, const std::vector<int64_t>& idle);
// The same for all of weight's and bias's gradient, where no row takes part and nothing is added.
void clearWeights(const HeadGradient& gradient);

// Gradients of any type, of which [begin, end) become those sums, or those sums added to what they are.
void putSums(DType dtype, const float* sums, void* out, int64_t begin, int64_t end, bool add);

// The sizes of the pieces of work. They depend on the sizes of the head alone.
struct HeadTiling {
  explicit HeadTiling(const Head& head, int64_t vocab);

  static constexpr int64_t kRows = kRowsOfTile;

  int64_t groupRows;     // of a group: their packed hidden states take 4 MB
  int64_t tileWords;     // of a tile of logits: their packed weights take 1 MB
  int64_t blockWords;    // between two additions to the gradients
  int64_t segmentWords;  // of a segment, whose states stage 1 merges in order
};

// Packs the parts of a head, and multiplies them.
class HeadReader {
 public:
  HeadReader(const Head& head, int64_t vocab, const Kernels& kernels);

  // Elements from panel to panel of a factor of the logits. A panel has so many rows or columns.
  int64_t panel(int64_t width) const { return packing_.panel(head_.width(), width); }
  // Elements of all panels of `count` rows or columns.
  int64_t panels(int64_t count, int64_t width) const { return packing_.panels(count, head_.width(), width); }

  // Packs the hidden states of `count` rows, which begin there, as the left factor of the logits; the depth is the
  // width. Only panels from .. to.
  void packHidden(const void* const* states, int64_t count, int64_t from, int64_t to, float* panels) const;
  // Packs the weights of words first .. first + count as the right factor of the logits; the depth is the width. Only
  // panels from .. to.
  void packForLogits(int64_t first, int64_t count, int64_t from, int64_t to, float* panels) const;
  // The same as the right factor of hidden's gradient; the depth is `count`.
  void packForHidden(const Packing& packing, int64_t first, int64_t count, int64_t columns, int64_t from, int64_t to,
                     float* panels) const;
  // Features d .. d + count of a word's weights; they are in `buffer`, or where they are float32.
  const float* weights(int64_t word, int64_t d, int64_t count, float* buffer) const;

  // Makes a tile of logits of packed hidden states and weights. Its rows are `stride` elements apart.
  void logits(const float* hiddenPanels, int64_t rows, const float* weightPanels, int64_t first, int64_t words,
              float* tile, int64_t stride) const;

 private:
  const Head& head_;
  const Packing packing_;             // of the logits' factors
  std::vector<float> bias_;           // [V], or empty
  std::vector<const void*> weights_;  // the beginnings of the words, if byWord_, or of the features
  bool byWord_;                       // the weights of a word are neighbours
  std::vector<char> zeros_;           // as many weights as a word has: they follow the last word
};

}  // namespace fpl
