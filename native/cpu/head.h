// The output layer on the CPU: stages 1 and 4 on logits that exist a tile at a time.
//
// Rows are worked on in groups whose hidden states, packed, stay in the cache; for each, the vocabulary goes by once.
// What is added to what in which order depends on the sizes alone, so the bits do not depend on the number of threads.
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

// Sizes of the work, by the sizes of the head alone.
struct HeadTiling {
  explicit HeadTiling(const Head& head, int64_t vocab);

  static constexpr int64_t kRows = kRowsOfTile;

  int64_t groupRows;               // such that they take 4 MB when packed
  int64_t tileWords;               // of a tile of logits, such that their weights take 1 MB when packed
  int64_t blockWords;              // between two additions to the gradients
  int64_t segmentWords, segments;  // parts of the vocabulary that stage 1 merges in order
};

// The parts of a head, as they are packed.
class HeadReader {
 public:
  HeadReader(const Head& head, int64_t vocab);

  // Rows of hidden states, along the width.
  Vectors hidden(const std::vector<const void*>& begins) const { return {head_.hidden.dtype, begins.data()}; }
  std::vector<const void*> begins(const int64_t* rows, int64_t count) const;

  // The weights of words first .. first + count as right factor of the logits, as deep as the width; panels from .. to.
  void packForLogits(int64_t first, int64_t count, int64_t columns, int64_t from, int64_t to, float* panels) const;
  // The same as right factor of hidden's gradient, as deep as there are words.
  void packForHidden(int64_t first, int64_t count, int64_t columns, int64_t from, int64_t to, float* panels) const;

  // A tile of logits from packed hidden states and weights; `stride` elements from row to row.
  void logits(const Kernels& kernels, const float* hiddenPanels, int64_t rows, const float* weightPanels, int64_t first,
              int64_t words, float* tile, int64_t stride) const;

 private:
  const Head& head_;
  std::vector<float> bias_;           // [V], or empty
  std::vector<const void*> weights_;  // where each word's weights begin, or each feature's
  bool byWord_;                       // a word's weights are neighbours
};

}  // namespace fpl
