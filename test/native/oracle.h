// What the stages ought to give: plain sums in long double, written from the formulas, one row and one pair at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "../../native/core/job.h"

namespace fpl::oracle {

using Real = long double;

// Everything about one row, whose label is logits[label]. What counts are logits / temperature or, where capScale is
// not 0, tanh(logits · capScale) / temperature.
struct Row {
  Real logProb, entropy, logSumExp, sumSquaredProbs, meanLogit;
  Real largest = NAN, logSum = NAN;  // the two terms of logSumExp: the largest that counts, and what the sum adds to it
  std::vector<Real> gradient;        // d logProb / d logits
};
Row row(const std::vector<float>& logits, int64_t label, double temperature, double capScale = 0);

// d loss / d logits through the results of a row: each is a sum, with the sum of its terms' magnitudes. `classWeights`:
// of the mean logit, or null.
struct Derivative {
  Real value, magnitude;
  Real ofLogSumExp;  // d logSumExp / d logit
};
std::vector<Derivative> derivatives(const std::vector<float>& logits, int64_t label, double temperature,
                                    double capScale, const ResultSlopes& slopes, const float* classWeights = nullptr);

// The cross-entropy of a row.
Real tokenLoss(const TokenLossConstants& constants, const float* classWeights, const std::vector<float>& logits,
               int64_t label, double temperature, double capScale);

// The sum over pairs of the sum of the terms, divided as the constants say. [P] each; `chosenTokenCounts` may not be
// empty.
struct Pairs {
  std::vector<Real> chosen, rejected, referenceChosen, referenceRejected, chosenTokenCounts, rejectedTokenCounts,
      weights;
  std::vector<Real> plainChosen;  // what sft has for `chosen`; or empty: the same
  PairConstants constants;
};
Real loss(const LossTerms& terms, const LossConstants& constants, const Pairs& pairs);

}  // namespace fpl::oracle
