// The losses of single sequences, each of which is desirable or is not: one entry a loss, its formula and its derivative
// side by side, in two-float numbers. It is native/core/unpaired_losses.h in WGSL.
//
// Letters: x = log π - log ρ of the sequence; y = 1 where it is desirable, -1 where not. Names are TRL's where TRL has
// the loss.

struct UnpairedLossConstants {
  beta: TwoFloat,
  kl: TwoFloat,           // κ of kto
  rewardShift: TwoFloat,  // δ of bco
  goal: TwoFloat,         // the target of regression
}

// σ(-z) = 1 - σ(z), and its derivative.
fn shortfall(z: TwoFloat) -> Term {
  let left = sigmoidOf(neg(z));
  return Term(left, neg(mul(sigmoidOf(z), left)));
}

// KTO, Ethayarajh et al. 2024: the value of a gain or a loss of reward as people see it, against κ, which has no
// gradient.
fn unpaired_kto(x: TwoFloat, y: TwoFloat, k: UnpairedLossConstants) -> Term {
  let slope = mul(y, k.beta);
  let f = shortfall(mul(slope, sub(x, k.kl)));
  return Term(f.value, mul(slope, f.slope));
}

// APO-zero of single sequences, D'Oosterlinck et al. 2024: the same against 0.
fn unpaired_apo_zero_unpaired(x: TwoFloat, y: TwoFloat, k: UnpairedLossConstants) -> Term {
  let slope = mul(y, k.beta);
  let f = shortfall(mul(slope, x));
  return Term(f.value, mul(slope, f.slope));
}

// BCO, Jung et al. 2024: a binary classifier whose logit is the reward, shifted by δ.
fn unpaired_bco(x: TwoFloat, y: TwoFloat, k: UnpairedLossConstants) -> Term {
  let f = logSigmoidOf(mul(y, sub(mul(k.beta, x), k.rewardShift)));
  return Term(neg(f.value), neg(mul(mul(y, k.beta), f.slope)));
}

// The reward is regressed to a target, whether the sequence is desirable or not: SPPO, Wu et al. 2024, and A*-PO,
// Brantley et al. 2025.
fn unpaired_regression(x: TwoFloat, y: TwoFloat, k: UnpairedLossConstants) -> Term {
  let gap = sub(mul(k.beta, x), k.goal);
  return Term(square(gap), mul(mul(TWO, k.beta), gap));
}
