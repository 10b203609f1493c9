#include "oracle.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fpl::oracle {
namespace {

Real logSigmoid(Real z) { return std::min<Real>(z, 0) - log1pl(expl(-fabsl(z))); }
Real sigma(Real z) { return expl(logSigmoid(z)); }
// A product in which nothing times infinity is nothing.
Real times(Real a, Real b) { return a == 0 ? 0 : a * b; }

Real score(Real x, const LossConstants& k) {
  switch (k.divergence) {
    case Divergence::kForwardKl:
      return -expl(-x);
    case Divergence::kJensenShannon:
      return logSigmoid(x);
    case Divergence::kAlpha:
      return k.alpha == 1 ? x : expm1l((k.alpha - 1) * x) / (k.alpha - 1);
    case Divergence::kReverseKl:
      break;
  }
  return x;
}

// AlphaPO's reward.
Real rewardOf(Real x, const LossConstants& k) {
  const Real a = k.rewardAlpha;
  return a == 0 ? x : -expm1l(-a * x) / a;
}

// The divergence of two coins that are heads with the probabilities σ(x) and σ(y).
Real coins(Real x, Real y) {
  return times(sigma(x), logSigmoid(x) - logSigmoid(y)) + times(sigma(-x), logSigmoid(-x) - logSigmoid(-y));
}

// Numbers from the smallest to the largest, and where each comes from.
std::vector<int64_t> order(const std::vector<Real>& x) {
  std::vector<int64_t> places(x.size());
  std::iota(places.begin(), places.end(), 0);
  std::stable_sort(places.begin(), places.end(), [&](int64_t a, int64_t b) { return x[a] < x[b]; });
  return places;
}

struct OnePair {
  Real chosen, rejected, referenceChosen, referenceRejected, chosenLength, rejectedLength, plainChosen;
};

// `share`: what sft's sum over tokens is multiplied by.
Real pairLoss(LossType type, const OnePair& p, const LossConstants& k, Real share) {
  const Real e = k.labelSmoothing;
  const Real b = k.beta, c = p.chosen - p.referenceChosen, r = p.rejected - p.referenceRejected;
  const Real nw = k.average || p.chosenLength == 0 ? 1 : p.chosenLength;
  const Real nl = k.average || p.rejectedLength == 0 ? 1 : p.rejectedLength;
  const auto smoothed = [&](Real z) { return -(1 - e) * logSigmoid(z) - times(e, logSigmoid(-z)); };
  const Real z = b * (score(c, k) - score(r, k)) - k.offset;
  // Scores divided by lengths: those of sums, in which the constant of an alpha score stays.
  const auto dividedScore = [&](Real x, Real length) {
    if (k.divergence == Divergence::kReverseKl) return k.average || length == 0 ? x : x / length;
    const Real n = length == 0 ? 1 : length, whole = score(k.average ? x * n : x, k);
    const bool hasConstant = k.divergence == Divergence::kAlpha && k.alpha != 1;
    return (hasConstant ? whole + 1 / (Real(k.alpha) - 1) : whole) / n;
  };
  const auto divided = [&] { return dividedScore(c, p.chosenLength) - dividedScore(r, p.rejectedLength); };
  switch (type) {
    case LossType::sigmoid:
      return smoothed(z);
    case LossType::robust:
      return (-(1 - e) * logSigmoid(z) + times(e, logSigmoid(-z))) / (1 - 2 * e);
    case LossType::hinge:
      return std::max<Real>(0, 1 - z);
    case LossType::ipo:
      return powl((k.average ? divided() : score(c, k) - score(r, k)) - 1 / (2 * b), 2);
    case LossType::ipo_norm:
      return powl(divided() - 1 / (2 * b), 2);
    case LossType::ipo_reward:
      return powl(b * (c - r) - 1 / b, 2);
    case LossType::exo_pair:
      return times(sigma(z), logSigmoid(z) - logl(1 - e)) + times(sigma(-z), logSigmoid(-z) - logl(e));
    case LossType::nca_pair:
      return -logSigmoid(b * c) - logSigmoid(-b * c) / 2 - logSigmoid(-b * r) / 2;
    case LossType::bco_pair:
      return -logSigmoid(b * c - k.rewardShift) - logSigmoid(k.rewardShift - b * r);
    case LossType::sppo_hard:
      return powl(c - 1 / (2 * b), 2) + powl(r + 1 / (2 * b), 2);
    case LossType::apo_zero:
      return 1 - sigma(b * c) + sigma(b * r);
    case LossType::apo_down:
      return sigma(b * c) + 1 - sigma(b * (c - r));
    case LossType::aot:
    case LossType::aot_unpaired:
      return smoothed(b * (c - r) - k.offset);
    case LossType::discopop: {
      // e^(-z)·m as one exponential: far out each alone leaves even this range.
      return -logSigmoid(z) * sigma(-z / k.discopopTau) + expl(logSigmoid(z / k.discopopTau) - z);
    }
    case LossType::sigmoid_norm:
      return -logSigmoid(b * divided() - k.offset);
    case LossType::dpop:
      return -logSigmoid(b * (c - r - k.dpopLambda * std::max<Real>(0, -c)) - k.offset);
    case LossType::rpo_sq:
      return powl(b * (c - r) - k.targetMargin, 2);
    case LossType::rpo_bwd_kl:
      return coins(k.targetMargin, b * (c - r));
    case LossType::rpo_fwd_kl:
      return coins(b * (c - r), k.targetMargin);
    case LossType::simpo:
      return smoothed(b * (rewardOf(p.chosen / nw, k) - rewardOf(p.rejected / nl, k)) - k.gamma - k.offset);
    case LossType::cpo:
      return smoothed(b * (rewardOf(p.chosen, k) - rewardOf(p.rejected, k)) - k.offset);
    case LossType::orpo: {
      const auto logOdds = [](Real x, Real length, Real divisor) {
        return length == 0 && x == 0 ? 0 : x / divisor - logl(-expm1l(x / divisor));
      };
      return -b * logSigmoid(logOdds(p.chosen, p.chosenLength, nw) - logOdds(p.rejected, p.rejectedLength, nl));
    }
    case LossType::sft:
      if (k.sftNormalization == SftNormalization::kSequences) return -p.plainChosen / nw;
      return times(k.average ? share * p.chosenLength : share, -p.plainChosen);
  }
  return NAN;
}

}  // namespace

