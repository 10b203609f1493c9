// Stage 3 on a GPU, with the ways into it and out of it: log-probs of sequences to pairs, the losses of losses.h pair
// by pair, and derivatives from pairs back to sequences. One block does it all, float64: it is small, and a second
// launch would take longer.
#pragma once

#include "../core/preference_loss.h"
#include "reduce.h"
#include "stages.h"

namespace fpl {
namespace cuda {

struct PairArguments {
  PreferenceLoss loss;
  const double *policyLogProbs, *plainLogProbs, *referenceLogProbs, *logWeights;  // [S]; null where there are none
  const int32_t* counts;                                                          // [S]; null without sequences
  int64_t sequences;
  PairIndex index;
  GivenOnDevice given;
  double *coefficients, *plainCoefficients;  // [S] or null
};

// Whether a stands before b: smallest first, ties in the order of the pairs, NaN last.
FPL_DEVICE bool standsBefore(double a, int64_t i, double b, int64_t j) {
  if (a != a || b != b) return a == a || (b != b && i < j);
  return a < b || (a == b && i < j);
}

// The pairs in the order of their values. One block: a bitonic network of as many places as the next power of two, in
// which the smaller always goes to the front, so that places without a pair would stay at the end and can be left out.
template <typename Value>
FPL_DEVICE void sortPairs(int64_t count, const Value& value, int32_t* order) {
  for (int64_t i = threadIndex(); i < count; i += kBlockThreads) order[i] = int32_t(i);
  for (int64_t half = 1; half < count; half *= 2) {
    const int64_t runs = (count + 2 * half - 1) / (2 * half);
    for (int64_t step = half; step > 0; step /= 2) {
      barrier();
      for (int64_t k = threadIndex(); k < runs * half; k += kBlockThreads) {
        const int64_t within = k & (step - 1), low = 2 * k - within;
        // Two sorted runs are first compared from both ends.
        const int64_t high = step == half ? 2 * (k - within + step) - 1 - within : low + step;
        if (high >= count) continue;
        const int32_t first = order[low], second = order[high];
        if (!standsBefore(value(second), second, value(first), first)) continue;
        order[low] = second;
        order[high] = first;
      }
    }
  }
  barrier();
}

// match[i]: the pair whose value in `right` has the rank that pair i's has in `left`; inverse the other way round.
template <typename Left, typename Right>
FPL_DEVICE void matchByRank(int64_t count, const Left& left, const Right& right, int32_t* order, int32_t* match,
                            int32_t* inverse) {
  sortPairs(count, right, order);
  sortPairs(count, left, inverse);
  for (int64_t rank = threadIndex(); rank < count; rank += kBlockThreads) match[inverse[rank]] = order[rank];
  barrier();
  for (int64_t i = threadIndex(); i < count; i += kBlockThreads) inverse[match[i]] = int32_t(i);
  barrier();
}

// Adds one loss of the sum. Each thread writes its own pairs, so the terms need no barrier between them.
FPL_DEVICE void addTerm(const PreferenceLoss& s, const LossTerm& term, const LossConstants& batch, int32_t* ranks) {
  if (term.weight == 0) return;
  int32_t *match = ranks, *inverse = ranks + s.pairCount, *order = ranks + 2 * s.pairCount;
  if (term.type == LossType::aot) {
    matchByRank(
        s.pairCount, [&](int64_t i) { return s.chosen[i] - s.rejected[i]; },
        [&](int64_t i) { return s.referenceChosen[i] - s.referenceRejected[i]; }, order, match, inverse);
  } else if (term.type == LossType::aot_unpaired) {
    matchByRank(
        s.pairCount, [&](int64_t i) { return s.chosen[i] - s.referenceChosen[i]; },
        [&](int64_t i) { return s.rejected[i] - s.referenceRejected[i]; }, order, match, inverse);
  }
  const bool plain = term.type == LossType::sft && s.plainChosen;
  double* const gradChosen = plain ? s.gradPlain : s.gradChosen;
  const auto valueOf = [&](int64_t i) {
    const double weight = weightAt(s, term, i);
    if (weight == 0) return LossValue{0, 0, 0};
    LossConstants constants = constantsOf(term, batch);
    takeConstantsAt(s.pairConstants, i, constants);
    Pair pair = pairAt(s, i);
    if (plain) pair.policyChosen = s.plainChosen[i];
    if (term.type == LossType::aot) {
      // The difference of the two matched log-ratios stands for chosen - rejected.
      pair.policyChosen = s.chosen[i] - s.rejected[i];
      pair.referenceChosen = s.referenceChosen[match[i]] - s.referenceRejected[match[i]];
      pair.policyRejected = pair.referenceRejected = 0;
    } else if (term.type == LossType::aot_unpaired) {
      pair.policyRejected = s.rejected[match[i]];
      pair.referenceRejected = s.referenceRejected[match[i]];
    }
    LossValue value = evaluate(term.type, pair, constants);
    value.loss *= weight;
    value.dChosen = weight * value.dChosen / constants.pairDivisor;
    value.dRejected = weight * value.dRejected / constants.pairDivisor;
    return value;
  };
  for (int64_t i = threadIndex(); i < s.pairCount; i += kBlockThreads) {
    const LossValue value = valueOf(i);
    s.losses[i] += value.loss;
    gradChosen[i] += value.dChosen;
    // The rejected sequence of pair i may be in the loss of another pair.
    s.gradRejected[i] += term.type == LossType::aot_unpaired ? valueOf(inverse[i]).dRejected : value.dRejected;
  }
}

// Of all threads of a block.
FPL_DEVICE void lossOfPairs(const PairArguments& a, BlockSums (&sums)[3]) {
  const PreferenceLoss& s = a.loss;
  double* chosenTokenCounts = const_cast<double*>(s.chosenTokenCounts);
  double* rejectedTokenCounts = const_cast<double*>(s.rejectedTokenCounts);

  double tokens = 0;
  for (int64_t i = threadIndex(); i < s.pairCount; i += kBlockThreads) {
    if (a.given.chosen.data) {
      s.chosen[i] = a.given.chosen[i];
      s.rejected[i] = a.given.rejected[i];
    }
    if (a.given.referenceChosen.data) {
      s.referenceChosen[i] = a.given.referenceChosen[i];
      s.referenceRejected[i] = a.given.referenceRejected[i];
    } else if (a.given.referenceLogProbs.data) {
      s.referenceChosen[i] = a.given.referenceLogProbs[s.pairs[2 * i]];
      s.referenceRejected[i] = a.given.referenceLogProbs[s.pairs[2 * i + 1]];
    }
    if (a.policyLogProbs) {
      const int32_t chosen = s.pairs[2 * i], rejected = s.pairs[2 * i + 1];
      s.chosen[i] = a.policyLogProbs[chosen];
      s.rejected[i] = a.policyLogProbs[rejected];
      if (s.plainChosen) s.plainChosen[i] = a.plainLogProbs[chosen];
      if (a.referenceLogProbs) {
        s.referenceChosen[i] = a.referenceLogProbs[chosen];
        s.referenceRejected[i] = a.referenceLogProbs[rejected];
      }
      chosenTokenCounts[i] = a.counts[chosen];
      rejectedTokenCounts[i] = a.counts[rejected];
      if (a.logWeights) s.wpoWeights[i] = exp(a.logWeights[chosen] + a.logWeights[rejected]);
    }
    s.losses[i] = s.gradChosen[i] = s.gradRejected[i] = 0;
    if (s.gradPlain) s.gradPlain[i] = 0;
    if (s.chosenTokenCounts) tokens += s.chosenTokenCounts[i];
  }
  blockSum(tokens, sums[0].of);
  barrier();
  LossConstants constants = s.constants;
  if (constants.pairDivisor == 0) constants.pairDivisor = double(s.pairCount);
  if (constants.tokenDivisor == 0) constants.tokenDivisor = sums[0].of[0];
  barrier();

  for (const LossTerm& term : s.terms) addTerm(s, term, constants, a.index.ranks);

  double loss = 0, margin = 0, correct = 0;
  for (int64_t i = threadIndex(); i < s.pairCount; i += kBlockThreads) {
    s.gradChosen[i] *= constants.gradientScale;
    s.gradRejected[i] *= constants.gradientScale;
    if (s.gradPlain) s.gradPlain[i] *= constants.gradientScale;
    const LossTerm& term = s.terms.list[0];
    LossConstants own = constantsOf(term, constants);
    takeConstantsAt(s.pairConstants, i, own);
    const Rewards reward = rewards(term.type, pairAt(s, i), own);
    s.chosenRewards[i] = reward.chosen;
    s.rejectedRewards[i] = reward.rejected;
    loss += s.losses[i];
    margin += reward.chosen - reward.rejected;
    correct += reward.chosen > reward.rejected;
  }
  loss = blockSum(loss, sums[0].of);
  margin = blockSum(margin, sums[1].of);
  correct = blockSum(correct, sums[2].of);
  if (threadIndex() == 0) {
    s.summary[0] = loss / constants.pairDivisor;
    s.summary[1] = correct / double(s.pairCount);
    s.summary[2] = margin / double(s.pairCount);
  }

  if (!a.coefficients) return;
  for (int64_t q = threadIndex(); q < a.sequences; q += kBlockThreads) {
    double coefficient = 0, plainCoefficient = 0;
    for (int32_t k = a.index.starts[q]; k < a.index.starts[q + 1]; ++k) {
      const int32_t slot = a.index.slots[k];
      coefficient += slot % 2 == 0 ? s.gradChosen[slot / 2] : s.gradRejected[slot / 2];
      if (s.gradPlain && slot % 2 == 0) plainCoefficient += s.gradPlain[slot / 2];
    }
    a.coefficients[q] = coefficient;
    if (a.plainCoefficients) a.plainCoefficients[q] = plainCoefficient;
  }
}

}  // namespace cuda
}  // namespace fpl
