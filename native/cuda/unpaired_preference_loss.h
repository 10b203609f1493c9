// Stage 3 of single sequences on a GPU: the losses of unpaired_losses.h. One block does it all, float64, as for pairs.
#pragma once

#include "../core/unpaired_preference_loss.h"
#include "reduce.h"
#include "stages.h"

namespace fpl {
namespace cuda {

struct UnpairedArguments {
  UnpairedPreferenceLoss loss;
  double* coefficients;  // [S] or null
  GivenOnDevice given;
};

// Of all threads of a block.
FPL_DEVICE void lossOfSequences(const UnpairedArguments& a, BlockSums& sums) {
  const auto sumOf = [&](double value) {
    barrier();  // the sum before has been read
    return blockSum(value, sums.of);
  };
  const UnpairedPreferenceLoss& s = a.loss;
  double loss = 0;
  // Of the undesirable sequences, and of the desirable ones.
  double rewards[2] = {0, 0}, logProbs[2] = {0, 0}, counts[2] = {0, 0};
  for (int64_t i = threadIndex(); i < s.count; i += kBlockThreads) {
    if (a.given.logProbs.data) const_cast<double*>(s.logProbs)[i] = a.given.logProbs[i];
    if (a.given.referenceLogProbs.data) {
      const_cast<double*>(s.referenceLogProbs)[i] = a.given.referenceLogProbs[i];
    }
    unpairedPreferenceLossAt(s, i);
    if (a.coefficients) a.coefficients[i] = s.gradient[i];
    const int32_t side = s.desirable[i];
    loss += s.losses[i];
    rewards[side] += s.rewards[i];
    logProbs[side] += s.logProbs[i];
    ++counts[side];
  }
  loss = sumOf(loss);
  for (int side = 0; side < 2; ++side) {
    rewards[side] = sumOf(rewards[side]);
    logProbs[side] = sumOf(logProbs[side]);
    counts[side] = sumOf(counts[side]);
  }
  if (threadIndex() != 0) return;
  s.summary[0] = loss / s.constants.divisor;
  for (int side = 0; side < 2; ++side) {
    s.summary[2 - side] = rewards[side] / counts[side];
    s.summary[4 - side] = logProbs[side] / counts[side];
  }
}

}  // namespace cuda
}  // namespace fpl
