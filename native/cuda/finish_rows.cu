// The end of stage 1 on a GPU where it cannot wait for stage 2, and what of the loss of single tokens comes before it.
#include "finish_row.h"
#include "reduce.h"

namespace fpl {
namespace cuda {
namespace {

FPL_KERNEL(kBlockThreads, 2)
finishKernel(FPL_ARGUMENT FinishArguments a, const int32_t* places, int64_t rows) {
  const int64_t row = blockIndex() * kBlockThreads + threadIndex();
  if (row < rows && places[row] >= 0) finishRow(a, row, places[row]);
}

FPL_KERNEL(kBlockThreads, 2)
labelLogitsKernel(FPL_ARGUMENT Rows logits, const int32_t* columns, float* out, FPL_ARGUMENT CapConstants cap) {
  const int64_t row = blockIndex() * kBlockThreads + threadIndex();
  if (row >= logits.count() || columns[row] < 0 || columns[row] >= logits.vocab) return;
  const float logit = logitAt(logits, row, columns[row]);
  out[row] = cap.present ? capped(logit, cap) : logit;
}

// One block. What of the tokens' weights and the loss' divisor depends on the labels.
FPL_KERNEL(kBlockThreads, 1)
tokenWeightsKernel(const int32_t* targets, int64_t rows, FPL_ARGUMENT TokenLossStage a, double* weights) {
  FPL_SHARED(BlockSums, sums);
  double sum = 0;
  for (int64_t row = threadIndex(); row < rows; row += kBlockThreads) {
    const int32_t label = targets[row];
    const double* const toWeights = a.loss.weightsOfLabels;
    const double ofLabel = label < 0 ? 1 : toWeights ? toWeights[label] : a.loss.labelWeight(label);
    if (toWeights) weights[row] = a.givenWeights ? a.givenWeights[row] * ofLabel : ofLabel;
    if (label >= 0) sum += ofLabel;
  }
  sum = blockSum(sum, sums.of);
  // Where nothing counts the sum of the losses is 0.
  if (a.findsDivisor && threadIndex() == 0) *a.divisor = sum == 0 ? 1 : sum;
}

}  // namespace

void finishRows(const Forward& forward, const Tokens& tokens, const TokenLossStage* loss, const SweepScratch& scratch,
                const int32_t* places, Stream stream) {
  const int64_t rows = forward.logits.count(), blocks = (rows + kBlockThreads - 1) / kBlockThreads;
  FPL_LAUNCH("token log-probs", finishKernel, blocks, kBlockThreads, stream,
             FinishArguments(forward, tokens, scratch, loss), places, rows);
}

void labelLogits(const Rows& logits, const Tokens& columns, float* out, Stream stream) {
  const CapConstants cap(columns.capScale);
  const int64_t blocks = (logits.count() + kBlockThreads - 1) / kBlockThreads;
  FPL_LAUNCH("token log-probs", labelLogitsKernel, blocks, kBlockThreads, stream, logits, columns.targets, out, cap);
}

void weighTokens(const Tokens& tokens, const TokenLossStage& loss, int64_t rows, Stream stream) {
  FPL_LAUNCH("token loss", tokenWeightsKernel, 1, kBlockThreads, stream, tokens.targets, rows, loss,
             const_cast<double*>(tokens.weights));
}

}  // namespace cuda
}  // namespace fpl
