// The form in which the state of a segment travels between the processes that share a vocabulary: on every backend the
// same values in the same order, of which a job has those that its results need.
#pragma once

#include "job.h"
#include "platform.h"
#include "row_state.h"

namespace fpl {

struct SegmentStateForm {
  bool entropy, squares, argmax, sumOfLogits, weightedSum;

  // `loss`: that of single tokens, or null.
  SegmentStateForm(const Forward& forward, const TokenLoss* loss)
      : entropy(forward.wantsEntropy()),
        squares(forward.wantsSquares()),
        argmax(forward.tokenArgmax != nullptr),
        sumOfLogits(forward.wantsSumOfLogits(loss)),
        weightedSum(loss && loss->classWeights) {}

  // A sweep finds both of these sums or neither.
  bool wantsLogits() const { return sumOfLogits || weightedSum; }

  // Of 32 bits.
  FPL_HD int64_t words() const { return 4 + 2 * (entropy + squares + argmax + sumOfLogits + weightedSum); }

  // Calls move(value) for each value of a state, in order. `sum` and `weighted`: Σ of the segment's logits, plain and
  // times the weights of their classes.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable  // `move` is of the host where this is called there
#endif
  template <typename Move>
  FPL_HD void eachValue(RowState& state, double& sum, double& weighted, const Move& move) const {
    move(state.unit.base);
    move(state.unit.exponent);
    move(state.sum);
    if (entropy) move(state.weighted);
    if (squares) move(state.squares);
    if (argmax) {
      int32_t index = int32_t(state.argmax);
      move(state.maximum);
      move(index);
      state.argmax = index;
    }
    if (sumOfLogits) move(sum);
    if (weightedSum) move(weighted);
  }
};

}  // namespace fpl
