// The end of stage 1 on a GPU, and stage 3 of single tokens: of what the sweeps have found of each row, its state, its
// results and its loss.
#include "reduce.h"
#include "softcap.h"
#include "swept.h"

namespace fpl {
namespace cuda {
namespace {

constexpr int kThreads = 256;

struct FinishArguments {
  Forward forward;
  Tokens tokens;
  TokenLoss loss;
  const double* divisor;  // of the loss; null: there is none
  SweepScratch partials;
  int64_t partialsPerRow;
  const int32_t* places;
  double inverseTemperature;
  CapConstants cap{0};
  int64_t rows;
};

FPL_DEVICE float logitAt(const Rows& rows, int64_t row, int64_t index) {
  if (rows.dtype == DType::kFloat32) return rows.at<float>(row)[index];
  return rows.dtype == DType::kFloat16 ? toFloat(rows.at<Float16>(row)[index]) : toFloat(rows.at<BFloat16>(row)[index]);
}

FPL_DEVICE Swept sweptAt(const SweepScratch& partials, int64_t place) {
  Swept swept =
      partials.byProducts ? take(partials.sums[place], partials.byProducts[place]) : take(partials.sums[place]);
  if (partials.logits) swept.logits = partials.logits[place];
  if (partials.weighted) swept.weighted = partials.weighted[place];
  return swept;
}

// `meanLogit`: with the weights of their classes, where the logits have any.
FPL_DEVICE void putTokenLoss(const FinishArguments& a, int64_t to, const TokenState& token, int32_t label,
                             double meanLogit) {
  const TokenLoss& l = a.loss;
  const double weight = a.tokens.weight(to), slope = weight / *a.divisor, scale = l.gradientScale;
  const double labelWeight = label < 0 ? 1 : l.labelWeight(label);
  const TokenLossValue value = tokenLoss(l.constants, token, meanLogit, labelWeight, a.inverseTemperature);
  l.losses[to] = weighed(weight, value.loss);
  if (!l.ofLogProb) return;
  l.ofLogProb[to] = scale * weighed(slope, value.slopes.logProb);
  l.ofLogSumExp[to] = scale * weighed(slope, value.slopes.logSumExp);
  l.ofMeanLogit[to] = scale * weighed(slope, value.slopes.meanLogit);
}

// `kShared`: the label's logit came with the states.
template <bool kShared>
FPL_KERNEL(kThreads, 2)
finishKernel(FPL_ARGUMENT FinishArguments a) {
  const int64_t row = blockIndex() * kThreads + threadIndex();
  if (row >= a.rows) return;
  const int64_t to = a.places ? a.places[row] : row;
  if (to < 0) return;
  const int32_t label = a.tokens.targets[row];
  const Forward& f = a.forward;
  // An inactive row, and one whose label is out of range.
  const double nothing = label == -1 ? 0 : NAN;
  TokenState token{nothing, nothing, nothing, {}};
  TokenByProducts more{nothing, nothing, nothing, -1};
  double meanLogit = nothing, weightedMean = nothing;
  if (label >= 0) {
    Swept swept = sweptAt(a.partials, row * a.partialsPerRow);
    for (int64_t i = 1; i < a.partialsPerRow; ++i) {
      swept.merge(sweptAt(a.partials, row * a.partialsPerRow + i), a.inverseTemperature);
    }
    float labelLogit = kShared ? a.partials.labelLogits[row] : logitAt(f.logits, row, label);
    if (!kShared && a.cap.present) labelLogit = capped(labelLogit, a.cap);
    token = finish(swept.state, labelLogit, a.inverseTemperature);
    if (a.partials.byProducts) more = byProducts(swept.state, token, label, labelLogit, a.inverseTemperature);
    meanLogit = swept.logits * a.inverseTemperature / double(f.logits.vocab);
    weightedMean = swept.weighted * a.inverseTemperature / double(f.logits.vocab);
  }
  f.states[to] = token;
  if (f.tokenLogProbs) f.tokenLogProbs[to] = float(token.logProb);
  if (f.entropies) f.entropies[to] = more.entropy;
  if (f.tokenEntropies) f.tokenEntropies[to] = float(more.entropy);
  if (f.tokenArgmax) f.tokenArgmax[to] = int32_t(more.argmax);
  if (f.logSumExp) f.logSumExp[to] = float(more.logSumExp);
  if (f.sumSquaredProbs) f.sumSquaredProbs[to] = float(more.sumSquaredProbs);
  if (f.tokenMeanLogits) f.tokenMeanLogits[to] = token.logProb != token.logProb ? NAN : float(meanLogit);
  if (!a.divisor) return;
  if (label == -1) {
    a.loss.losses[to] = 0;
  } else {
    putTokenLoss(a, to, token, label, a.loss.classWeights ? weightedMean : meanLogit);
  }
}

FPL_KERNEL(kThreads, 2)
labelLogitsKernel(FPL_ARGUMENT Rows logits, const int32_t* columns, float* out, FPL_ARGUMENT CapConstants cap) {
  const int64_t row = blockIndex() * kThreads + threadIndex();
  if (row >= logits.count() || columns[row] < 0 || columns[row] >= logits.vocab) return;
  const float logit = logitAt(logits, row, columns[row]);
  out[row] = cap.present ? capped(logit, cap) : logit;
}

struct Sums {
  double of[kThreads];
};

// One block. What of the tokens' weights and the loss' divisor depends on the labels.
FPL_KERNEL(kThreads, 1)
tokenWeightsKernel(const int32_t* targets, int64_t rows, FPL_ARGUMENT TokenLossStage a, double* weights) {
  FPL_SHARED(Sums, sums);
  double sum = 0;
  for (int64_t row = threadIndex(); row < rows; row += kThreads) {
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

// One block.
FPL_KERNEL(kThreads, 1)
tokenLossKernel(const double* losses, int64_t rows, const double* divisor, double* summary) {
  FPL_SHARED(Sums, sums);
  double sum = 0;
  for (int64_t row = threadIndex(); row < rows; row += kThreads) {
    sum += losses[row];  // of inactive rows 0
  }
  sum = blockSum(sum, sums.of);
  if (threadIndex() == 0) *summary = sum / *divisor;
}

}  // namespace

void finishRows(const Forward& forward, const Tokens& tokens, const TokenLossStage* loss, const SweepScratch& scratch,
                const int32_t* places, Stream stream) {
  FinishArguments a;
  a.forward = forward;
  a.tokens = tokens;
  a.divisor = loss ? loss->divisor : nullptr;
  if (loss) a.loss = loss->loss;
  a.partials = scratch;
  a.partialsPerRow = scratch.perRow;
  a.places = places;
  a.inverseTemperature = 1 / tokens.temperature;
  a.cap = CapConstants(tokens.capScale);
  a.rows = forward.logits.count();
  a.forward.logits.vocab = tokens.vocabOf(forward.logits);
  const int64_t blocks = (a.rows + kThreads - 1) / kThreads;
  if (scratch.labelLogits) {
    FPL_LAUNCH("token log-probs", finishKernel<true>, blocks, kThreads, stream, a);
  } else {
    FPL_LAUNCH("token log-probs", finishKernel<false>, blocks, kThreads, stream, a);
  }
}

void labelLogits(const Rows& logits, const Tokens& columns, float* out, Stream stream) {
  const CapConstants cap(columns.capScale);
  const int64_t blocks = (logits.count() + kThreads - 1) / kThreads;
  FPL_LAUNCH("token log-probs", labelLogitsKernel, blocks, kThreads, stream, logits, columns.targets, out, cap);
}

void weighTokens(const Tokens& tokens, const TokenLossStage& loss, int64_t rows, Stream stream) {
  FPL_LAUNCH("token loss", tokenWeightsKernel, 1, kThreads, stream, tokens.targets, rows, loss,
             const_cast<double*>(tokens.weights));
}

void sumTokenLosses(const TokenLossStage& loss, int64_t rows, Stream stream) {
  FPL_LAUNCH("token loss", tokenLossKernel, 1, kThreads, stream, loss.loss.losses, rows, loss.divisor,
             loss.loss.summary);
}

}  // namespace cuda
}  // namespace fpl
