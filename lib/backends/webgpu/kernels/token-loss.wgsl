// Stage 3 of single tokens: the cross-entropy of a row, and its derivatives with respect to the row's results.
//
// With L = log Σ e^s and m the mean of s, both of s = x / temperature, x capped if it has to be:
//
//   loss = φ · [-(1 - ε) · log p + ε · (L - m)] + λ · L²
//
// The bracket is -(1 - ε) · log p - (ε / V) · Σ_j log p_j. φ is 1 or, for DFT, p, whose own derivative is left out. Where
// classes have weights w (SMOOTHED_CLASSES), m is the mean of w_j · s_j and
//
//   loss = φ · [-(1 - ε) · w_label · log p + ε · (W̄ · L - m)] + w_label · λ · L²

struct Params {
  inverse: TwoFloat,          // 1 / T
  labelSmoothing: TwoFloat,   // ε
  toLabel: TwoFloat,          // 1 - ε
  zLoss: TwoFloat,            // λ
  meanClassWeight: TwoFloat,  // W̄, 1 where classes have no weights
  gradientScale: TwoFloat,    // factor of the derivatives
  zero: u32,
  rows: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<i32>;  // [R]
@group(0) @binding(2) var<storage, read> weights: array<Weights>;  // [R] where WEIGHS
@group(0) @binding(3) var<storage, read> classWeights: array<TwoFloat>;  // [V] where CLASSES or SMOOTHED_CLASSES
@group(0) @binding(4) var<storage, read_write> states: array<TokenState>;  // [R]
@group(0) @binding(5) var<storage, read_write> divisor: array<TwoFloat>;  // [1] of the sum over rows
// [R] out, not divided; 0 of inactive rows. Where SMOOTHS they take the place of m.
@group(0) @binding(6) var<storage, read_write> losses: array<TwoFloat>;
@group(0) @binding(7) var<storage, read_write> slopes: array<RowValues>;  // [R] out where HAS_SLOPES, in their places

// log Σ_j e^(x_j / T)
fn logSumExpOf(state: TokenState) -> TwoFloat {
  let unit = add(mul(two(state.unit.base), params.inverse), mul(LN2, two(f32(state.unit.exponent))));
  return add(unit, logOf(two(state.total)));
}

struct TokenLoss {
  loss: TwoFloat,
  slopes: Slopes,
}

fn tokenLossOf(state: TokenState, meanLogit: TwoFloat, labelWeight: TwoFloat) -> TokenLoss {
  var result = TokenLoss();
  let logProb = logProbOf(state);
  if (isNan(logProb.x)) {
    result.loss = logProb;
    result.slopes.logProb = logProb;
    return result;
  }
  var factor = ONE;
  if (DFT) { factor = expOf(logProb); }
  let toLabel = mul(params.toLabel, labelWeight);
  var crossEntropy = neg(weighed(toLabel, logProb));
  var logSumExp = ZERO;
  if (SMOOTHS || HAS_Z_LOSS) { logSumExp = logSumExpOf(state); }
  result.slopes.logProb = neg(mul(factor, toLabel));
  if (SMOOTHS) {
    let ofAll = mul(factor, params.labelSmoothing);
    let mean = sub(mul(params.meanClassWeight, logSumExp), meanLogit);
    crossEntropy = add(crossEntropy, mul(params.labelSmoothing, mean));
    result.slopes.logSumExp = mul(ofAll, params.meanClassWeight);
    result.slopes.meanLogit = neg(ofAll);
  }
  result.loss = weighed(factor, crossEntropy);
  if (HAS_Z_LOSS) {
    let slope = mul(mul(params.zLoss, labelWeight), logSumExp);
    result.loss = add(result.loss, mul(slope, logSumExp));
    result.slopes.logSumExp = add(result.slopes.logSumExp, mul(TWO, slope));
  }
  return result;
}

// The weight of a row's token, and of its class unless that is part of the formula.
fn weightOf(row: u32, classWeight: TwoFloat) -> TwoFloat {
  var weight = ONE;
  if (WEIGHS) { weight = weights[row].own; }
  if (CLASSES) { weight = mul(weight, classWeight); }
  return weight;
}

@compute @workgroup_size(WORKGROUP)
fn tokenLoss(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = params.zero;
  let row = workgroupIndex(group, groups) * WORKGROUP + thread;
  if (row >= params.rows) { return; }
  let label = targets[row];
  if (label < 0) {
    losses[row] = ZERO;
    return;
  }
  var classWeight = ONE;
  if ((CLASSES || SMOOTHED_CLASSES) && label >= 0) { classWeight = classWeights[label]; }
  let weight = weightOf(row, classWeight);
  let value = tokenLossOf(states[row], losses[row], select(ONE, classWeight, SMOOTHED_CLASSES));
  losses[row] = weighed(weight, value.loss);
  if (!HAS_SLOPES) { return; }
  let scale = mul(div(weight, divisor[0]), params.gradientScale);
  var scaledSlopes = Slopes();
  scaledSlopes.logProb = weighed(scale, value.slopes.logProb);
  scaledSlopes.logSumExp = weighed(scale, value.slopes.logSumExp);
  scaledSlopes.meanLogit = weighed(scale, value.slopes.meanLogit);
  slopes[row] = placeSlopes(scaledSlopes);
}