namespace {

// What counts of a logit.
Real counted(float logit, double temperature, double capScale) {
  return (capScale == 0 ? Real(logit) : tanhl(logit * Real(capScale))) / temperature;
}

// Its derivative.
Real slopeAt(float logit, double temperature, double capScale) {
  if (capScale == 0) return 1 / Real(temperature);
  const Real e = expl(-2 * fabsl(logit * Real(capScale)));
  return 4 * e / ((1 + e) * (1 + e)) * capScale / temperature;
}

}  // namespace

Row row(const std::vector<float>& logits, int64_t label, double temperature, double capScale) {
  const int64_t vocab = int64_t(logits.size());
  std::vector<Real> x(vocab);
  for (int64_t j = 0; j < vocab; ++j) x[j] = counted(logits[j], temperature, capScale);
  Row out;
  out.gradient.resize(vocab);
  out.meanLogit = std::accumulate(x.begin(), x.end(), Real(0)) / vocab;
  const bool number = std::none_of(x.begin(), x.end(), [](Real v) { return std::isnan(v) || v == INFINITY; });
  const Real largest = number ? *std::max_element(x.begin(), x.end()) : -INFINITY;
  if (largest == -INFINITY) {
    out.logProb = out.entropy = out.logSumExp = out.sumSquaredProbs = out.meanLogit = NAN;
    std::fill(out.gradient.begin(), out.gradient.end(), NAN);
    return out;
  }
  Real sum = 0, rest = 0;  // of e^(x - largest); the label left out
  for (int64_t j = 0; j < vocab; ++j) {
    const Real e = expl(x[j] - largest);
    sum += e;
    if (j != label) rest += e;
  }
  out.largest = largest;
  out.logSum = logl(sum);
  out.logSumExp = largest + out.logSum;
  // As log(a / (a + rest)) it keeps its digits, whether rest is small or the logits are large.
  const Real own = expl(x[label] - largest);
  out.logProb = own > 1e-4000L ? -log1pl(rest / own) : x[label] - out.logSumExp;
  out.entropy = logl(sum);
  out.sumSquaredProbs = 0;
  for (int64_t j = 0; j < vocab; ++j) {
    const Real p = expl(x[j] - largest) / sum;
    out.entropy -= times(p, x[j] - largest);
    out.sumSquaredProbs += p * p;
    out.gradient[j] = -p * slopeAt(logits[j], temperature, capScale);
  }
  out.gradient[label] = rest / sum * slopeAt(logits[label], temperature, capScale);
  return out;
}

