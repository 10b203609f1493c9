// Stage 2 on a GPU: one number a sequence, summed in float64 by one block in an order that depends on the sequence
// alone.
#include "reduce.h"
#include "stages.h"

namespace fpl {
namespace cuda {
namespace {

constexpr int kThreads = 256;

struct Sums {
  double of[kThreads];
};

FPL_KERNEL(kThreads, 2)
sumKernel(FPL_ARGUMENT Forward forward, FPL_ARGUMENT Tokens tokens) {
  FPL_SHARED(Sums, sums);
  FPL_SHARED(Sums, plainSums);
  FPL_SHARED(Sums, weights);
  const int64_t s = blockIndex();
  double sum = 0, plainSum = 0, logWeight = 0;
  for (int64_t row = tokens.offsets[s] + threadIndex(); row < tokens.offsets[s + 1]; row += kThreads) {
    if (tokens.targets[row] == -1) continue;
    const double logProb = forward.states[row].logProb;
    sum += weighed(tokens.weight(row), logProb);
    if (forward.plainLogProbs) plainSum += weighed(tokens.plainWeights[row], logProb);
    if (forward.logWeights) logWeight += logProb - log(double(forward.sumSquaredProbs[row]));
  }
  sum = blockSum(sum, sums.of);
  if (forward.plainLogProbs) plainSum = blockSum(plainSum, plainSums.of);
  if (forward.logWeights) logWeight = blockSum(logWeight, weights.of);
  if (threadIndex() != 0) return;
  const int32_t count = tokens.counts[s];
  const auto ofSequence = [&](double total) {
    return count == 0 ? tokens.emptyLogProb : tokens.average ? total / count : total;
  };
  forward.logProbs[s] = ofSequence(sum);
  if (forward.plainLogProbs) forward.plainLogProbs[s] = ofSequence(plainSum);
  if (forward.logWeights) forward.logWeights[s] = count == 0 ? 0 : logWeight / count;
}

}  // namespace

void sequenceSums(const Forward& forward, const Tokens& tokens, Stream stream) {
  FPL_LAUNCH("sequence sums", sumKernel, tokens.sequences, kThreads, stream, forward, tokens);
}

}  // namespace cuda
}  // namespace fpl
