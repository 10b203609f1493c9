// The losses of pairs: one entry a loss, its formula and its derivative side by side, in two-float numbers. It is
// native/core/losses.h in WGSL, in the same order.
//
// Letters: π policy, ρ reference, w chosen, l rejected, n active tokens; c = π_w - ρ_w, r = π_l - ρ_l, Δ = c - r;
// ε = labelSmoothing. x̄ is x divided by its own n. Names are TRL's where TRL has the loss.
//
// What every pair of a call shares and decides what is compiled is in what loss-shaders.ts writes: the constants
// DIVERGENCE, SFT_NORMALIZATION, AVERAGE and the numbers of the losses, and the functions score, alphaReward and reward,
// which are one of those here.

const REVERSE_KL = 0u;
const ALPHA = 3u;

// What sft's negative log-likelihoods are a mean of: tokens of the batch, means of sequences, or sums of sequences.
const TOKENS = 0u;
const SEQUENCES = 1u;

// One pair, as a loss sees it.
struct Pair {
  policyChosen: TwoFloat,
  policyRejected: TwoFloat,
  referenceChosen: TwoFloat,
  referenceRejected: TwoFloat,
  chosenLength: TwoFloat,
  rejectedLength: TwoFloat,
}

fn chosenRatio(p: Pair) -> TwoFloat { return sub(p.policyChosen, p.referenceChosen); }
fn rejectedRatio(p: Pair) -> TwoFloat { return sub(p.policyRejected, p.referenceRejected); }

// Value of a pair's loss and its derivatives with respect to the two policy log-probs.
struct LossValue {
  loss: TwoFloat,
  dChosen: TwoFloat,
  dRejected: TwoFloat,
}

// α - 1 below which the alpha divergence is the reverse KL: (α - 1) x would no longer hold the digits of x.
const LEAST_POWER = 1e-12f;

// Largest exponent a formula may pass to exp: beyond it the value stays finite and its derivative is 0.
const EXPONENT_CAP = 87f;

fn capped(x: TwoFloat) -> TwoFloat { return select(x, two(EXPONENT_CAP), x.x > EXPONENT_CAP); }

fn cappedExp(x: TwoFloat) -> Term {
  let e = expOf(capped(x));
  return Term(e, select(e, ZERO, x.x > EXPONENT_CAP));
}

// (e^(power x) - 1) / power, which is x where the power is 0.
fn powerOf(x: TwoFloat, power: TwoFloat) -> Term {
  if (abs(power.x) < LEAST_POWER) { return Term(x, ONE); }
  let exponent = mul(power, x);
  return Term(div(expm1Of(capped(exponent)), power), cappedExp(exponent).slope);
}

// An f-divergence's score of a log-ratio (Wang et al. 2023), up to a constant, which a difference is without.
fn score_reverse_kl(x: TwoFloat, k: LossConstants) -> Term { return Term(x, ONE); }

fn score_forward_kl(x: TwoFloat, k: LossConstants) -> Term {
  let e = cappedExp(neg(x));
  return Term(neg(e.value), e.slope);
}

fn score_js(x: TwoFloat, k: LossConstants) -> Term { return logSigmoidOf(x); }

// e^(power x) / power less its constant 1 / power, so that power → 0 gives x.
fn score_alpha(x: TwoFloat, k: LossConstants) -> Term { return powerOf(x, sub(k.alpha, ONE)); }

// A length to divide by.
fn divisorOf(length: TwoFloat) -> TwoFloat { return select(length, ONE, isZero(length)); }

// A sequence's log-prob divided by its length, unless it is a mean already.
fn lengthMean(logProb: TwoFloat, length: TwoFloat) -> Term {
  if (AVERAGE) { return Term(logProb, ONE); }
  let divisor = divisorOf(length);
  return Term(div(logProb, divisor), div(ONE, divisor));
}

