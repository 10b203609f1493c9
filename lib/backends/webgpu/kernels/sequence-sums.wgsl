// Stage 2: the log-probs of a sequence's active rows are added up, by one workgroup, in an order that depends on the length
// of the sequence alone. For WPO it is log p - log Σp² that is added up, without the weights of tokens.
struct Params {
  zero: u32,
  sequenceCount: u32,
  average: u32,
  emptyLogProb: u32,  // its bits: 0 or NaN
  begin: u32,         // where the sums are written
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read> sequences: array<Sequence>;
@group(0) @binding(3) var<storage, read> weights: array<Weights>;
@group(0) @binding(4) var<storage, read_write> states: array<TokenState>;
@group(0) @binding(5) var<storage, read_write> sums: array<TwoFloat>;

var<workgroup> lanes: array<TwoFloat, WORKGROUP>;

// A weight of 0 takes a row out, whatever it holds.
fn weighed(row: u32) -> TwoFloat {
  let logProb = logProbOf(states[row]);
  if (OF_LOG_WEIGHTS) { return sub(logProb, logSumSquaredProbs(row)); }
  if (!WEIGHS) { return logProb; }
  let weight = select(weights[row].own, weights[row].plain, IS_PLAIN);
  if (isZero(weight)) { return two(0); }
  return mul(weight, logProb);
}

@compute @workgroup_size(WORKGROUP)
fn sequenceSums(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = params.zero;
  let s = workgroupIndex(group, groups);
  if (s >= params.sequenceCount) { return; }
  var sum = two(0);
  for (var row = sequences[s].first + thread; row < sequences[s + 1].first; row += WORKGROUP) {
    if (targets[row] >= 0) { sum = add(sum, weighed(row)); }
  }
  lanes[thread] = sum;
  for (var step = 1u; step < WORKGROUP; step *= 2) {
    workgroupBarrier();
    if (thread % (2 * step) == 0) { lanes[thread] = add(lanes[thread], lanes[thread + step]); }
  }
  if (thread != 0) { return; }
  var total = lanes[0];
  let count = sequences[s].count;
  if (count == 0) {
    total = two(floatOf(params.emptyLogProb));
  } else if (params.average != 0) {
    total = div(total, twoOfInteger(count));
  }
  sums[params.begin + s] = total;
}
