// Stage 3 of single sequences on a GPU: the losses of unpaired_losses.h. One block does it all, float64, as for pairs.
#include "../core/unpaired_preference_loss.h"
#include "reduce.h"
#include "stages.h"

namespace fpl {
namespace cuda {
namespace {

constexpr int kThreads = 256;

struct UnpairedLossArguments {
  UnpairedPreferenceLoss loss;
  double* coefficients;  // [S] or null
};

struct UnpairedSums {
  double of[kThreads];
};

FPL_DEVICE double sumOf(double value, UnpairedSums& sums) {
  barrier();  // the sum before has been read
  return blockSum(value, sums.of);
}

FPL_KERNEL(kThreads, 1)
unpairedLossKernel(FPL_ARGUMENT UnpairedLossArguments a) {
  FPL_SHARED(UnpairedSums, sums);
  const UnpairedPreferenceLoss& s = a.loss;
  double loss = 0;
  // Of the undesirable sequences, and of the desirable ones.
  double rewards[2] = {0, 0}, logProbs[2] = {0, 0}, counts[2] = {0, 0};
  for (int64_t i = threadIndex(); i < s.count; i += kThreads) {
    unpairedPreferenceLossAt(s, i);
    if (a.coefficients) a.coefficients[i] = s.gradient[i];
    const int32_t side = s.desirable[i];
    loss += s.losses[i];
    rewards[side] += s.rewards[i];
    logProbs[side] += s.logProbs[i];
    ++counts[side];
  }
  loss = sumOf(loss, sums);
  for (int side = 0; side < 2; ++side) {
    rewards[side] = sumOf(rewards[side], sums);
    logProbs[side] = sumOf(logProbs[side], sums);
    counts[side] = sumOf(counts[side], sums);
  }
  if (threadIndex() != 0) return;
  s.summary[0] = loss / s.constants.divisor;
  for (int side = 0; side < 2; ++side) {
    s.summary[2 - side] = rewards[side] / counts[side];
    s.summary[4 - side] = logProbs[side] / counts[side];
  }
}

}  // namespace

void unpairedPreferenceLoss(const UnpairedPreferenceLoss& loss, double* coefficients, Stream stream) {
  UnpairedLossArguments a{};
  a.loss = loss;
  a.coefficients = coefficients;
  FPL_LAUNCH("unpaired preference loss", unpairedLossKernel, 1, kThreads, stream, a);
}

}  // namespace cuda
}  // namespace fpl
