// Stage 3: the preference loss of P pairs and its derivative with respect to every sequence's log-prob. Float64, in the
// order of the pairs. The formulas are in losses.h. This file has the loop over the batch, and AOT's matching by rank.
#include "preference_loss.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace fpl {
namespace {

// The pairs ordered by their values: the smallest first, equal ones in the order of the pairs, NaN last.
std::vector<int64_t> ranked(const std::vector<double>& values) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const double x = values[a], y = values[b];
    return x < y || (x == x && y != y);
  });
  return order;
}

// match[i] is the pair whose value in `right` has the same rank as pair i's value in `left`.
std::vector<int64_t> matchByRank(const std::vector<double>& left, const std::vector<double>& right) {
  const std::vector<int64_t> a = ranked(left), b = ranked(right);
  std::vector<int64_t> match(a.size());
  for (size_t k = 0; k < a.size(); ++k) match[a[k]] = b[k];
  return match;
}

std::vector<double> differences(const double* a, const double* b, int64_t count) {
  std::vector<double> out(count);
  for (int64_t i = 0; i < count; ++i) out[i] = a[i] - b[i];
  return out;
}

// Adds one term of the loss, pair by pair.
void addTerm(PreferenceLoss& s, const LossTerm& term) {
  if (term.weight == 0) return;
  std::vector<int64_t> match;
  if (term.type == LossType::aot) {
    match = matchByRank(differences(s.chosen, s.rejected, s.pairCount),
                        differences(s.referenceChosen, s.referenceRejected, s.pairCount));
  } else if (term.type == LossType::aot_unpaired) {
    match = matchByRank(differences(s.chosen, s.referenceChosen, s.pairCount),
                        differences(s.rejected, s.referenceRejected, s.pairCount));
  }

  const bool plain = term.type == LossType::sft && s.plainChosen;
  double* const gradChosen = plain ? s.gradPlain : s.gradChosen;

  LossConstants constants = constantsOf(term, s.constants);
  for (int64_t i = 0; i < s.pairCount; ++i) {
    const double weight = weightAt(s, term, i);
    if (weight == 0) continue;
    takeConstantsAt(s.pairConstants, i, constants);
    Pair pair = pairAt(s, i);
    if (plain) pair.policyChosen = s.plainChosen[i];
    int64_t rejected = i;  // this pair's loss depends on the rejected sequence of that pair
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
    s.losses[i] += weight * value.loss;
    gradChosen[i] += weight * value.dChosen / constants.pairDivisor;
    s.gradRejected[rejected] += weight * value.dRejected / constants.pairDivisor;
  }
}

void clear(PreferenceLoss& s) {
  for (int64_t i = 0; i < s.pairCount; ++i) {
    s.losses[i] = s.gradChosen[i] = s.gradRejected[i] = 0;
    if (s.gradPlain) s.gradPlain[i] = 0;
  }
}

// Those of a batch that is not a part of a larger one.
void putDivisors(PreferenceLoss& s) {
  double tokens = 0;
  for (int64_t i = 0; s.chosenTokenCounts && i < s.pairCount; ++i) tokens += s.chosenTokenCounts[i];
  if (s.constants.pairDivisor == 0) s.constants.pairDivisor = double(s.pairCount);
  if (s.constants.tokenDivisor == 0) s.constants.tokenDivisor = tokens;
}

}  // namespace

void preferenceLoss(PreferenceLoss& s) {
  clear(s);
  putDivisors(s);
  for (const LossTerm& term : s.terms) addTerm(s, term);
  const LossTerm& first = s.terms.list[0];
  LossConstants constants = constantsOf(first, s.constants);
  double loss = 0, margin = 0;
  int64_t correct = 0;
  for (int64_t i = 0; i < s.pairCount; ++i) {
    takeConstantsAt(s.pairConstants, i, constants);
    const Rewards reward = rewards(first.type, pairAt(s, i), constants);
    s.chosenRewards[i] = reward.chosen;
    s.rejectedRewards[i] = reward.rejected;
    s.gradChosen[i] *= s.constants.gradientScale;
    s.gradRejected[i] *= s.constants.gradientScale;
    if (s.gradPlain) s.gradPlain[i] *= s.constants.gradientScale;
    loss += s.losses[i];
    margin += reward.chosen - reward.rejected;
    correct += reward.chosen > reward.rejected;
  }
  s.summary[0] = loss / s.constants.pairDivisor;
  s.summary[1] = double(correct) / double(s.pairCount);
  s.summary[2] = margin / double(s.pairCount);
}

}  // namespace fpl
