// Stage 3 of single tokens: the cross-entropy of a row, and its derivatives with respect to the row's results.
#pragma once

#include "losses.h"
#include "row_gradient.h"

namespace fpl {

struct TokenLossConstants {
  double labelSmoothing = 0;  // ε
  double zLoss = 0;           // λ
  bool dft = false;
  // W̄, the mean over the vocabulary of the weights of classes; 1 where classes have none.
  double meanClassWeight = 1;
};

struct TokenLossValue {
  double loss;
  ResultSlopes slopes;
};

// With L = log Σ e^s and m the mean of s, both of s = x / temperature, x capped if it has to be:
//
//   loss = φ · [-(1 - ε) · log p + ε · (L - m)] + λ · L²
//
// The bracket is -(1 - ε) · log p - (ε / V) · Σ_j log p_j. φ is 1 or, for dft, p, whose own derivative is left out.
// `meanLogit` is m; it is not used where ε is 0. Where classes have weights w, m is the mean of w_j · s_j and
//
//   loss = φ · [-(1 - ε) · w_label · log p + ε · (W̄ · L - m)] + w_label · λ · L²
FPL_HD inline TokenLossValue tokenLoss(const TokenLossConstants& c, const TokenState& token, double meanLogit,
                                       double labelWeight, double inverseTemperature) {
  TokenLossValue out;
  if (token.logProb != token.logProb) {
    out.loss = out.slopes.logProb = NAN;
    return out;
  }
  const double factor = c.dft ? exp(token.logProb) : 1, toLabel = (1 - c.labelSmoothing) * labelWeight;
  double crossEntropy = -weighed(toLabel, token.logProb), logSumExp = 0;
  if (c.labelSmoothing != 0 || c.zLoss != 0) {
    logSumExp = logSumExpOf(token, log(token.total), inverseTemperature);
  }
  out.slopes.logProb = -factor * toLabel;
  if (c.labelSmoothing != 0) {
    crossEntropy += c.labelSmoothing * (c.meanClassWeight * logSumExp - meanLogit);
    out.slopes.logSumExp = factor * c.labelSmoothing * c.meanClassWeight;
    out.slopes.meanLogit = -factor * c.labelSmoothing;
  }
  out.loss = weighed(factor, crossEntropy);
  if (c.zLoss != 0) {
    const double zLoss = c.zLoss * labelWeight;
    out.loss += zLoss * logSumExp * logSumExp;
    out.slopes.logSumExp += 2 * zLoss * logSumExp;
  }
  return out;
}

}  // namespace fpl
