// Stage 3: the preference loss of P pairs and its derivative with respect to every sequence's log-prob.
#pragma once

#include "job.h"

namespace fpl {

// Pair i of the stage, as a loss sees it.
FPL_HD inline Pair pairAt(const PreferenceLoss& s, int64_t i) {
  return {s.chosen[i],
          s.rejected[i],
          s.referenceChosen[i],
          s.referenceRejected[i],
          s.chosenLengths ? s.chosenLengths[i] : NAN,
          s.rejectedLengths ? s.rejectedLengths[i] : NAN};
}

// Whether each pair's loss depends on that pair alone, so that pairs may be done a few at a time.
bool pairsAreIndependent(const PreferenceLoss& stage);

// To be called first, ...
void beginPreferenceLoss(PreferenceLoss& stage);
// ... then for all pairs, at once or in runs begin .. end, ...
void preferenceLoss(PreferenceLoss& stage, int64_t begin, int64_t end);
// ... and last, for what is summed over the batch.
void finishPreferenceLoss(PreferenceLoss& stage);

}  // namespace fpl
