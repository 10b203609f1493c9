// The end of stage 1 of a row, and stage 3 of its token: of what the sweep has found, the row's state, its results and
// its loss. One thread does it.
#pragma once

#include "softcap.h"
#include "swept.h"

namespace fpl {
namespace cuda {

struct FinishArguments {
  Forward forward;
  Tokens tokens;
  SweepScratch partials;  // without sums: others have finished the rows
  TokenLoss loss;
  const double* divisor = nullptr;  // of the loss; null: there is none
  double inverseTemperature = 1;
  CapConstants cap{0};

  FinishArguments() = default;
  FinishArguments(const Forward& forward, const Tokens& tokens, const SweepScratch& partials,
                  const TokenLossStage* stage)
      : forward(forward),
        tokens(tokens),
        partials(partials),
        inverseTemperature(1 / tokens.temperature),
        cap(tokens.capScale) {
    this->forward.logits.vocab = tokens.vocabOf(forward.logits);
    if (!stage) return;
    loss = stage->loss;
    divisor = stage->divisor;
  }
};

struct FinishedRow {
  TokenState token;
  TokenByProducts more;
  double meanLogit, weightedMean;
};

// Of a row that predicts nothing (0), and of one whose label is out of range (NaN).
FPL_DEVICE FinishedRow rowOf(double nothing) {
  return {{nothing, nothing, nothing, {}}, {nothing, nothing, nothing, -1}, nothing, nothing};
}

FPL_DEVICE void putRow(const Forward& f, int64_t to, const FinishedRow& row) {
  const TokenState& token = row.token;
  f.states[to] = token;
  if (f.tokenLogProbs) f.tokenLogProbs[to] = float(token.logProb);
  if (f.entropies) f.entropies[to] = row.more.entropy;
  if (f.tokenEntropies) f.tokenEntropies[to] = float(row.more.entropy);
  if (f.tokenArgmax) f.tokenArgmax[to] = int32_t(row.more.argmax);
  if (f.logSumExp) f.logSumExp[to] = float(row.more.logSumExp);
  if (f.sumSquaredProbs) f.sumSquaredProbs[to] = float(row.more.sumSquaredProbs);
  if (f.tokenMeanLogits) f.tokenMeanLogits[to] = token.logProb != token.logProb ? NAN : float(row.meanLogit);
}

// `meanLogit`: with the weights of their classes, where the logits have any.
FPL_DEVICE void putTokenLoss(const FinishArguments& a, int64_t to, const TokenState& token, int32_t label,
                             double meanLogit) {
  const TokenLoss& l = a.loss;
  const double weight = a.tokens.weight(to);
  const double labelWeight = label < 0 ? 1 : l.labelWeight(label);
  const TokenLossValue value = tokenLoss(l.constants, token, meanLogit, labelWeight, a.inverseTemperature);
  l.losses[to] = weighed(weight, value.loss);
  if (!l.ofLogProb) return;
  const ResultSlopes slopes = tokenLossSlopes(l, weight, *a.divisor, value);
  l.ofLogProb[to] = slopes.logProb;
  l.ofLogSumExp[to] = slopes.logSumExp;
  l.ofMeanLogit[to] = slopes.meanLogit;
}

FPL_DEVICE float logitAt(const Rows& rows, int64_t row, int64_t index) {
  if (rows.dtype == DType::kFloat32) return rows.at<float>(row)[index];
  return rows.dtype == DType::kFloat16 ? toFloat(rows.at<Float16>(row)[index]) : toFloat(rows.at<BFloat16>(row)[index]);
}

// All that the sweep has left of a row.
FPL_DEVICE Swept sweptRow(const SweepScratch& partials, int64_t row, double inverseTemperature) {
  const int64_t first = row * partials.perRow;
  Swept swept = sweptAt(partials, first);
  for (int64_t i = 1; i < partials.perRow; ++i) swept.merge(sweptAt(partials, first + i), inverseTemperature);
  return swept;
}

// Finishes an active row, whose results go to `to`.
FPL_DEVICE void finishRow(const FinishArguments& a, int64_t row, int64_t to) {
  const Forward& f = a.forward;
  const int32_t label = a.tokens.targets[row];
  FinishedRow finished = rowOf(NAN);
  if (label >= 0) {
    const Swept swept = sweptRow(a.partials, row, a.inverseTemperature);
    float labelLogit;
    if (a.partials.labelLogits) {
      labelLogit = a.partials.labelLogits[row];
    } else {
      labelLogit = logitAt(f.logits, row, label);
      if (a.cap.present) labelLogit = capped(labelLogit, a.cap);
    }
    const double vocab = double(f.logits.vocab);
    finished.token = finish(swept.state, labelLogit, a.inverseTemperature);
    if (a.partials.byProducts) {
      finished.more = byProducts(swept.state, finished.token, label, labelLogit, a.inverseTemperature);
    }
    finished.meanLogit = swept.logits * a.inverseTemperature / vocab;
    finished.weightedMean = swept.weighted * a.inverseTemperature / vocab;
  }
  putRow(f, to, finished);
  if (!a.divisor) return;
  putTokenLoss(a, to, finished.token, label, a.loss.classWeights ? finished.weightedMean : finished.meanLogit);
}

}  // namespace cuda
}  // namespace fpl
