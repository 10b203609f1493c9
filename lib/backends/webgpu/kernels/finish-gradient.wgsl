// Stage 4 begins: the derivatives of the loss with respect to the results of each row, and what they make of its logits.
struct Params {
  perLogit: TwoFloat,  // the derivative of what counts with respect to the logit, but for the slope of a soft-cap
  zero: u32,
  rows: u32,
  sequenceCount: u32,
  average: u32,
  vocab: u32,
  plain: u32,  // where the coefficients of plain log-probs begin; 0 where there are none
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read> sequences: array<Sequence>;
@group(0) @binding(3) var<storage, read> weights: array<Weights>;
@group(0) @binding(4) var<storage, read_write> states: array<TokenState>;
@group(0) @binding(5) var<storage, read_write> coefficients: array<TwoFloat>;
@group(0) @binding(6) var<storage, read_write> own: array<Slopes>;
@group(0) @binding(7) var<storage, read_write> values: array<RowValues>;  // where HAS_PLACED, in their places the slopes

// The sequence of a row.
fn sequenceOf(row: u32) -> u32 {
  var low = 0u;
  var high = params.sequenceCount;
  while (high - low > 1) {
    let middle = (low + high) / 2;
    if (sequences[middle].first <= row) { low = middle; } else { high = middle; }
  }
  return low;
}

// The power of two by which the factor of a row's w goes into the unit, as far as w in the new unit fits float32: the w of
// the other logits are no larger than 1 - p of the row's total.
fn exponentForUnit(factor: f32, complement: f32) -> i32 {
  var exponent = 0;
  if (factor != 0 && isFinite(factor)) { exponent = binaryOf(abs(factor)).exponent; }
  var below = 0;
  if (complement > 0) { below = binaryOf(complement).exponent; }
  return min(exponent, select(60, 60 - below, below < 0));
}

fn valuesOf(state: TokenState, slopes: Slopes, label: i32) -> RowValues {
  let entropy = slopes.ofEntropy;
  let everywhere = div(mul(slopes.meanLogit, params.perLogit), twoOfInteger(i32(params.vocab)));
  var ofLabel = everywhere;
  if (HAS_CLASSES && label >= 0) { ofLabel = weighed(two(classWeight(u32(label))), everywhere); }
  var v = RowValues(state.unit.base, exponentsOf(state.unit.exponent, 0), 0, 0, everywhere.x, ofLabel.x);
  if (isZero(slopes.logProb) && isZero(slopes.logSumExp) && isZero(slopes.entropy)) { return v; }
  // d entropy / d s_j = -p_j · (log p_j + entropy), and log p_j = log w_j - log total.
  let logProb = logProbOf(state);
  let p = expOf(logProb);
  let complement = absolute(expm1Of(logProb));
  var atLabel = mul(slopes.logProb, complement);
  var constant = sub(slopes.logSumExp, slopes.logProb);
  if (!isZero(slopes.logSumExp)) { atLabel = add(atLabel, mul(slopes.logSumExp, p)); }
  if (!isZero(slopes.entropy)) {
    if (!isZero(p)) { atLabel = sub(atLabel, mul(mul(slopes.entropy, p), add(logProb, entropy))); }
    constant = sub(constant, mul(slopes.entropy, sub(entropy, logOf(two(state.total)))));
  }
  v.atLabel = add(mul(atLabel, params.perLogit), ofLabel).x;
  let perTotal = div(params.perLogit, two(state.total));
  constant = mul(constant, perTotal);
  let perLog = mul(neg(slopes.entropy), perTotal);
  let scale = exponentForUnit(max(abs(constant.x), abs(perLog.x)), complement.x);
  v.constant = timesPowerOfTwo(constant.x, -scale);
  v.perLog = timesPowerOfTwo(perLog.x, -scale);
  v.exponents = exponentsOf(state.unit.exponent - scale, scale);
  // Infinities would make NaN with each other anyway.
  if (!isFinite(v.constant) || !isFinite(v.perLog) || !isFinite(v.everywhere)) { v.constant = notANumber(); }
  return v;
}

@compute @workgroup_size(WORKGROUP)
fn finishGradient(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = params.zero;
  let row = workgroupIndex(group, groups) * WORKGROUP + thread;
  if (row >= params.rows) { return; }
  let label = targets[row];
  if (label < 0) { return; }
  var slopes = Slopes();
  let ofSequence = sequenceSlope(row);
  if (HAS_OWN) { slopes = own[row]; }
  if (HAS_PLACED) { slopes = slopesAt(values[row]); }
  slopes.logProb = add(slopes.logProb, ofSequence);
  if (DEFERS) {
    putRowScale(row, slopes.logProb);
    slopes.logProb = two(f32(takesPart(row, slopes.logProb)));
  }
  values[row] = valuesOf(states[row], slopes, label);
}

// What a row's sequence gives it of d loss / d log-prob.
fn sequenceSlope(row: u32) -> TwoFloat {
  let s = sequenceOf(row);
  var ofSum = coefficients[s];
  var ofPlain = two(0);
  if (params.plain != 0) { ofPlain = coefficients[params.plain + s]; }
  if (params.average != 0) {
    let count = twoOfInteger(sequences[s].count);
    ofSum = div(ofSum, count);
    ofPlain = div(ofPlain, count);
  }
  if (!WEIGHS) { return ofSum; }
  let slope = weighed(weights[row].own, ofSum);
  if (params.plain == 0) { return slope; }
  return add(slope, weighed(weights[row].plain, ofPlain));
}

// Whether a row whose scale is deferred may take part in the loss.
fn takesPart(row: u32, scale: TwoFloat) -> bool {
  if (HAS_OWN || HAS_PLACED) { return !isZero(scale); }
  if (!WEIGHS) { return true; }
  return !isZero(weights[row].own) || (params.plain != 0 && !isZero(weights[row].plain));
}
