// The losses: one entry a loss, its formula and its derivative side by side, float64, for the CPU and for CUDA.
//
// Letters: π policy, ρ reference, w chosen, l rejected, n active tokens; c = π_w - ρ_w, r = π_l - ρ_l, Δ = c - r;
// ε = labelSmoothing. x̄ is x divided by its own n. Names are TRL's where TRL has the loss.
#pragma once

#include <cmath>
#include <cstdint>

#include "platform.h"
#include "row_state.h"

namespace fpl {

// One pair, as a loss sees it. Lengths that nobody gave are NaN.
struct Pair {
  double policyChosen, policyRejected;
  double referenceChosen, referenceRejected;
  double chosenLength, rejectedLength;

  FPL_HD double chosen() const { return policyChosen - referenceChosen; }
  FPL_HD double rejected() const { return policyRejected - referenceRejected; }
};

enum class Divergence : int32_t { kReverseKl = 0, kForwardKl = 1, kJensenShannon = 2, kAlpha = 3 };

// What sft's negative log-likelihoods are a mean of: tokens of the batch, means of sequences, or sums of sequences.
enum class SftNormalization : int32_t { kTokens = 0, kSequences = 1, kSum = 2 };

struct LossConstants {
  double beta, labelSmoothing, offset, gamma, rewardShift, targetMargin, dpopLambda, discopopTau, alpha, rewardAlpha;
  Divergence divergence;
  SftNormalization sftNormalization;
  bool average;              // the log-probs are means already
  double pairDivisor;        // what sums over pairs are divided by; 0: by P
  double tokenDivisor;       // what sft's sum over tokens is divided by; 0: by Σ n_w over the batch
  double gradientScale = 1;  // factor of the derivatives
};

// A weight times what it weighs. 0 means that this takes no part, whatever it is: 0 · ∞ and 0 · NaN are 0.
FPL_HD inline double weighed(double weight, double value) { return weight == 0 ? 0 : weight * value; }

// A product of derivatives, in which 0 · ∞ is 0.
FPL_HD inline double chained(double a, double b) {
  const double product = a * b;
  return product != product && a == a && b == b ? 0 : product;
}

// Value of a pair's loss and its derivatives with respect to the two policy log-probs.
struct LossValue {
  double loss, dChosen, dRejected;
};

// A function of one variable with its derivative.
struct Term {
  double value, slope;
};

// log σ(z), and its derivative σ(-z).
FPL_HD inline Term logSigmoid(double z) {
  const Logistic other = logistic(-z);
  return {-other.softplus, other.sigmoid};
}

// log(1 - e^x) for x < 0 without cancellation on either side of -ln 2 (Mächler 2012).
FPL_HD inline double log1mexp(double x) { return x > -kLn2 ? log(-expm1(x)) : log1p(-exp(x)); }

// α - 1 below which the alpha divergence is the reverse KL: (α - 1) x would no longer hold the digits of x.
constexpr double kLeastPower = 1e-12;

// Largest exponent a formula may pass to exp: beyond it the value stays finite and its derivative is 0.
constexpr double kExponentCap = 700;

FPL_HD inline Term cappedExp(double x) {
  if (x > kExponentCap) return {exp(kExponentCap), 0};
  const double e = exp(x);
  return {e, e};
}

// (e^(power x) - 1) / power, which is x where the power is 0.
FPL_HD inline Term powerOf(double x, double power) {
  if (fabs(power) < kLeastPower) return {x, 1};
  const double exponent = power * x;
  return {expm1(exponent > kExponentCap ? kExponentCap : exponent) / power, cappedExp(exponent).slope};
}

// An f-divergence's score of a log-ratio (Wang et al. 2023), up to a constant, which a difference is without.
FPL_HD inline Term score(double x, const LossConstants& k) {
  switch (k.divergence) {
    case Divergence::kForwardKl: {
      const Term e = cappedExp(-x);
      return {-e.value, e.slope};
    }
    case Divergence::kJensenShannon:
      return logSigmoid(x);
    case Divergence::kAlpha:
      // e^(power x) / power less its constant 1 / power, so that power → 0 gives x.
      return powerOf(x, k.alpha - 1);
    case Divergence::kReverseKl:
      break;
  }
  return {x, 1};
}

// A sequence's log-prob divided by its length, unless it is a mean already.
FPL_HD inline Term lengthMean(double logProb, double length, const LossConstants& k) {
  const double divisor = k.average || length == 0 ? 1 : length;
  return {logProb / divisor, 1 / divisor};
}

// The score of a sequence's log-ratio divided by the sequence's length, as TRL does it: a mean is made a sum first. It
// is e^(power x) / power itself, for a constant divided by two lengths is no longer one.
FPL_HD inline Term scoreMean(double logRatio, double length, const LossConstants& k) {
  if (k.divergence == Divergence::kReverseKl) return lengthMean(logRatio, length, k);
  const double divisor = length == 0 ? 1 : length;
  const double x = k.average ? logRatio * divisor : logRatio, power = k.alpha - 1;
  Term whole = score(x, k);
  if (k.divergence == Divergence::kAlpha && fabs(power) >= kLeastPower) {
    whole.value = cappedExp(power * x).value / power;
  }
  return {whole.value / divisor, k.average ? whole.slope : whole.slope / divisor};
}

// AlphaPO's reward of a log-prob, (1 - p^-α) / α with p = e^x (Gupta et al. 2025), which is x where α is 0.
FPL_HD inline Term alphaReward(Term x, const LossConstants& k) {
  if (k.rewardAlpha == 0) return x;
  const Term f = powerOf(x.value, -k.rewardAlpha);
  return {f.value, chained(f.slope, x.slope)};
}

// β times a difference of two terms, and its derivatives.
struct Difference {
  double z, dChosen, dRejected;

