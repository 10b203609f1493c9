// The four stages on a GPU: launchers that enqueue on a stream and return. Everything they are given points to device
// memory. Each file's kernels also run on the host, block by block (device.h), which is how they are tested.
#pragma once

#include "../core/job.h"
#include "../core/row_gradient.h"
#include "launch.h"
#include "layout.h"

namespace fpl {
namespace cuda {

// A target that is neither a label nor -1: the caller's label, on the device, was outside the vocabulary.
constexpr int32_t kInvalidTarget = -2;

// Stage 0, when the labels are on the device.
void targetsOf(const DeviceLabels& labels, const int32_t* offsets, int64_t sequences, int64_t vocab, int32_t* targets,
               int32_t* counts, int32_t* invalid, Stream stream);

// After it, the weights [R] of rows where lengths of pairs are to count for less: `given`, or 1, times labels.ldAlpha
// in the rows that labels.partners are about.
void weighLengths(const DeviceLabels& labels, const Tokens& tokens, const double* given, double* weights,
                  Stream stream);

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

// Scratch of stage 1, for each row a partial or, where segments have blocks of their own, RowSegments::count.
struct SweepScratch {
  int64_t perRow = 1;
  PartialSums* sums = nullptr;
  PartialByProducts* byProducts = nullptr;  // null: not wanted
  double* logits = nullptr;                 // sums of the logits themselves; null: not wanted; else byProducts are, too
  double* weighted = nullptr;               // of them times classWeights; null: not wanted; else `logits` are, too
  const float* classWeights = nullptr;      // [V]
  const float* labelLogits = nullptr;       // [R] capped, where the rows of logits are elsewhere; or null

  void place(Layout& layout, int64_t partials, bool wantsByProducts, bool wantsMeanLogit, bool wantsWeighted) {
    sums = layout.scratch<PartialSums>(partials);
    if (wantsByProducts || wantsMeanLogit) byProducts = layout.scratch<PartialByProducts>(partials);
    if (wantsMeanLogit) logits = layout.scratch<double>(partials);
    if (wantsWeighted) weighted = layout.scratch<double>(partials);
  }
  // Without what a stage does not want.
  SweepScratch of(const Forward& stage, bool wantsMeanLogit) const {
    SweepScratch out = *this;
    if (!wantsMeanLogit) out.logits = out.weighted = nullptr;
    if (!wantsMeanLogit && !stage.wantsByProducts()) out.byProducts = nullptr;
    return out;
  }
};

// Stage 3 of single tokens, which stage 1 does row by row.
struct TokenLossStage {
  TokenLoss loss;
  double* divisor = nullptr;  // of the sum
  bool findsDivisor = false;  // it is the sum of the factors of the labels
  // The tokens' weights [R] as the caller gave them, or null, where loss.weightsOfLabels go into those of the job.
  const double* givenWeights = nullptr;
};

inline bool wantsMeanLogit(const Forward& stage, const TokenLossStage* loss) {
  return stage.tokenMeanLogits || (loss && loss->loss.wantsMeanLogit());
}
inline bool wantsMeanLogit(const Job& job) {
  return job.policy.tokenMeanLogits || (job.hasTokenLoss && job.tokenLoss.wantsMeanLogit());
}
inline bool wantsWeighted(const Job& job) { return job.hasTokenLoss && job.tokenLoss.classWeights; }

// The derivatives of the sum with respect to a row's results, by those of the row's own loss.
FPL_HD inline ResultSlopes tokenLossSlopes(const TokenLoss& loss, double weight, double divisor,
                                           const TokenLossValue& value) {
  const double slope = weight / divisor, scale = loss.gradientScale;
  ResultSlopes slopes;
  slopes.logProb = scale * weighed(slope, value.slopes.logProb);
  slopes.logSumExp = scale * weighed(slope, value.slopes.logSumExp);
  slopes.meanLogit = scale * weighed(slope, value.slopes.meanLogit);
  return slopes;
}

// Between stages 0 and 1, where the labels are on the device.
void weighTokens(const Tokens& tokens, const TokenLossStage& loss, int64_t rows, Stream stream);

// Where logits are columns of a larger vocabulary, functions that go over them take `columns`: the tokens with targets
// that are columns of these logits, or this where the label is not among them.
constexpr int32_t kElsewhere = INT32_MAX;

// The rows that a launch visits: first .. end or, where there is an order of rows, its places first .. end.
struct VisitedRows {
  int64_t first = 0, end = 0;
  const int32_t* order = nullptr;
  const int32_t* limit = nullptr;  // an earlier end, which only the device knows