// The score of a sequence's log-ratio divided by the sequence's length, as TRL does it: a mean is made a sum first. It
// is e^(power x) / power itself, for a constant divided by two lengths is no longer one.
fn scoreMean(logRatio: TwoFloat, length: TwoFloat, k: LossConstants) -> Term {
  if (DIVERGENCE == REVERSE_KL) { return lengthMean(logRatio, length); }
  let divisor = divisorOf(length);
  var x = logRatio;
  if (AVERAGE) { x = mul(logRatio, divisor); }
  let power = sub(k.alpha, ONE);
  var whole = score(x, k);
  if (DIVERGENCE == ALPHA && abs(power.x) >= LEAST_POWER) {
    whole.value = div(cappedExp(mul(power, x)).value, power);
  }
  if (AVERAGE) { return Term(div(whole.value, divisor), whole.slope); }
  return Term(div(whole.value, divisor), div(whole.slope, divisor));
}

// AlphaPO's reward of a log-prob, (1 - p^-α) / α with p = e^x (Gupta et al. 2025), which is x where α is 0.
fn alphaReward_plain(x: Term, k: LossConstants) -> Term { return x; }

fn alphaReward_power(x: Term, k: LossConstants) -> Term {
  let f = powerOf(x.value, neg(k.rewardAlpha));
  return Term(f.value, chained(f.slope, x.slope));
}

// β times a difference of two terms, and its derivatives.
struct Difference {
  z: TwoFloat,
  dChosen: TwoFloat,
  dRejected: TwoFloat,
}

// The loss f(z).
fn through(d: Difference, value: TwoFloat, slope: TwoFloat) -> LossValue {
  return LossValue(value, chained(slope, d.dChosen), chained(slope, d.dRejected));
}

fn scaledDifference(chosen: Term, rejected: Term, beta: TwoFloat) -> Difference {
  return Difference(
      mul(beta, sub(chosen.value, rejected.value)), mul(beta, chosen.slope), neg(mul(beta, rejected.slope)));
}

// The same less the offset of the pair.
fn offsetDifference(chosen: Term, rejected: Term, k: LossConstants) -> Difference {
  let d = scaledDifference(chosen, rejected, k.beta);
  return Difference(sub(d.z, k.offset), d.dChosen, d.dRejected);
}

// βΔ.
fn ratioDifference(p: Pair, beta: TwoFloat) -> Difference {
  return scaledDifference(Term(chosenRatio(p), ONE), Term(rejectedRatio(p), ONE), beta);
}

// βΔ less the offset, through the f-divergence's scores.
fn scoredDifference(p: Pair, k: LossConstants) -> Difference {
  return offsetDifference(score(chosenRatio(p), k), score(rejectedRatio(p), k), k);
}

// The loss (d - target)².
fn squaredGap(d: Difference, goal: TwoFloat) -> LossValue {
  let gap = sub(d.z, goal);
  return through(d, square(gap), mul(TWO, gap));
}

// The loss -(1 - ε) log σ(z) - ε log σ(-z); a term whose factor is 0 is left out, as 0 · ∞ would be NaN.
fn smoothed(d: Difference, epsilon: TwoFloat) -> LossValue {
  let f = logisticOf(d.z);
  let rest = sub(ONE, epsilon);
  return through(d, neg(add(weighed(rest, f.yes.value), weighed(epsilon, f.no.value))),
                 sub(weighed(epsilon, f.no.slope), weighed(rest, f.yes.slope)));
}

// ---- The losses

// DPO, Rafailov et al. 2023; conservative DPO with ε > 0, Mitchell 2023.
fn loss_sigmoid(p: Pair, k: LossConstants) -> LossValue { return smoothed(scoredDifference(p, k), k.labelSmoothing); }

// Robust DPO, Chowdhury et al. 2024: unbiased under flips of probability ε. With log σ(-z) = log σ(z) - z the paper's
// [-(1 - ε) log σ(z) + ε log σ(-z)] / (1 - 2 ε) is this, in which nothing cancels as ε approaches 1/2. flips is
// ε / (1 - 2 ε), which a two-float ε has not the digits for.
fn loss_robust(p: Pair, k: LossConstants) -> LossValue {
  let d = scoredDifference(p, k);
  let yes = logSigmoidOf(d.z);
  return through(d, neg(add(yes.value, weighed(k.flips, d.z))), neg(add(yes.slope, k.flips)));
}