  FPL_HD LossValue through(Term f) const { return {f.value, chained(f.slope, dChosen), chained(f.slope, dRejected)}; }
};

FPL_HD inline Difference scaledDifference(Term chosen, Term rejected, double beta) {
  return {beta * (chosen.value - rejected.value), beta * chosen.slope, -beta * rejected.slope};
}

// The same less the offset of the pair.
FPL_HD inline Difference offsetDifference(Term chosen, Term rejected, const LossConstants& k) {
  Difference d = scaledDifference(chosen, rejected, k.beta);
  d.z -= k.offset;
  return d;
}

// βΔ less the offset, through the f-divergence's scores.
FPL_HD inline Difference scoredDifference(const Pair& p, const LossConstants& k) {
  return offsetDifference(score(p.chosen(), k), score(p.rejected(), k), k);
}

// -(1 - ε) log σ(z) - ε log σ(-z); a term whose factor is 0 is left out, as 0 · ∞ would be NaN.
FPL_HD inline Term smoothed(double z, double epsilon) {
  const Term yes = logSigmoid(z);
  if (epsilon == 0) return {-yes.value, -yes.slope};
  const Term no = logSigmoid(-z);
  if (epsilon == 1) return {-no.value, no.slope};
  return {-(1 - epsilon) * yes.value - epsilon * no.value, -(1 - epsilon) * yes.slope + epsilon * no.slope};
}

namespace loss {

// DPO, Rafailov et al. 2023; conservative DPO with ε > 0, Mitchell 2023.
FPL_HD inline LossValue sigmoid(const Pair& p, const LossConstants& k) {
  const Difference d = scoredDifference(p, k);
  return d.through(smoothed(d.z, k.labelSmoothing));
}

// Robust DPO, Chowdhury et al. 2024: unbiased under flips of probability ε. With log σ(-z) = log σ(z) - z the paper's
// [-(1 - ε) log σ(z) + ε log σ(-z)] / (1 - 2 ε) is this, in which nothing cancels as ε approaches 1/2.
FPL_HD inline LossValue robust(const Pair& p, const LossConstants& k) {
  const Difference d = scoredDifference(p, k);
  const Term yes = logSigmoid(d.z);
  const double flips = k.labelSmoothing / (1 - 2 * k.labelSmoothing);
  return d.through({-yes.value - weighed(flips, d.z), -yes.slope - flips});
}

// SLiC, Zhao et al. 2023, on rewards; the derivative at the kink is 0.
FPL_HD inline LossValue hinge(const Pair& p, const LossConstants& k) {
  const Difference d =
      offsetDifference(alphaReward(score(p.chosen(), k), k), alphaReward(score(p.rejected(), k), k), k);
  if (d.z != d.z) return d.through({d.z, d.z});
  return d.through(d.z >= 1 ? Term{0, 0} : Term{1 - d.z, -1});
}

// IPO, Azar et al. 2023: Δ itself is regressed, so β stands in the target alone. As TRL has it: on scores divided by
// lengths.
FPL_HD inline LossValue ipo_norm(const Pair& p, const LossConstants& k) {
  const Term chosen = alphaReward(scoreMean(p.chosen(), p.chosenLength, k), k);
  const Term rejected = alphaReward(scoreMean(p.rejected(), p.rejectedLength, k), k);
  const Difference d = scaledDifference(chosen, rejected, 1);
  const double gap = d.z - 1 / (2 * k.beta);
  return d.through({gap * gap, 2 * gap});
}

// IPO of what it is given: of sums as in the paper, and of means as above.
FPL_HD inline LossValue ipo(const Pair& p, const LossConstants& k) {
  if (k.average) return ipo_norm(p, k);
  const Difference d =
      scaledDifference(alphaReward(score(p.chosen(), k), k), alphaReward(score(p.rejected(), k), k), 1);
  const double gap = d.z - 1 / (2 * k.beta);
  return d.through({gap * gap, 2 * gap});
}

// The identity loss written on rewards: (βΔ - 1/β)².
FPL_HD inline LossValue ipo_reward(const Pair& p, const LossConstants& k) {
  const Difference d = scaledDifference({p.chosen(), 1}, {p.rejected(), 1}, k.beta);
  const double gap = d.z - 1 / k.beta;
  return d.through({gap * gap, 2 * gap});
}

// EXO, Ji et al. 2024: reverse KL between (σ(z), σ(-z)) and (1 - ε, ε).
FPL_HD inline LossValue exo_pair(const Pair& p, const LossConstants& k) {
  const Difference d = scoredDifference(p, k);
  const Term yes = logSigmoid(d.z), no = logSigmoid(-d.z);
  const double e = k.labelSmoothing;
  const double up = yes.value - log1p(-e), down = no.value - log(e);
  const double probability = no.slope, complement = yes.slope;  // σ(z), σ(-z)
  // σ log σ → 0 at either end, where the logarithm alone is infinite.
  const double value = (probability == 0 ? 0 : probability * up) + (complement == 0 ? 0 : complement * down);
  const double slope = probability == 0 || complement == 0 ? 0 : probability * complement * (up - down);
  return d.through({value, slope});
}

// NCA, Chen et al. 2024.
FPL_HD inline LossValue nca_pair(const Pair& p, const LossConstants& k) {
  const double c = k.beta * p.chosen(), r = k.beta * p.rejected();
  const Term chosen = logSigmoid(c), notChosen = logSigmoid(-c), notRejected = logSigmoid(-r);
  return {-chosen.value - 0.5 * notChosen.value - 0.5 * notRejected.value,
          k.beta * (-chosen.slope + 0.5 * notChosen.slope), k.beta * 0.5 * notRejected.slope};
}

// BCO, Jung et al. 2024, on pairs; δ = rewardShift.
FPL_HD inline LossValue bco_pair(const Pair& p, const LossConstants& k) {
  const Term chosen = logSigmoid(k.beta * p.chosen() - k.rewardShift);
  const Term rejected = logSigmoid(-(k.beta * p.rejected() - k.rewardShift));
  return {-chosen.value - rejected.value, -k.beta * chosen.slope, k.beta * rejected.slope};
}

// SPPO with hard labels, Wu et al. 2024.
FPL_HD inline LossValue sppo_hard(const Pair& p, const LossConstants& k) {
  const double c = p.chosen() - 0.5 / k.beta, r = p.rejected() + 0.5 / k.beta;
  return {c * c + r * r, 2 * c, 2 * r};
}

// APO-zero, D'Oosterlinck et al. 2024: raises the chosen, lowers the rejected.
FPL_HD inline LossValue apo_zero(const Pair& p, const LossConstants& k) {
  const double c = k.beta * p.chosen(), r = k.beta * p.rejected();
  return {fpl::sigmoid(-c) + fpl::sigmoid(r), -k.beta * fpl::sigmoid(c) * fpl::sigmoid(-c),
          k.beta * fpl::sigmoid(r) * fpl::sigmoid(-r)};
}

// APO-down, D'Oosterlinck et al. 2024: lowers both, the rejected more.
FPL_HD inline LossValue apo_down(const Pair& p, const LossConstants& k) {
  const double c = k.beta * p.chosen(), z = k.beta * (p.chosen() - p.rejected());
  const double dc = fpl::sigmoid(c) * fpl::sigmoid(-c), dz = fpl::sigmoid(z) * fpl::sigmoid(-z);
  return {fpl::sigmoid(c) + fpl::sigmoid(-z), k.beta * (dc - dz), k.beta * dz};
}

// AOT, Melnyk et al. 2024. The stage that drives the losses matches sequences by rank across the batch and hands over
// the matched pair; what is left is DPO's loss of their difference.
FPL_HD inline LossValue aot(const Pair& p, const LossConstants& k) {
  const Difference d = offsetDifference({p.chosen(), 1}, {p.rejected(), 1}, k);
  return d.through(smoothed(d.z, k.labelSmoothing));
}

FPL_HD inline LossValue aot_unpaired(const Pair& p, const LossConstants& k) { return aot(p, k); }

// DiscoPOP's log-ratio modulated loss, Lu et al. 2024: -log σ(z)·(1 - m) + e^(-z)·m, m = σ(z / τ).
FPL_HD inline LossValue discopop(const Pair& p, const LossConstants& k) {
  const Difference d = scoredDifference(p, k);
  if (d.z == -INFINITY) return d.through({INFINITY, -1});  // the limit
  const Term logistic = logSigmoid(d.z);
  const Term modulation = logSigmoid(d.z / k.discopopTau);  // log m, and 1 - m
  const double m = fpl::sigmoid(d.z / k.discopopTau), rest = modulation.slope;
  const double dm = m * rest / k.discopopTau;
  // e^(-z)·m as one exponential: for τ < 1 it cannot overflow.
  const Term tail = cappedExp(modulation.value - d.z);
  return d.through({-logistic.value * rest + tail.value,
                    -logistic.slope * rest + logistic.value * dm + tail.slope * (rest / k.discopopTau - 1)});
}

// DPO on length-normalised scores.
FPL_HD inline LossValue sigmoid_norm(const Pair& p, const LossConstants& k) {
  const Term chosen = scoreMean(p.chosen(), p.chosenLength, k);
  const Term rejected = scoreMean(p.rejected(), p.rejectedLength, k);
  const Difference d = offsetDifference(chosen, rejected, k);
  const Term f = logSigmoid(d.z);
  return d.through({-f.value, -f.slope});
}

// DPO-positive, Pal et al. 2024: -log σ(β(Δ - λ·max(0, -c))), whose penalty on a chosen sequence that is less likely
// than under the reference is inside σ. At c = 0 the derivative is that without the penalty.
FPL_HD inline LossValue dpop(const Pair& p, const LossConstants& k) {
  const double times = p.chosen() < 0 ? 1 + k.dpopLambda : 1;
  const Difference d = offsetDifference({times * p.chosen(), times}, {p.rejected(), 1}, k);
  const Term f = logSigmoid(d.z);
  return d.through({-f.value, -f.slope});
}

// Reward-aware preference optimization, Sun et al. 2025: the margin βΔ against a = targetMargin, that of the true
// rewards. Their squared distance:
FPL_HD inline LossValue rpo_sq(const Pair& p, const LossConstants& k) {
  const Difference d = scaledDifference({p.chosen(), 1}, {p.rejected(), 1}, k.beta);
  const double gap = d.z - k.targetMargin;
  return d.through({gap * gap, 2 * gap});
}

// σ(x) - σ(y), to the last digits where x and y are near.
FPL_HD inline double sigmoidDifference(double x, double y) {
  return x > y ? -fpl::sigmoid(x) * fpl::sigmoid(-y) * expm1(y - x) : fpl::sigmoid(-x) * fpl::sigmoid(y) * expm1(x - y);
}

// The Kullback-Leibler divergence from (σ(a), σ(-a)) to (σ(z), σ(-z)):
FPL_HD inline LossValue rpo_bwd_kl(const Pair& p, const LossConstants& k) {
  const Difference d = scaledDifference({p.chosen(), 1}, {p.rejected(), 1}, k.beta);
  const Term up = logSigmoid(k.targetMargin), down = logSigmoid(-k.targetMargin);
  const double probability = down.slope, complement = up.slope;  // σ(a), σ(-a)
  const double value =
      weighed(probability, up.value - logSigmoid(d.z).value) + weighed(complement, down.value - logSigmoid(-d.z).value);
  return d.through({value, sigmoidDifference(d.z, k.targetMargin)});
}

// and the other way round:
FPL_HD inline LossValue rpo_fwd_kl(const Pair& p, const LossConstants& k) {
  const Difference d = scaledDifference({p.chosen(), 1}, {p.rejected(), 1}, k.beta);
  const Term yes = logSigmoid(d.z), no = logSigmoid(-d.z);
  const double probability = no.slope, complement = yes.slope;  // σ(z), σ(-z)
  const double value = weighed(probability, yes.value - logSigmoid(k.targetMargin).value) +
                       weighed(complement, no.value - logSigmoid(-k.targetMargin).value);
  const double slope = weighed(probability, weighed(complement, d.z - k.targetMargin));
  return d.through({value, slope});
}

// SimPO, Meng et al. 2024.
FPL_HD inline LossValue simpo(const Pair& p, const LossConstants& k) {
  const Difference d = scaledDifference(alphaReward(lengthMean(p.policyChosen, p.chosenLength, k), k),
                                        alphaReward(lengthMean(p.policyRejected, p.rejectedLength, k), k), k.beta);
  return d.through(smoothed(d.z - k.gamma - k.offset, k.labelSmoothing));
}

// CPO, Xu et al. 2024, without its likelihood term (add 'sft' for that).
FPL_HD inline LossValue cpo(const Pair& p, const LossConstants& k) {
  const Difference d = offsetDifference(alphaReward({p.policyChosen, 1}, k), alphaReward({p.policyRejected, 1}, k), k);
  return d.through(smoothed(d.z, k.labelSmoothing));
}

// ORPO's odds of a sequence are those of its mean log-prob; without a token to be the mean of they are even.
FPL_HD inline Term oddsMean(double logProb, double length, const LossConstants& k) {
  if (length == 0 && logProb == 0) return {-kLn2, 0};
  return lengthMean(logProb, length, k);
}

// Nearest to 0 that a mean log-prob counts as in odds: β / (1 - e^x) stays finite for β up to 2^8.
constexpr double kMostCertain = -0x1p-1016;

// ORPO, Hong et al. 2024: the odds-ratio term, without its likelihood term (add 'sft' for that).
FPL_HD inline LossValue orpo(const Pair& p, const LossConstants& k) {
  const Term chosen = oddsMean(p.policyChosen, p.chosenLength, k);
  const Term rejected = oddsMean(p.policyRejected, p.rejectedLength, k);
  if (!(chosen.value <= 0 && rejected.value <= 0)) return {NAN, NAN, NAN};
  const bool chosenCertain = chosen.value >= kMostCertain, rejectedCertain = rejected.value >= kMostCertain;
  const double x = chosenCertain ? kMostCertain : chosen.value, y = rejectedCertain ? kMostCertain : rejected.value;
  const double logOdds = (x - y) - (log1mexp(x) - log1mexp(y));
  // With a = 1 - e^x and b = 1 - e^y the slopes σ(-log odds) / a and σ(-log odds) / b are, without a quotient of small
  // numbers, 1 / (a + b e^(x-y)) and a / b times that. A certain sequence has none where its limit is infinite.
  const double a = -expm1(x), b = -expm1(y);
  const double slope = 1 / (a + b * exp(x - y));
  const double dChosen = chosenCertain && rejectedCertain ? 0 : -k.beta * slope;
  const double dRejected = rejectedCertain ? 0 : k.beta * (a * slope) / b;
  return {-k.beta * logSigmoid(logOdds).value, dChosen * chosen.slope, dRejected * rejected.slope};
}

// Negative log-likelihood of the chosen sequences: of each sequence's mean over tokens, or its sum, or else a sum over
// all tokens of the batch divided as tokens are, scaled so that the sum over pairs divided as pairs are is that.
FPL_HD inline LossValue sft(const Pair& p, const LossConstants& k) {
  if (k.sftNormalization == SftNormalization::kSequences) {
    const Term mean = lengthMean(p.policyChosen, p.chosenLength, k);
    return {-mean.value, -mean.slope, 0};
  }
  const bool ofTokens = k.sftNormalization == SftNormalization::kTokens;
  const double scale = !ofTokens ? 1 : k.tokenDivisor == 0 ? 0 : k.pairDivisor / k.tokenDivisor;
  const double slope = -scale * (k.average ? p.chosenLength : 1);
  return {chained(p.policyChosen, slope), slope, 0};
}

}  // namespace loss

// Every loss once: this list makes the enumeration, the names and the dispatch.
#define FPL_LOSSES(X) \
  X(sigmoid)          \
  X(robust)           \
  X(hinge)            \
  X(ipo)              \
  X(ipo_norm)         \
  X(ipo_reward)       \
  X(exo_pair)         \
  X(nca_pair)         \
  X(bco_pair)         \
  X(sppo_hard)        \
  X(apo_zero)         \
  X(apo_down)         \
  X(aot)              \
  X(aot_unpaired)     \
  X(discopop)         \
  X(sigmoid_norm)     \
  X(dpop)             \
  X(rpo_sq)           \
  X(rpo_bwd_kl)       \
  X(rpo_fwd_kl)       \
  X(simpo)            \
  X(cpo)              \
  X(orpo)             \
  X(sft)

enum class LossType : int32_t {
#define FPL_ENTRY(name) name,
  FPL_LOSSES(FPL_ENTRY)
#undef FPL_ENTRY
};

constexpr const char* kLossNames[] = {
#define FPL_ENTRY(name) #name,
    FPL_LOSSES(FPL_ENTRY)
#undef FPL_ENTRY
};
constexpr int32_t kLossCount = int32_t(sizeof kLossNames / sizeof kLossNames[0]);

FPL_HD inline LossValue evaluate(LossType type, const Pair& pair, const LossConstants& constants) {
  switch (type) {
#define FPL_ENTRY(name) \
  case LossType::name:  \
    return loss::name(pair, constants);
    FPL_LOSSES(FPL_ENTRY)
#undef FPL_ENTRY
  }
  return {NAN, NAN, NAN};
}

// What is reported as rewards: β times the quantities that the loss compares, so that the loss is below that of the
// exchanged pair exactly where the chosen reward is above the rejected one. Scores that are divided by no length have
// the order of their log-ratios, which are reported in their place.
struct Rewards {
  double chosen, rejected;
};

FPL_HD inline Rewards rewards(LossType type, const Pair& p, const LossConstants& k) {
  const auto ofTerms = [&](Term chosen, Term rejected) {
    return Rewards{k.beta * chosen.value, k.beta * rejected.value};
  };
  const auto ofRewards = [&](Term chosen, Term rejected) {
    return ofTerms(alphaReward(chosen, k), alphaReward(rejected, k));
  };
  const Term chosen{p.chosen(), 1}, rejected{p.rejected(), 1};
  switch (type) {
    case LossType::sigmoid_norm:
      return ofTerms(scoreMean(p.chosen(), p.chosenLength, k), scoreMean(p.rejected(), p.rejectedLength, k));
    case LossType::ipo:
      if (!k.average) return ofRewards(chosen, rejected);
      return ofRewards(scoreMean(p.chosen(), p.chosenLength, k), scoreMean(p.rejected(), p.rejectedLength, k));
    case LossType::ipo_norm:
      return ofRewards(scoreMean(p.chosen(), p.chosenLength, k), scoreMean(p.rejected(), p.rejectedLength, k));
    case LossType::hinge:
      return ofRewards(chosen, rejected);
    case LossType::simpo:
      return ofRewards(lengthMean(p.policyChosen, p.chosenLength, k),
                       lengthMean(p.policyRejected, p.rejectedLength, k));
    case LossType::cpo:
      return ofRewards({p.policyChosen, 1}, {p.policyRejected, 1});
    case LossType::orpo:
      return ofTerms(loss::oddsMean(p.policyChosen, p.chosenLength, k),
                     loss::oddsMean(p.policyRejected, p.rejectedLength, k));
    default:
      return ofTerms(chosen, rejected);
  }
}

}  // namespace fpl
