// Stage 1 on a GPU: every active row of logits is read once into its row state.
#include "devices.h"
#include "row_sweep.h"

namespace fpl {
namespace cuda {
namespace {

using namespace sweeping;

template <typename T, Sweep kFinds, bool kCaps>
FPL_KERNEL(kThreads, kBlocksOf<kFinds>)
sweepKernel(FPL_ARGUMENT SweepArguments a) {
  FPL_SHARED(Shares<kFinds>, shares);
  FPL_SHARED(SegmentResults<kFinds>, results);
  a.tasks.each([&](uint32_t row, uint32_t task) {
    const int32_t label = a.targets[row];
    if (label < 0) return;
    const int64_t first = int64_t(task) * a.segmentsPerTask;
    const T* const logits = a.logits.template at<T>(row);
    const Swept swept =
        sweptSegments<T, kFinds, kCaps, false>(a, logits, uint32_t(label), first, {0, 1}, shares, results);
    if (threadIndex() == 0) putPartial<kFinds>(swept, a.partials, int64_t(row) * a.tasks.pieces + task);
  });
}

template <typename T, Sweep kFinds, bool kCaps>
void sweep(const Forward& forward, const Tokens& tokens, const SweepScratch& scratch, const VisitedRows& rows,
           Stream stream) {
  SweepArguments a = sweepArguments(forward, tokens, scratch);
  const int64_t segments = RowSegments(forward.logits.vocab).count, tasksPerRow = scratch.perRow > 1 ? segments : 1;
  a.segmentsPerTask = int(segments / tasksPerRow);
  // A block each, which the GPU deals out best, unless it is not known how many there will be.
  const int64_t mostBlocks = rows.limit ? int64_t(blocksOf<kFinds>(currentTuning())) * multiprocessors() : kMostBlocks;
  forLaunches(rows, tasksPerRow, mostBlocks, [&](const RowTasks& tasks) {
    a.tasks = tasks;
    FPL_LAUNCH("token log-probs", (sweepKernel<T, kFinds, kCaps>), tasks.blocks, kThreads, stream, a);
  });
}

template <typename T, Sweep kFinds>
void sweepFor(const Forward& forward, const Tokens& tokens, const SweepScratch& scratch, const VisitedRows& rows,
              Stream stream) {
  const bool caps = tokens.capScale != 0;
  (caps ? sweep<T, kFinds, true> : sweep<T, kFinds, false>)(forward, tokens, scratch, rows, stream);
}

template <typename T>
void sweepAs(const Forward& forward, const Tokens& tokens, const SweepScratch& scratch, const VisitedRows& rows,
             Stream stream) {
  if (scratch.weighted) return sweepFor<T, Sweep::kWeighted>(forward, tokens, scratch, rows, stream);
  if (scratch.logits) return sweepFor<T, Sweep::kLogits>(forward, tokens, scratch, rows, stream);
  if (scratch.byProducts) return sweepFor<T, Sweep::kByProducts>(forward, tokens, scratch, rows, stream);
  sweepFor<T, Sweep::kSum>(forward, tokens, scratch, rows, stream);
}

}  // namespace

bool areSplit(int64_t rows) {
  const Tuning tuning = currentTuning();
  return rows < int64_t(tuning.rowsPerBlock) * tuning.sweepBlocks * multiprocessors();
}

void sweepRows(const Forward& forward, const Tokens& columns, const SweepScratch& scratch, const VisitedRows& rows,
               Stream stream) {
  switch (forward.logits.dtype) {
    case DType::kFloat32:
      return sweepAs<float>(forward, columns, scratch, rows, stream);
    case DType::kFloat16:
      return sweepAs<Float16>(forward, columns, scratch, rows, stream);
    case DType::kBFloat16:
      return sweepAs<BFloat16>(forward, columns, scratch, rows, stream);
  }
}

}  // namespace cuda
}  // namespace fpl
