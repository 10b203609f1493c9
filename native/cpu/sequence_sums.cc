// Stage 2 on the CPU: one sum for each sequence, in float64, in the order of its tokens.
#include <cmath>

#include "stages.h"

namespace fpl {

void sequenceSums(const Forward& forward, const Tokens& tokens, const Sequences& sequences, const TokenState* states,
                  const float* sumSquaredProbs) {
  for (const int32_t s : sequences) {
    double sum = 0, plainSum = 0, logWeight = 0;
    for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
      if (tokens.targets[row] < 0) continue;
      sum += weighed(tokens.weight(row), states[row].logProb);
      if (forward.plainLogProbs) plainSum += weighed(tokens.plainWeights[row], states[row].logProb);
      if (forward.logWeights) logWeight += states[row].logProb - log(double(sumSquaredProbs[row]));
    }
    const int32_t count = tokens.counts[s];
    const auto ofSequence = [&](double total) {
      return count == 0 ? tokens.emptyLogProb : tokens.average ? total / count : total;
    };
    forward.logProbs[s] = ofSequence(sum);
    if (forward.plainLogProbs) forward.plainLogProbs[s] = ofSequence(plainSum);
    if (forward.logWeights) forward.logWeights[s] = count == 0 ? 0 : logWeight / count;
  }
}

}  // namespace fpl