// SLiC, Zhao et al. 2023, on rewards; the derivative at the kink is 0.
fn loss_hinge(p: Pair, k: LossConstants) -> LossValue {
  let chosen = alphaReward(score(chosenRatio(p), k), k);
  let rejected = alphaReward(score(rejectedRatio(p), k), k);
  let d = offsetDifference(chosen, rejected, k);
  if (isNan(d.z.x)) { return LossValue(d.z, d.z, d.z); }
  if (less(d.z, ONE)) { return through(d, sub(ONE, d.z), neg(ONE)); }
  return LossValue(ZERO, ZERO, ZERO);
}

// IPO, Azar et al. 2023: Δ itself is regressed, so β stands in the target alone. As TRL has it: on scores divided by
// lengths.
fn loss_ipo_norm(p: Pair, k: LossConstants) -> LossValue {
  let chosen = alphaReward(scoreMean(chosenRatio(p), p.chosenLength, k), k);
  let rejected = alphaReward(scoreMean(rejectedRatio(p), p.rejectedLength, k), k);
  return squaredGap(scaledDifference(chosen, rejected, ONE), div(HALF, k.beta));
}

// IPO of sums, as in the paper; that of means is the one above.
fn loss_ipo(p: Pair, k: LossConstants) -> LossValue {
  let chosen = alphaReward(score(chosenRatio(p), k), k);
  let rejected = alphaReward(score(rejectedRatio(p), k), k);
  return squaredGap(scaledDifference(chosen, rejected, ONE), div(HALF, k.beta));
}

// The identity loss written on rewards: (βΔ - 1/β)².
fn loss_ipo_reward(p: Pair, k: LossConstants) -> LossValue {
  return squaredGap(ratioDifference(p, k.beta), div(ONE, k.beta));
}

// EXO, Ji et al. 2024: reverse KL between (σ(z), σ(-z)) and (1 - ε, ε).
fn loss_exo_pair(p: Pair, k: LossConstants) -> LossValue {
  let d = scoredDifference(p, k);
  let f = logisticOf(d.z);
  let up = sub(f.yes.value, log1pOf(neg(k.labelSmoothing)));
  let down = sub(f.no.value, logOf(k.labelSmoothing));
  let probability = f.no.slope;   // σ(z)
  let complement = f.yes.slope;  // σ(-z)
  // σ log σ → 0 at either end, where the logarithm alone is infinite.
  let value = add(weighed(probability, up), weighed(complement, down));
  return through(d, value, weighed(probability, weighed(complement, sub(up, down))));
}

// NCA, Chen et al. 2024.
fn loss_nca_pair(p: Pair, k: LossConstants) -> LossValue {
  let chosen = logisticOf(mul(k.beta, chosenRatio(p)));
  let notRejected = logisticOf(mul(k.beta, rejectedRatio(p))).no;
  return LossValue(neg(add(chosen.yes.value, mul(HALF, add(chosen.no.value, notRejected.value)))),
                   mul(k.beta, sub(mul(HALF, chosen.no.slope), chosen.yes.slope)),
                   mul(k.beta, mul(HALF, notRejected.slope)));
}

// BCO, Jung et al. 2024, on pairs; δ = rewardShift.
fn loss_bco_pair(p: Pair, k: LossConstants) -> LossValue {
  let chosen = logSigmoidOf(sub(mul(k.beta, chosenRatio(p)), k.rewardShift));
  let rejected = logSigmoidOf(sub(k.rewardShift, mul(k.beta, rejectedRatio(p))));
  return LossValue(neg(add(chosen.value, rejected.value)), neg(mul(k.beta, chosen.slope)),
                   mul(k.beta, rejected.slope));
}

// SPPO with hard labels, Wu et al. 2024.
fn loss_sppo_hard(p: Pair, k: LossConstants) -> LossValue {
  let goal = div(HALF, k.beta);
  let c = sub(chosenRatio(p), goal);
  let r = add(rejectedRatio(p), goal);
  return LossValue(add(square(c), square(r)), mul(TWO, c), mul(TWO, r));
}

