// The four stages on a GPU: launchers that enqueue on a stream and return. Everything they are given points to device
// memory. Each file's kernels also run on the host, block by block (device.h), which is how they are tested.
#pragma once

#include "../core/job.h"
#include "launch.h"

namespace fpl {
namespace cuda {

// A target that is neither a label nor -1: the caller's label, on the device, was outside the vocabulary.
constexpr int32_t kInvalidTarget = -2;

// Stage 0, when the labels are on the device.
void targetsOf(const DeviceLabels& labels, const int32_t* offsets, int64_t sequences, int64_t vocab, int32_t* targets,
               int32_t* counts, int32_t* invalid, Stream stream);

// How stage 1 cuts a row: into segments that depend on the vocabulary alone and are merged in order, whether one block
// walks over all of them or each has a block of its own. So a row's bits do not depend on how many rows there are.
struct RowSegments {
  explicit RowSegments(int64_t vocab) : count((vocab + kLength - 1) / kLength) {}
  static constexpr int64_t kLength = 16384;
  int64_t count;
};

// What stage 1 leaves of a row, or of a segment of it, until the row is finished.
struct PartialSums {
  double sum;
  Unit unit;
};
struct PartialByProducts {
  double weighted, squares;
  float maximum;
  int32_t argmax;
};

// Scratch of stage 1. Where a block walks over whole rows there is one partial a row, and the sums lie where the row's
// state will be; where segments have blocks of their own there are RowSegments::count a row.
struct SweepScratch {
  bool split = false;
  PartialSums* sums = nullptr;              // [R · count] when split; else [R], or null: where the states will be
  PartialByProducts* byProducts = nullptr;  // [R] or [R · count]; null: not wanted
};

// Stage 1: rows first .. end. `tokens.targets` says which are active.
void sweepRows(const Forward& forward, const Tokens& tokens, const SweepScratch& scratch, int64_t first, int64_t end,
               Stream stream);
// Stage 1's end: states and results of all rows. Those of row i go to places[i] (none where that is -1), or to i where
// `places` is null.
void finishRows(const Forward& forward, const Tokens& tokens, const SweepScratch& scratch, const int32_t* places,
                Stream stream);

// Stage 2.
void sequenceSums(const Forward& forward, const Tokens& tokens, Stream stream);

// Stage 3, with what is carried from sequences to pairs before it and from pairs to sequences after it.
struct PairIndex {
  // The pairs each sequence is in: entries starts[s] .. starts[s + 1] of `slots`, places in `pairs`.
  const int32_t* starts = nullptr;  // [S + 1]
  const int32_t* slots = nullptr;   // [2 P]
  int32_t* ranks = nullptr;         // [3 P] scratch of the losses that match by rank
};
void preferenceLoss(const PreferenceLoss& loss, const Forward* policy, const Forward* reference, const Tokens& tokens,
                    const PairIndex& index, double* coefficients, double* plainCoefficients, Stream stream);
// That of single sequences; coefficients may be null.
void unpairedPreferenceLoss(const UnpairedPreferenceLoss& loss, double* coefficients, Stream stream);

// Stage 4. `values` is scratch, [R]; it may lie where the states are, which are then gone.
void rowGradients(const Gradient& gradient, const Tokens& tokens, Stream stream);
void logitsGradient(const Gradient& gradient, const Tokens& tokens, int64_t first, int64_t end, Stream stream);

// A head's logits are made of the rows that predict something alone, side by side in `count` slots. Those past the last
// such row stay empty: without a row and without a target.
struct ActiveRows {
  int32_t* rows = nullptr;     // [count] ascending, then -1
  int32_t* targets = nullptr;  // [count] theirs, then -1
  int64_t count = 0;
};
void compactRows(const int32_t* targets, int64_t count, const ActiveRows& active, Stream stream);

// Rows of `from` (null: the first `count`; zeros for -1) in their own type or as float32, each `stride` from the last.
void copyRows(const Rows& from, const int32_t* rows, int64_t count, void* out, DType dtype, int64_t stride,
              Stream stream);
// The bias as the logits of every row.
void spreadBias(const Head::Bias& bias, float* logits, int64_t rows, int64_t vocab, int64_t stride, Stream stream);
// What `rowGradients` has put where the states of active rows were; and the rows with a gradient other than 0, -1 in
// place of the others.
void gatherStates(const TokenState* states, const ActiveRows& active, TokenState* out, int32_t* rows, Stream stream);

// A power of two that brings a gradient into the range of float16, and what takes it out of a product again.
struct GradientScale {
  float up, down;
  float zero, one;
};
void gradientScale(const TokenState* values, int64_t count, GradientScale* scale, Stream stream);
// The logits' gradient times `scale` (null: 1), rounded to 16 bits in place: each row takes the first half of its room.
void roundGradient(float* gradient, int64_t rows, int64_t vocab, int64_t stride, DType dtype, const float* scale,
                   Stream stream);

// The bias' gradient: sums over rows, one after the other in float64, and what they come to.
void addColumns(const float* gradient, int64_t rows, int64_t vocab, int64_t stride, double* sums, Stream stream);
void writeColumns(const double* sums, int64_t vocab, float* out, bool accumulate, Stream stream);
// Hidden's gradient: the active rows' to their places, zeros to the others'.
void scatterRows(const float* from, int64_t stride, const int32_t* rows, int64_t count, int64_t width, float* out,
                 bool accumulate, Stream stream);
void clearInactive(const int32_t* targets, int64_t count, int64_t width, float* out, Stream stream);

}  // namespace cuda
}  // namespace fpl
