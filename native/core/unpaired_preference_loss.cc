// Stage 3 of single sequences. Float64, in the order of the sequences. The formulas are in unpaired_losses.h.
#include "unpaired_preference_loss.h"

namespace fpl {

void unpairedPreferenceLoss(UnpairedPreferenceLoss& s) {
  double loss = 0;
  // Of the undesirable sequences, and of the desirable ones.
  double rewards[2] = {0, 0}, logProbs[2] = {0, 0}, counts[2] = {0, 0};
  for (int64_t i = 0; i < s.count; ++i) {
    unpairedPreferenceLossAt(s, i);
    const int32_t side = s.desirable[i];
    loss += s.losses[i];
    rewards[side] += s.rewards[i];
    logProbs[side] += s.logProbs[i];
    ++counts[side];
  }
  s.summary[0] = loss / s.constants.divisor;
  for (int side = 0; side < 2; ++side) {
    s.summary[2 - side] = rewards[side] / counts[side];
    s.summary[4 - side] = logProbs[side] / counts[side];
  }
}

}  // namespace fpl
