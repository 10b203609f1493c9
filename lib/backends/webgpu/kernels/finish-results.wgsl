// The end of stage 1 where more is asked for than log-probs.
@group(0) @binding(4) var<storage, read_write> results: array<RowResults>;
// The mean of x / T, or of that times the weight of its class where classes have weights.
@group(0) @binding(5) var<storage, read_write> meanLogits: array<TwoFloat>;

fn putResults(row: u32, swept: Swept, state: TokenState, label: i32, labelLogit: f32) {
  results[row] = resultsOf(swept, state, label, labelLogit);
  let perLogit = div(params.inverse, twoOfInteger(i32(params.vocab)));
  if (HAS_CLASSES) {
    meanLogits[row] = mul(swept.ofClasses, perLogit);
  } else {
    meanLogits[row] = results[row].meanLogit;
  }
}

fn resultsOf(swept: Swept, state: TokenState, label: i32, labelLogit: f32) -> RowResults {
  let logProb = logProbOf(state);
  if (isNan(logProb.x)) {
    let nan = two(notANumber());
    return RowResults(nan, nan, nan, nan.x, -1);
  }
  var r: RowResults;
  let p = expOf(logProb);
  let total = two(state.total);
  let logTotal = logOf(total);
  r.logSumExp = add(logTotal, logRatio(state.unit, Unit(0, 0), params.inverse));
  // H = log total - Σ p · log e, with log e measured in the row's own unit so that nothing large cancels.
  let rest = rescaled(swept, state.unit);
  var labelTerm = two(0);
  if (!isZero(p)) { labelTerm = mul(p, logRatio(Unit(labelLogit, 0), state.unit, params.inverse)); }
  r.entropy = sub(logTotal, labelTerm);
  if (!isZero(rest.sum)) { r.entropy = sub(r.entropy, div(rest.weighted, total)); }
  // Rounding: a certain row has no entropy.
  if (r.entropy.x < 0) { r.entropy = two(0); }
  r.sumSquaredProbs = add(mul(p, p), div(rest.squares, mul(total, total))).x;
  let labelWins = labelLogit > swept.maximum || (labelLogit == swept.maximum && label < swept.argmax);
  r.argmax = select(swept.argmax, label, labelWins);
  let perLogit = div(params.inverse, twoOfInteger(i32(params.vocab)));
  r.meanLogit = mul(swept.logits, perLogit);
  return r;
}
