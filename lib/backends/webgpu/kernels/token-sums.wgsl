// Stage 3 of single tokens: the loss, in one workgroup.
struct Params {
  zero: u32,
  rows: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> losses: array<TwoFloat>;  // [R]
@group(0) @binding(2) var<storage, read_write> divisor: array<TwoFloat>;  // [1]
@group(0) @binding(3) var<storage, read_write> summary: array<TwoFloat>;  // [1] out: loss

@compute @workgroup_size(WORKGROUP)
fn tokenSums(@builtin(local_invocation_index) thread: u32) {
  hiddenZero = params.zero;
  var part = ZERO;
  for (var row = thread; row < params.rows; row += WORKGROUP) { part = add(part, losses[row]); }
  let sum = workgroupSum(part, thread);
  if (thread == 0) { summary[0] = div(sum, divisor[0]); }
}
