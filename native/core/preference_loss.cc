// Stage 3: the preference loss of P pairs and its derivative with respect to every sequence's log-prob. Float64, in the
// order of the pairs. The formulas are in losses.h; here are the batch around them and the matching by rank of AOT.
#include "preference_loss.h"

#include <algorithm>
#include <numeric>

namespace fpl {
namespace {

Pair pairAt(const PreferenceLoss& s, int64_t i) {
  return {s.chosen[i],
          s.rejected[i],
          s.referenceChosen[i],
          s.referenceRejected[i],
          s.chosenLengths ? s.chosenLengths[i] : 0,
          s.rejectedLengths ? s.rejectedLengths[i] : 0};
}

// Order of the pairs by a value, smallest first, ties in the order of the pairs, NaN last.
template <typename Value>
std::vector<int64_t> ranked(int64_t count, Value value) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const double x = value(a), y = value(b);
    return x < y || (x == x && y != y);
  });
  return order;
}

// match[i]: the pair whose value in `right` has the rank that pair i's has in `left`.
template <typename Left, typename Right>
std::vector<int64_t> matchByRank(int64_t count, Left left, Right right) {
  const std::vector<int64_t> a = ranked(count, left), b = ranked(count, right);
  std::vector<int64_t> match(count);
  for (int64_t k = 0; k < count; ++k) match[a[k]] = b[k];
  return match;
}

// Adds one loss of the sum, pair by pair.
void addTerm(PreferenceLoss& s, const LossTerm& term, const LossConstants& constants) {
  const int64_t count = s.pairCount;
  std::vector<int64_t> match;
  if (term.type == LossType::aot) {
    match = matchByRank(
        count, [&](int64_t i) { return s.chosen[i] - s.rejected[i]; },
        [&](int64_t i) { return s.referenceChosen[i] - s.referenceRejected[i]; });
  } else if (term.type == LossType::aot_unpaired) {
    match = matchByRank(
        count, [&](int64_t i) { return s.chosen[i] - s.referenceChosen[i]; },
        [&](int64_t i) { return s.rejected[i] - s.referenceRejected[i]; });
  }

  for (int64_t i = 0; i < count; ++i) {
    Pair pair = pairAt(s, i);
    int64_t rejected = i;  // whose rejected sequence this pair's loss depends on
    if (term.type == LossType::aot) {
      // The difference of the two matched log-ratios stands for chosen - rejected.
      pair.policyChosen = s.chosen[i] - s.rejected[i];
      pair.referenceChosen = s.referenceChosen[match[i]] - s.referenceRejected[match[i]];
      pair.policyRejected = pair.referenceRejected = 0;
    } else if (term.type == LossType::aot_unpaired) {
      rejected = match[i];
      pair.policyRejected = s.rejected[rejected];
      pair.referenceRejected = s.referenceRejected[rejected];
    }
    const LossValue value = evaluate(term.type, pair, constants);
    const double weight = term.weight * (s.pairWeights ? s.pairWeights[i] : 1);
    s.losses[i] += weight * value.loss;
    s.gradChosen[i] += weight * value.dChosen;
    s.gradRejected[rejected] += weight * value.dRejected;
  }
}

}  // namespace

void preferenceLoss(PreferenceLoss& s) {
  const int64_t count = s.pairCount;
  LossConstants constants = s.constants;
  constants.pairCount = double(count);
  constants.totalChosenTokens = 0;
  for (int64_t i = 0; i < count; ++i) {
    s.losses[i] = s.gradChosen[i] = s.gradRejected[i] = 0;
    if (s.chosenLengths) constants.totalChosenTokens += s.chosenLengths[i];
  }
  for (const LossTerm& term : s.terms) {
    constants.labelSmoothing = term.labelSmoothing;
    addTerm(s, term, constants);
  }

  double loss = 0, margin = 0;
  int64_t correct = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Rewards reward = rewards(s.terms[0].type, pairAt(s, i), constants);
    s.chosenRewards[i] = reward.chosen;
    s.rejectedRewards[i] = reward.rejected;
    loss += s.losses[i];
    margin += reward.chosen - reward.rejected;
    correct += reward.chosen > reward.rejected;
    s.gradChosen[i] /= double(count);
    s.gradRejected[i] /= double(count);
  }
  s.summary[0] = loss / double(count);
  s.summary[1] = double(correct) / double(count);
  s.summary[2] = margin / double(count);
}

}  // namespace fpl