// σ(z) and σ(-z), whose product is the derivative of σ.
struct Odds {
  yes: TwoFloat,
  no: TwoFloat,
  slope: TwoFloat,
}

fn oddsOf(z: TwoFloat) -> Odds {
  let yes = sigmoidOf(z);
  let no = sigmoidOf(neg(z));
  return Odds(yes, no, mul(yes, no));
}

// APO-zero, D'Oosterlinck et al. 2024: raises the chosen, lowers the rejected.
fn loss_apo_zero(p: Pair, k: LossConstants) -> LossValue {
  let c = oddsOf(mul(k.beta, chosenRatio(p)));
  let r = oddsOf(mul(k.beta, rejectedRatio(p)));
  return LossValue(add(c.no, r.yes), neg(mul(k.beta, c.slope)), mul(k.beta, r.slope));
}

// APO-down, D'Oosterlinck et al. 2024: lowers both, the rejected more.
fn loss_apo_down(p: Pair, k: LossConstants) -> LossValue {
  let c = oddsOf(mul(k.beta, chosenRatio(p)));
  let z = oddsOf(ratioDifference(p, k.beta).z);
  return LossValue(add(c.yes, z.no), mul(k.beta, sub(c.slope, z.slope)), mul(k.beta, z.slope));
}

// AOT, Melnyk et al. 2024. The stage that drives the losses matches sequences by rank across the batch and hands over
// the matched pair; what is left is DPO's loss of their difference.
fn loss_aot(p: Pair, k: LossConstants) -> LossValue {
  let d = offsetDifference(Term(chosenRatio(p), ONE), Term(rejectedRatio(p), ONE), k);
  return smoothed(d, k.labelSmoothing);
}

fn loss_aot_unpaired(p: Pair, k: LossConstants) -> LossValue { return loss_aot(p, k); }

// DiscoPOP's log-ratio modulated loss, Lu et al. 2024: -log σ(z)·(1 - m) + e^(-z)·m, m = σ(z / τ).
fn loss_discopop(p: Pair, k: LossConstants) -> LossValue {
  let d = scoredDifference(p, k);
  if (isMinusInfinity(d.z.x)) { return through(d, two(infinity()), neg(ONE)); }  // the limit
  let logistic = logSigmoidOf(d.z);
  let modulation = logisticOf(div(d.z, k.discopopTau));
  let m = modulation.no.slope;
  let rest = modulation.yes.slope;
  let perTau = div(rest, k.discopopTau);
  // e^(-z)·m as one exponential: for τ < 1 it cannot overflow.
  let tail = cappedExp(sub(modulation.yes.value, d.z));
  let slope = add(mul(tail.slope, sub(perTau, ONE)), sub(mul(logistic.value, mul(m, perTau)), mul(logistic.slope, rest)));
  return through(d, sub(tail.value, mul(logistic.value, rest)), slope);
}

// DPO on length-normalised scores.
fn loss_sigmoid_norm(p: Pair, k: LossConstants) -> LossValue {
  let chosen = scoreMean(chosenRatio(p), p.chosenLength, k);
  let rejected = scoreMean(rejectedRatio(p), p.rejectedLength, k);
  return smoothed(offsetDifference(chosen, rejected, k), ZERO);
}

// DPO-positive, Pal et al. 2024: -log σ(β(Δ - λ·max(0, -c))), whose penalty on a chosen sequence that is less likely
// than under the reference is inside σ. At c = 0 the derivative is that without the penalty.
fn loss_dpop(p: Pair, k: LossConstants) -> LossValue {
  let c = chosenRatio(p);
  let times = select(ONE, add(ONE, k.dpopLambda), c.x < 0);
  return smoothed(offsetDifference(Term(mul(times, c), times), Term(rejectedRatio(p), ONE), k), ZERO);
}

// Reward-aware preference optimization, Sun et al. 2025: the margin βΔ against a = targetMargin, that of the true
// rewards. Their squared distance:
fn loss_rpo_sq(p: Pair, k: LossConstants) -> LossValue { return squaredGap(ratioDifference(p, k.beta), k.targetMargin); }

