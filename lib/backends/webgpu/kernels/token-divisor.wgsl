// Before stage 3 of single tokens, where their labels are on the device: what the sum over rows is divided by, the sum of
// the weights of their classes. In one workgroup.
struct Params {
  zero: u32,
  rows: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<i32>;  // [R]
@group(0) @binding(2) var<storage, read> classWeights: array<TwoFloat>;  // [V] where CLASSES or SMOOTHED_CLASSES
@group(0) @binding(3) var<storage, read_write> divisor: array<TwoFloat>;  // [1] out; 1 where nothing counts, as the sum is 0

@compute @workgroup_size(WORKGROUP)
fn tokenDivisor(@builtin(local_invocation_index) thread: u32) {
  hiddenZero = params.zero;
  var part = ZERO;
  for (var row = thread; row < params.rows; row += WORKGROUP) {
    if (targets[row] < 0) { continue; }
    var weight = ONE;
    if (CLASSES || SMOOTHED_CLASSES) { weight = classWeights[targets[row]]; }
    part = add(part, weight);
  }
  let sum = workgroupSum(part, thread);
  if (thread == 0) { divisor[0] = select(sum, ONE, isZero(sum)); }
}