  int64_t count() const { return end - first; }
};

// Rows in the order in which they are visited: those that predict something, then the others. So these cost nothing
// where nothing is to be done for them.
struct RowOrder {
  const int32_t* rows = nullptr;    // [R]
  const int32_t* active = nullptr;  // how many predict something, where only the device knows
  int64_t count = 0, most = 0;      // of all rows; of those that predict something at the most

  VisitedRows all() const { return {0, count, rows, nullptr}; }
  VisitedRows activeOnes() const { return {0, most, rows, active}; }
};
void orderRows(const int32_t* targets, int64_t count, int32_t* rows, int32_t* active, Stream stream);

// Stage 1. `columns.targets` says which rows are active.
void sweepRows(const Forward& forward, const Tokens& columns, const SweepScratch& scratch, const VisitedRows& rows,
               Stream stream);
// Whether rows are split: few leave most of the GPU idle otherwise. Their bits do not depend on it.
bool areSplit(int64_t rows);
// The logits of labels that are among the columns, capped if they have to be; those of other rows are left as they are.
void labelLogits(const Rows& logits, const Tokens& columns, float* out, Stream stream);
// Stage 1's end, of rows of an output layer, before their logits are gone: those of row i go to places[i], or nowhere
// where that is -1.
void finishRows(const Forward& forward, const Tokens& tokens, const TokenLossStage* loss, const SweepScratch& scratch,
                const int32_t* places, Stream stream);
// Where stage 3 finds a sequence in the pairs.
struct PairIndex {
  // The pairs each sequence is in: entries starts[s] .. starts[s + 1] of `slots`, places in `pairs`.
  const int32_t* starts = nullptr;  // [S + 1]
  const int32_t* slots = nullptr;   // [2 P]
  int32_t* ranks = nullptr;         // [3 P] scratch of the losses that match by rank
};
// Stages 2 and 3, and before them the end of stage 1: what the sweeps have left of the rows of a job's forwards, and
// what rows have that predict nothing; their sequences; then the loss, with what is carried from sequences to pairs
// before it and back after it.
struct LossStage {
  SweepScratch policy, reference;  // without sums: the rows are finished
  int64_t mostRows = 0;            // of a sequence
  PairIndex index;
  TokenLossStage tokenLoss;
  // [1 + 2 S] counters of blocks, 0 before and after.
  uint32_t* arrived = nullptr;
};
// `job` points to device memory.
void sequenceLosses(const Job& job, const LossStage& stage, Stream stream);

// What stage 4 makes of a row, and a bound of the magnitudes of what it writes to all logits but the label's. Where
// neither entropies nor mean logits have derivatives, a row is written as RowGradient says, with its factor as
// `constant`.
struct RowValues {
  FullRowGradient gradient;
  float largest = 0;

