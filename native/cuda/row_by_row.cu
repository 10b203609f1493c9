// Stages 1 and 4 row by row, on a GPU. Where all that stage 4 writes to a row is known once the row has been read, as
// it is with a loss of single tokens and with a deferred scale, a block reads the row and writes it while it lies in
// the second-level cache: it comes from memory once. The row's state is made once more with those of all rows.
#include <cstring>

#include "devices.h"
#include "row_sweep.h"
#include "row_writer.h"

namespace fpl {
namespace cuda {
namespace {

using sweeping::Sweep;
using writing::Form;

constexpr int kThreads = kBlockThreads;

struct RowArguments {
  sweeping::SweepArguments sweep;
  writing::GradientArguments gradient;
  Tokens tokens;
  TokenLoss loss;
  const double* divisor;  // of the loss; null: it is none of single tokens
  float* labelLogits;
  int groups;
};
static_assert(sizeof(RowArguments) <= 4096, "what a kernel may be given");

FPL_DEVICE RowValues valuesOf(const RowArguments& a, uint32_t row, int32_t label, const TokenState& token) {
  ResultSlopes slopes;
  if (a.divisor) {
    const double labelWeight = label < 0 ? 1 : a.loss.labelWeight(label);
    const TokenLossValue value = tokenLoss(a.loss.constants, token, 0, labelWeight, a.sweep.temperature.inverse);
    slopes = tokenLossSlopes(a.loss, a.tokens.weight(row), *a.divisor, value);
  }
  const Gradient& gradient = a.gradient.gradient;
  if (gradient.rowScale) slopes = writing::deferred(gradient, a.tokens, row, slopes.logProb);
  return writing::plainValues(token, slopes, a.gradient.making.perLogit);
}

// The groups of a block read the segments of a row in turn, and write a piece each.
template <typename T, Sweep kFinds, bool kCaps>
FPL_KERNEL(kThreads* kTuning.rowGroups, 1)
rowKernel(FPL_ARGUMENT RowArguments a) {
  FPL_SHARED(sweeping::Shares<kFinds>, shares);
  FPL_SHARED(sweeping::SegmentResults<kFinds>, results);
  FPL_SHARED(writing::Made, made);
  const int group = threadIndex() / kThreads;
  a.sweep.tasks.each([&](uint32_t row, uint32_t) {
    const int32_t label = a.sweep.targets[row];
    TokenState token{NAN, NAN, NAN, {}};
    if (label >= 0) {
      const T* const logits = a.sweep.logits.template at<T>(row);
      const Swept swept = sweeping::sweptSegments<T, kFinds, kCaps, true>(a.sweep, logits, uint32_t(label), 0,
                                                                          {group, a.groups}, shares, results);
      if (threadIndex() == 0) {
        const float logit = toFloat(logits[label]), labelLogit = kCaps ? capped(logit, a.sweep.cap) : logit;
        sweeping::putPartial<kFinds>(swept, a.sweep.partials, row);
        a.labelLogits[row] = labelLogit;
        token = finish(swept.state, labelLogit, a.sweep.temperature.inverse);
      }
    }
    if (label == -1 && a.gradient.gradient.skipInactive) return;
    RowValues values;
    barrier();  // all have read the row, and the values of the one before
    if (threadIndex() == 0 && label != -1) values = valuesOf(a, row, label, token);
    if (threadIndex() == 0) memcpy(&made, &values, sizeof made);
    barrier();
    memcpy(static_cast<void*>(&values), &made, sizeof made);
    const writing::Row<T, T, kCaps ? Form::kCapped : Form::kPlain> line(a.gradient, row, label, values);
    writePiece(line, uint32_t(group), a.gradient.pieceLength, uint32_t(threadIndex() - group * kThreads));
  });
}

// How a GPU is filled with blocks that have a row each.
struct Filling {
  int64_t blocks;
  int groups;  // of a block

  // The rows that are on their way leave some of the second-level cache to what is written. Where as many rows fit as a
  // multiprocessor holds groups, each has one group, so that the end of one is hidden behind the others; else a row has
  // them all.
  explicit Filling(const Rows& logits) {
    const int64_t rowBytes = logits.vocab * elementSize(logits.dtype), units = multiprocessors();
    const int most = currentTuning().rowGroups;
    const bool fits = 3 * rowBytes * units * most <= 2 * cacheBytes();
    groups = fits ? 1 : most;
    blocks = fits ? units * most : units;
  }

  // Two transfers of a row in the place of three pay unless too many blocks have nothing to do at the end.
  bool pays(int64_t rows) const { return 2 * blocks * writing::dividedUp(rows, blocks) < 3 * rows; }
};

template <typename T, Sweep kFinds, bool kCaps>
void launchRows(RowArguments& a, const VisitedRows& rows, const Filling& filling, Stream stream) {
  const int64_t tile = int64_t(currentTuning().gradientLoads) * kThreads;
  const int64_t tiles = writing::dividedUp(a.sweep.logits.vocab + kPerQuad<T>, kPerQuad<T> * tile);
  a.gradient.pieceLength = uint32_t(writing::dividedUp(tiles, filling.groups) * tile);
  forLaunches(rows, 1, filling.blocks, [&](const RowTasks& tasks) {
    a.sweep.tasks = tasks;
    FPL_LAUNCH("log-probs and gradient", (rowKernel<T, kFinds, kCaps>), tasks.blocks, kThreads * filling.groups, stream,
               a);
  });
}

template <typename T>
void launchRowsOf(RowArguments& a, const VisitedRows& rows, const Filling& filling, Stream stream) {
  const auto launch = a.sweep.partials.byProducts ? launchRows<T, Sweep::kByProducts, false>
                      : a.sweep.cap.present       ? launchRows<T, Sweep::kSum, true>
                                                  : launchRows<T, Sweep::kSum, false>;
  launch(a, rows, filling, stream);
}

}  // namespace

bool writesRowByRow(const Job& job, int64_t rows) {
  const Gradient& gradient = job.gradient;
  if (!job.hasPolicy || !job.hasGradient || !(job.hasTokenLoss || gradient.rowScale)) return false;
  // By-products of soft-capped logits would take more registers than a thread has.
  if (job.policy.wantsByProducts() && job.tokens.capScale != 0) return false;
  const bool isPlain = !wantsMeanLogit(job) && !writing::isFull(gradient);
  return isPlain && gradient.out.dtype == job.policy.logits.dtype && Filling(job.policy.logits).pays(rows);
}

void rowByRow(const Forward& forward, const Gradient& gradient, const Tokens& tokens, const TokenLossStage* loss,
              const SweepScratch& scratch, float* labelLogits, const VisitedRows& rows, Stream stream) {
  RowArguments a;
  a.sweep = sweeping::sweepArguments(forward, tokens, scratch);
  a.sweep.segmentsPerTask = int(RowSegments(forward.logits.vocab).count);
  a.gradient = writing::gradientArguments(gradient, nullptr, tokens, tokens);
  a.tokens = tokens;
  a.divisor = loss ? loss->divisor : nullptr;
  if (loss) a.loss = loss->loss;
  a.labelLogits = labelLogits;
  const Filling filling(forward.logits);
  a.groups = filling.groups;
  switch (forward.logits.dtype) {
    case DType::kFloat32:
      return launchRowsOf<float>(a, rows, filling, stream);
    case DType::kFloat16:
      return launchRowsOf<Float16>(a, rows, filling, stream);
    case DType::kBFloat16:
      return launchRowsOf<BFloat16>(a, rows, filling, stream);
  }
}

}  // namespace cuda
}  // namespace fpl
