// The end of stage 1: the parts of a row are put together, in their order, and the label's logit is brought in.
struct Params {
  temperature: Temperature,
  rows: Rows,
  cap: Cap,
  inverse: TwoFloat,  // 1 / T
  zero: u32,
  first: u32,  // row of the window
  count: u32,  // rows of the window
  parts: u32,  // of a row
  vocab: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> partials: array<Swept>;
@group(0) @binding(3) var<storage, read_write> states: array<TokenState>;

// log(e^(x / T) / unit)
fn logInUnits(x: f32, unit: Unit) -> TwoFloat { return logRatio(Unit(x, 0), unit, params.inverse); }

fn finished(swept: Swept, labelLogit: f32) -> TokenState {
  let rest = swept.sum;
  let nothing = isZero(rest) && isMinusInfinity(labelLogit);  // the whole row is -∞
  if (nothing || isNan(labelLogit) || isInfinity(labelLogit) || !isFinite(rest.x)) {
    return tokenState(two(notANumber()), notANumber(), Unit(0, 0));
  }
  // Only the label has any probability.
  if (isZero(rest)) { return tokenState(two(0), 1, Unit(labelLogit, 0)); }
  let logRest = logOf(rest);
  var unit = swept.unit;
  let logLabel = logInUnits(labelLogit, unit);
  let logProb = logSigmoidOf(sub(logLabel, logRest)).value;
  // The row's total, in a unit near itself so that it can neither overflow nor vanish.
  var total: f32;
  if (logLabel.x > 700) {
    // The label towers over the rest: measure from it.
    unit = unitFor(labelLogit, params.temperature);
    total = expOf(logInUnits(labelLogit, unit)).x;
  } else {
    let up = i32(round(max(logLabel.x, logRest.x) * LOG2_E));
    unit.exponent += up;
    total = add(scaled(rest, -up), expOf(sub(logLabel, mul(LN2, two(f32(up)))))).x;
  }
  return tokenState(logProb, total, unit);
}

@compute @workgroup_size(WORKGROUP)
fn finishRows(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = params.zero;
  let index = workgroupIndex(group, groups) * WORKGROUP + thread;
  if (index >= params.count) { return; }
  let row = params.first + index;
  let label = targets[row];
  if (label < 0) {
    states[row] = tokenState(two(0), 0, Unit(0, 0));
    return;
  }
  var swept = partials[row * params.parts];
  for (var i = 1u; i < params.parts; i++) { swept = merged(swept, partials[row * params.parts + i]); }
  let labelLogit = capped4(vec4f(loadLogit(rowStart(params.rows, row) + u32(label)))).x;
  let state = finished(swept, labelLogit);
  states[row] = state;
  putResults(row, swept, state, label, labelLogit);
}
