// Stage 3: the preference loss of P pairs and its derivative with respect to every sequence's log-prob.
#pragma once

#include <vector>

#include "job.h"

namespace fpl {

// Pair i of the stage, as the formulas of the losses take it.
FPL_HD inline Pair pairAt(const PreferenceLoss& s, int64_t i) {
  return {s.chosen[i],
          s.rejected[i],
          s.referenceChosen[i],
          s.referenceRejected[i],
          s.chosenTokenCounts ? s.chosenTokenCounts[i] : NAN,
          s.rejectedTokenCounts ? s.rejectedTokenCounts[i] : NAN};
}

// The constants of all pairs in the sum's term.
FPL_HD inline LossConstants constantsOf(const LossTerm& term, const LossConstants& all) {
  LossConstants k = all;
  k.labelSmoothing = term.labelSmoothing;
  return k;
}

// Puts those that pair i has of its own in their place.
FPL_HD inline void takeConstantsAt(const PairConstants& own, int64_t i, LossConstants& k) {
  if (own.labelSmoothing) k.labelSmoothing = own.labelSmoothing[i];
  if (own.beta) k.beta = own.beta[i];
  if (own.offset) k.offset = own.offset[i];
  if (own.targetMargin) k.targetMargin = own.targetMargin[i];
}

// The factor of pair i's loss in the sum's term.
FPL_HD inline double weightAt(const PreferenceLoss& s, const LossTerm& term, int64_t i) {
  double weight = term.weight;
  if (s.pairWeights) weight *= s.pairWeights[i];
  if (s.wpoWeights) weight *= s.wpoWeights[i];
  return weight;
}

// Memory for the losses that match pairs by rank (AOT's), where the stage has one.
struct PairRanks {
  explicit PairRanks(const PreferenceLoss& stage);
  std::vector<double> left, right;                    // two values of each pair
  std::vector<int64_t> leftOrder, rightOrder, match;  // the pairs by each, and the pair that has the rank of each
};

// The losses and derivatives of all pairs, and the sums over the batch. Allocates nothing.
void preferenceLoss(PreferenceLoss& stage, PairRanks& ranks);

}  // namespace fpl