// The Kullback-Leibler divergence from the probabilities of a to those of b.
fn divergence(a: Logistic, b: Logistic) -> TwoFloat {
  return add(weighed(a.no.slope, sub(a.yes.value, b.yes.value)),
             weighed(a.yes.slope, sub(a.no.value, b.no.value)));
}

// σ(x) - σ(y), to the last digits where x and y are near.
fn sigmoidDifference(x: TwoFloat, y: TwoFloat) -> TwoFloat {
  let larger = less(y, x);
  let high = select(y, x, larger);
  let low = select(x, y, larger);
  let distance = mul(mul(sigmoidOf(high), sigmoidOf(neg(low))), expm1Of(sub(low, high)));
  return select(distance, neg(distance), larger);
}

// The Kullback-Leibler divergence from (σ(a), σ(-a)) to (σ(z), σ(-z)):
fn loss_rpo_bwd_kl(p: Pair, k: LossConstants) -> LossValue {
  let d = ratioDifference(p, k.beta);
  return through(d, divergence(logisticOf(k.targetMargin), logisticOf(d.z)), sigmoidDifference(d.z, k.targetMargin));
}

// and the other way round:
fn loss_rpo_fwd_kl(p: Pair, k: LossConstants) -> LossValue {
  let d = ratioDifference(p, k.beta);
  let f = logisticOf(d.z);
  let slope = weighed(f.no.slope, weighed(f.yes.slope, sub(d.z, k.targetMargin)));
  return through(d, divergence(f, logisticOf(k.targetMargin)), slope);
}

// SimPO, Meng et al. 2024.
fn loss_simpo(p: Pair, k: LossConstants) -> LossValue {
  let chosen = alphaReward(lengthMean(p.policyChosen, p.chosenLength), k);
  let rejected = alphaReward(lengthMean(p.policyRejected, p.rejectedLength), k);
  let d = offsetDifference(chosen, rejected, k);
  return smoothed(Difference(sub(d.z, k.gamma), d.dChosen, d.dRejected), k.labelSmoothing);
}

// CPO, Xu et al. 2024, without its likelihood term (add 'sft' for that).
fn loss_cpo(p: Pair, k: LossConstants) -> LossValue {
  let chosen = alphaReward(Term(p.policyChosen, ONE), k);
  let rejected = alphaReward(Term(p.policyRejected, ONE), k);
  return smoothed(offsetDifference(chosen, rejected, k), k.labelSmoothing);
}

// ORPO's odds of a sequence are those of its mean log-prob; without a token to be the mean of they are even.
fn oddsMean(logProb: TwoFloat, length: TwoFloat) -> Term {
  if (isZero(length) && isZero(logProb)) { return Term(neg(LN2), ZERO); }
  return lengthMean(logProb, length);
}

// From here on a mean log-prob x counts as certain in odds: β / (1 - e^x) stays finite for β up to 2^8. log(1 - e^x) of
// a certain one is -1016 ln 2, as in float64.
const MOST_CERTAIN = -0x1p-120f;
const LOG_OF_CERTAIN = TwoFloat(-704.237548828125f, 0.000013379220945353154f);