std::vector<Derivative> derivatives(const std::vector<float>& logits, int64_t label, double temperature,
                                    double capScale, const ResultSlopes& s, const float* classWeights) {
  const Row r = row(logits, label, temperature, capScale);
  const int64_t vocab = int64_t(logits.size());
  std::vector<Derivative> out(vocab);
  // From the largest logit: beside a large one, the logarithm of the sum would vanish.
  for (int64_t j = 0; j < vocab; ++j) {
    const Real x = counted(logits[j], temperature, capScale);
    const Real logP = j == label ? r.logProb : x - r.largest - r.logSum, p = expl(logP);
    const Real slope = slopeAt(logits[j], temperature, capScale);
    const Real entropy = p == 0 ? 0 : s.entropy * p * (logP + r.entropy);
    const Real ofEntropy = p == 0 ? 0 : fabsl(s.entropy) * p * (fabsl(logP) + r.entropy + 1);
    const Real mean = s.meanLogit * (classWeights ? classWeights[j] : 1) / vocab;
    const Real complement = -expm1l(r.logProb);
    const Real value = j == label ? s.logProb * complement + s.logSumExp * p : (Real(s.logSumExp) - s.logProb) * p;
    const Real size = j == label ? fabsl(s.logProb) * complement + fabsl(s.logSumExp) * p : fabsl(value);
    out[j] = {slope * (value - entropy + mean), slope * (size + ofEntropy + fabsl(mean)), slope * p};
  }
  return out;
}

Real tokenLoss(const TokenLossConstants& k, const float* classWeights, const std::vector<float>& logits, int64_t label,
               double temperature, double capScale) {
  const Row r = row(logits, label, temperature, capScale);
  const int64_t vocab = int64_t(logits.size());
  const Real ofLabel = classWeights ? classWeights[label] : 1;
  Real smoothed = 0;
  for (int64_t j = 0; j < vocab && k.labelSmoothing != 0; ++j) {
    const Real weight = classWeights ? classWeights[j] : 1;
    smoothed += times(weight, r.logSumExp - counted(logits[j], temperature, capScale)) / vocab;
  }
  const Real crossEntropy = times((1 - Real(k.labelSmoothing)) * ofLabel, -r.logProb) + k.labelSmoothing * smoothed;
  // As float64 has it: of less than its smallest number there is nothing.
  const Real factor = k.dft ? Real(double(expl(r.logProb))) : 1;
  return times(factor, crossEntropy) + ofLabel * k.zLoss * r.logSumExp * r.logSumExp;
}

Real loss(const LossTerms& terms, const LossConstants& k, const Pairs& s) {
  const int64_t count = int64_t(s.chosen.size());
  const Real sum = std::accumulate(s.chosenTokenCounts.begin(), s.chosenTokenCounts.end(), Real(0));
  const Real tokens = k.tokenDivisor == 0 ? sum : k.tokenDivisor;
  const Real divisor = k.pairDivisor == 0 ? count : k.pairDivisor;
  Real total = 0;
  for (const LossTerm& term : terms) {
    // For the losses of the whole batch: whose reference, or whose rejected sequence, stands against a pair's.
    std::vector<int64_t> match(count);
    std::iota(match.begin(), match.end(), 0);
    if (term.type == LossType::aot || term.type == LossType::aot_unpaired) {
      std::vector<Real> left(count), right(count);
      for (int64_t i = 0; i < count; ++i) {
        const bool paired = term.type == LossType::aot;
        left[i] = paired ? s.chosen[i] - s.rejected[i] : s.chosen[i] - s.referenceChosen[i];
        right[i] = paired ? s.referenceChosen[i] - s.referenceRejected[i] : s.rejected[i] - s.referenceRejected[i];
      }
      const std::vector<int64_t> a = order(left), b = order(right);
      for (int64_t i = 0; i < count; ++i) match[a[i]] = b[i];
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t m = match[i];
      OnePair pair{s.chosen[i],
                   s.rejected[i],
                   s.referenceChosen[i],
                   s.referenceRejected[i],
                   s.chosenTokenCounts[i],
                   s.rejectedTokenCounts[i],
                   s.plainChosen.empty() ? s.chosen[i] : s.plainChosen[i]};
      if (term.type == LossType::aot) {
        pair.referenceChosen = s.referenceChosen[m];
        pair.referenceRejected = s.referenceRejected[m];
      } else if (term.type == LossType::aot_unpaired) {
        pair.rejected = s.rejected[m];
        pair.referenceRejected = s.referenceRejected[m];
      }
      LossConstants own = k;
      own.labelSmoothing = s.constants.labelSmoothing ? s.constants.labelSmoothing[i] : term.labelSmoothing;
      if (s.constants.beta) own.beta = s.constants.beta[i];
      if (s.constants.offset) own.offset = s.constants.offset[i];
      if (s.constants.targetMargin) own.targetMargin = s.constants.targetMargin[i];
      const bool ofTokens = k.sftNormalization == SftNormalization::kTokens;
      const Real share = !ofTokens ? 1 : tokens == 0 ? 0 : divisor / tokens;
      total += times(term.weight * s.weights[i] / divisor, pairLoss(term.type, pair, own, share));
    }
  }
  return total;
}

}  // namespace fpl::oracle
