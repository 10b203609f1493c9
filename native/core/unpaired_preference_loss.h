// Stage 3 of single sequences: the loss of each and its derivative with respect to its log-prob.
#pragma once

#include "job.h"

namespace fpl {

// Sequence i. A weight of 0 means that it takes no part, whatever its log-prob is.
FPL_HD inline void unpairedPreferenceLossAt(const UnpairedPreferenceLoss& s, int64_t i) {
  const bool desirable = s.desirable[i] != 0;
  const double logRatio = s.logProbs[i] - s.referenceLogProbs[i];
  UnpairedLossConstants constants = s.constants;
  if (s.betas) constants.beta = s.betas[i];
  if (s.targets) constants.target = s.targets[i];
  double weight = desirable ? constants.desirableWeight : constants.undesirableWeight;
  if (s.weights) weight *= s.weights[i];
  const Term loss = evaluate(s.type, logRatio, desirable, constants);
  s.losses[i] = weighed(weight, loss.value);
  s.gradient[i] = weighed(weight, loss.slope) / constants.divisor * constants.gradientScale;
  s.rewards[i] = constants.beta * logRatio;
}

// All sequences, and what is summed over the batch.
void unpairedPreferenceLoss(UnpairedPreferenceLoss& stage);

}  // namespace fpl
