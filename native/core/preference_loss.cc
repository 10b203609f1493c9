// Stage 3: the preference loss of P pairs and its derivative with respect to every sequence's log-prob. Float64, in the
// order of the pairs. The formulas are in losses.h. This file has the loop over the batch, and AOT's matching by rank.
#include "preference_loss.h"

#include <algorithm>
#include <numeric>

namespace fpl {
namespace {

bool ranksPairs(const LossTerm& term) { return term.type == LossType::aot || term.type == LossType::aot_unpaired; }

// The pairs ordered by a - b: the smallest first, equal ones in the order of the pairs, NaN last.
void rank(const double* a, const double* b, std::vector<double>& values, std::vector<int64_t>& order) {
  for (size_t i = 0; i < values.size(); ++i) values[i] = a[i] - b[i];
  std::iota(order.begin(), order.end(), int64_t{0});
  // std::stable_sort would allocate.
  std::sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
    const double x = values[i], y = values[j];
    if (x < y || y < x) return x < y;
    const bool isLast = x != x, isOtherLast = y != y;
    return isLast == isOtherLast ? i < j : isOtherLast;
  });
}

// match[i] is the pair whose value on the right has the same rank as pair i's on the left.
void matchByRank(const PreferenceLoss& s, const LossTerm& term, PairRanks& ranks) {
  if (term.type == LossType::aot) {
    rank(s.chosen, s.rejected, ranks.left, ranks.leftOrder);
    rank(s.referenceChosen, s.referenceRejected, ranks.right, ranks.rightOrder);
  } else {
    rank(s.chosen, s.referenceChosen, ranks.left, ranks.leftOrder);
    rank(s.rejected, s.referenceRejected, ranks.right, ranks.rightOrder);
  }
  for (size_t k = 0; k < ranks.match.size(); ++k) ranks.match[ranks.leftOrder[k]] = ranks.rightOrder[k];
}

// Adds one term of the loss, pair by pair.
void addTerm(PreferenceLoss& s, const LossTerm& term, PairRanks& ranks) {
  if (term.weight == 0) return;
  const std::vector<int64_t>& match = ranks.match;
  if (ranksPairs(term)) matchByRank(s, term, ranks);

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

PairRanks::PairRanks(const PreferenceLoss& s) {
  if (std::none_of(s.terms.begin(), s.terms.end(), ranksPairs)) return;
  for (auto* const values : {&left, &right}) values->resize(s.pairCount);
  for (auto* const pairs : {&leftOrder, &rightOrder, &match}) pairs->resize(s.pairCount);
}

void preferenceLoss(PreferenceLoss& s, PairRanks& ranks) {
  clear(s);
  putDivisors(s);
  for (const LossTerm& term : s.terms) addTerm(s, term, ranks);
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
