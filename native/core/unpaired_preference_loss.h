// Stage 3 of single sequences: the loss of each and its derivative with respect to its log-prob.
#pragma once

#include "job.h"

namespace fpl {

// Sequence i. A weight of 0 means that it takes no part, whatever its log-prob is.
FPL_HD inline void unpairedPreferenceLossAt(const UnpairedPreferenceLoss& s, int64_t i) {
  const bool desirable = s.desirable[i] != 0;
  const double logRatio = s.logProbs[i] - s.referenceLogProbs[i];
  const double weight = desirable ? s.constants.desirableWeight : s.constants.undesirableWeight;
  const Term loss = evaluate(s.type, logRatio, desirable, s.constants);
  s.losses[i] = weighed(weight, loss.value);
  s.gradient[i] = weighed(weight, loss.slope) / s.constants.divisor * s.constants.gradientScale;
  s.rewards[i] = s.constants.beta * logRatio;
}

// For all sequences, at once or in runs begin .. end, ...
void unpairedPreferenceLoss(UnpairedPreferenceLoss& stage, int64_t begin, int64_t end);
// ... and then, for what is summed over the batch.
void finishUnpairedPreferenceLoss(UnpairedPreferenceLoss& stage);

}  // namespace fpl