// ORPO, Hong et al. 2024: the odds-ratio term, without its likelihood term (add 'sft' for that).
fn loss_orpo(p: Pair, k: LossConstants) -> LossValue {
  let chosen = oddsMean(p.policyChosen, p.chosenLength);
  let rejected = oddsMean(p.policyRejected, p.rejectedLength);
  if (isNan(chosen.value.x) || isNan(rejected.value.x) || chosen.value.x > 0 || rejected.value.x > 0) {
    let none = two(notANumber());
    return LossValue(none, none, none);
  }
  let chosenCertain = chosen.value.x >= MOST_CERTAIN;
  let rejectedCertain = rejected.value.x >= MOST_CERTAIN;
  let x = select(chosen.value, ZERO, chosenCertain);
  let y = select(rejected.value, ZERO, rejectedCertain);
  let distance = sub(x, y);
  let logA = select(log1mexpOf(x), LOG_OF_CERTAIN, chosenCertain);
  let logB = select(log1mexpOf(y), LOG_OF_CERTAIN, rejectedCertain);
  let logOdds = sub(distance, sub(logA, logB));
  // With a = 1 - e^x and b = 1 - e^y the slopes σ(-log odds) / a and σ(-log odds) / b are, without a quotient of small
  // numbers, 1 / (a + b e^(x-y)) and a / b times that. A certain sequence has none where its limit is infinite.
  let a = neg(expm1Of(x));
  let b = neg(expm1Of(y));
  let slope = div(k.beta, add(a, mul(b, expOf(distance))));
  let dChosen = select(neg(slope), ZERO, chosenCertain && rejectedCertain);
  let dRejected = select(div(mul(a, slope), b), ZERO, rejectedCertain);
  return LossValue(neg(mul(k.beta, logSigmoidOf(logOdds).value)), mul(dChosen, chosen.slope),
                   mul(dRejected, rejected.slope));
}

// Negative log-likelihood of the chosen sequences: of each sequence's mean over tokens, or its sum, or else a sum over
// all tokens of the batch divided as tokens are, scaled so that the sum over pairs divided as pairs are is that.
fn loss_sft(p: Pair, k: LossConstants) -> LossValue {
  if (SFT_NORMALIZATION == SEQUENCES) {
    let mean = lengthMean(p.policyChosen, p.chosenLength);
    return LossValue(neg(mean.value), neg(mean.slope), ZERO);
  }
  var slope = neg(ONE);
  if (AVERAGE) { slope = neg(p.chosenLength); }
  if (SFT_NORMALIZATION == TOKENS) {
    slope = select(div(mul(slope, k.pairDivisor), k.tokenDivisor), ZERO, isZero(k.tokenDivisor));
  }
  return LossValue(chained(p.policyChosen, slope), slope, ZERO);
}

// ---- The rewards

// What is reported as rewards: β times the quantities that the loss compares, so that the loss is below that of the
// exchanged pair exactly where the chosen reward is above the rejected one. Scores that are divided by no length have
// the order of their log-ratios, which are reported in their place.
struct Rewards {
  chosen: TwoFloat,
  rejected: TwoFloat,
}

fn reward_plain(policy: TwoFloat, reference: TwoFloat, length: TwoFloat, k: LossConstants) -> TwoFloat {
  return sub(policy, reference);
}

fn reward_sigmoid_norm(policy: TwoFloat, reference: TwoFloat, length: TwoFloat, k: LossConstants) -> TwoFloat {
  return scoreMean(sub(policy, reference), length, k).value;
}

fn reward_ipo_norm(policy: TwoFloat, reference: TwoFloat, length: TwoFloat, k: LossConstants) -> TwoFloat {
  return alphaReward(scoreMean(sub(policy, reference), length, k), k).value;
}

fn reward_hinge(policy: TwoFloat, reference: TwoFloat, length: TwoFloat, k: LossConstants) -> TwoFloat {
  return alphaReward(Term(sub(policy, reference), ONE), k).value;
}

fn reward_simpo(policy: TwoFloat, reference: TwoFloat, length: TwoFloat, k: LossConstants) -> TwoFloat {
  return alphaReward(lengthMean(policy, length), k).value;
}

fn reward_cpo(policy: TwoFloat, reference: TwoFloat, length: TwoFloat, k: LossConstants) -> TwoFloat {
  return alphaReward(Term(policy, ONE), k).value;
}

fn reward_orpo(policy: TwoFloat, reference: TwoFloat, length: TwoFloat, k: LossConstants) -> TwoFloat {
  return oddsMean(policy, length).value;
}

fn rewardsOf(p: Pair, k: LossConstants) -> Rewards {
  return Rewards(mul(k.beta, reward(p.policyChosen, p.referenceChosen, p.chosenLength, k)),
                 mul(k.beta, reward(p.policyRejected, p.referenceRejected, p.rejectedLength, k)));
}