  FPL_HD bool isNan() const { return gradient.constant != gradient.constant; }
  // Whether all logits but the label's get the same value.
  FPL_HD bool isConstant() const { return gradient.constant == 0 && gradient.perLog == 0; }
  FPL_HD bool isZero() const { return isConstant() && gradient.everywhere == 0 && gradient.atLabel == 0; }
};

// Whether stage 4 makes the values of rows on the way: of a gradient of log-probs alone, they are little work.
inline bool makesValues(const Gradient& gradient) {
  const TokenCoefficients& own = gradient.tokenCoefficients;
  return !gradient.rowScale && !gradient.classWeights && !own.logSumExp && !own.entropy && !own.meanLogit;
}
// Stage 4: the rows' values [R], and the rows. `values` may be null where they are made on the way, of `tokens`.
// `mostWeight` is the largest of gradient.classWeights, or 1.
void rowValues(const Gradient& gradient, const Tokens& tokens, float mostWeight, RowValues* values, Stream stream);
void logitsGradient(const Gradient& gradient, const RowValues* values, const Tokens& tokens, const Tokens& columns,
                    const VisitedRows& rows, Stream stream);

// Stages 1 and 4 of rows whose gradient depends on nothing but the row, its loss and whether its scale is deferred. It
// leaves the partials, one of a row, and the label's logits [R], of which the rows are finished, and the gradient.
void rowByRow(const Forward& forward, const Gradient& gradient, const Tokens& tokens, const TokenLossStage* loss,
              const SweepScratch& scratch, float* labelLogits, const VisitedRows& rows, Stream stream);
// Whether that does what a job wants, and is faster than one stage after the other for so many rows. All is on the
// device. `rows`: those that predict something or, where only the device knows how many do, all. To know, the host
// would have to wait for the labels; a call most of whose rows predict nothing may take as long as a block takes for a
// row more.
bool writesRowByRow(const Job& job, int64_t rows);

// A head's logits are made of the rows that predict something alone, side by side in `count` slots. Those past the last
// such row stay empty: without a row and without a target.
struct ActiveRows {
  int32_t* rows = nullptr;     // [count] ascending, then -1
  int32_t* targets = nullptr;  // [count] theirs, then -1
  int32_t* found = nullptr;    // how many there are
  int64_t count = 0;
};
void compactRows(const int32_t* targets, int64_t count, const ActiveRows& active, Stream stream);

// Rows of `from` (null: the first `count`; zeros for -1) in their own type or as float32, each `stride` from the last.
void copyRows(const Rows& from, const int32_t* rows, int64_t count, void* out, DType dtype, int64_t stride,
              Stream stream);
// The values of active rows; and the rows with a gradient other than 0, -1 in place of the others.
void gatherValues(const RowValues* values, const ActiveRows& active, RowValues* out, int32_t* rows, Stream stream);

// A power of two that brings a gradient into the range of float16, and what takes it out of a product again.
struct GradientScale {
  float up, down;
  float zero, one;
};
void gradientScale(const RowValues* values, int64_t count, GradientScale* scale, Stream stream);
// Stage 4 of a head with 16-bit factors, in place: `gradient.out` are rows of their type, each in the first half of its
// logits' room, times `scale` (null: 1). It has zeros for the labels, whose own values [rows] go to `ofLabels`.
void narrowGradient(const Gradient& gradient, const RowValues* values, const Tokens& columns, const float* scale,
                    float* ofLabels, Stream stream);
// The same of a float32 gradient [1, rows] that has been written, whose products round it.
void takeLabelsApart(const Rows& gradient, const int32_t* labels, float* ofLabels, Stream stream);
// The rows of a chunk with the same label, in their order.
struct LabelLinks {
  int32_t* first = nullptr;  // [V] the first row with a label, or -1
  int32_t* next = nullptr;   // [rows] the next row with the same label, or -1
  int64_t vocab = 0;

  FPL_HD bool has(int32_t label) const { return label >= 0 && label < vocab; }
};
void linkLabels(const int32_t* labels, int64_t rows, const LabelLinks& links, Stream stream);
// What the labels' values add to the gradients of hidden and weight: products with the label's row of the weight, and
// with the row's hidden states.
struct LabelParts {
  const int32_t* labels;  // [rows]
  const float* gradient;  // [rows] 0 where there is none
  Rows hidden;            // [1, rows]
  Head::Weight weight;
  LabelLinks links;  // for the weight's
};
void addLabelsToHidden(const LabelParts& parts, float* out, int64_t stride, Stream stream);
void addLabelsToWeight(const LabelParts& parts, float* out, int64_t rowStride, int64_t columnStride, Stream stream);

// The bias' gradient, from the logits: sums over rows, one after the other in float64, of each strip of a chunk's rows;
// and what the strips' sums [strips, V] come to, one after the other.
constexpr int64_t kStripRows = 128;
constexpr int64_t stripsOf(int64_t rows) { return (rows + kStripRows - 1) / kStripRows; }
void addColumns(const Gradient& gradient, const RowValues* values, const Tokens& columns, double* sums, Stream stream);
void writeColumns(const double* sums, int64_t strips, int64_t vocab, void* out, DType dtype, bool accumulate,
                  Stream stream);
// Hidden's gradient: the active rows' to their places, zeros to the others'.
void scatterRows(const float* from, int64_t stride, const int32_t* rows, int64_t count, int64_t width, void* out,
                 DType dtype, bool accumulate, Stream stream);
void clearInactive(const int32_t* targets, int64_t count, int64_t width, void* out, DType dtype, Stream stream);
// The weight's gradient where it is not float32: its sums, rounded once.
void writeRounded(const float* from, int64_t count, void* out, DType dtype, bool accumulate, Stream stream);

}  // namespace cuda
}  // namespace fpl
