// What the stages ought to give: plain sums in long double, written from the formulas, one row and one pair at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "../../native/core/job.h"

namespace fpl::oracle {

using Real = long double;

// Everything about one row, whose label is logits[label].
struct Row {
  Real logProb, entropy, logSumExp, sumSquaredProbs;
  std::vector<Real> gradient;  // d logProb / d logits
};
Row row(const std::vector<float>& logits, int64_t label, double temperature);

// The sum over pairs of the sum of the terms, divided as the constants say. [P] each; `chosenTokenCounts` may not be
// empty.
struct Pairs {
  std::vector<Real> chosen, rejected, referenceChosen, referenceRejected, chosenTokenCounts, rejectedTokenCounts,
      weights;
  std::vector<Real> plainChosen;  // what sft has for `chosen`; or empty: the same
};
Real loss(const LossTerms& terms, const LossConstants& constants, const Pairs& pairs);

}  // namespace fpl::oracle
