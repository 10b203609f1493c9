// Sums over a workgroup, of which every invocation has one part: always in the same order.

var<workgroup> parts: array<TwoFloat, WORKGROUP>;

// The sum, for every invocation. `thread` is the invocation's index; all of them must come here.
fn workgroupSum(part: TwoFloat, thread: u32) -> TwoFloat {
  parts[thread] = part;
  workgroupBarrier();
  for (var half = WORKGROUP / 2; half > 0; half /= 2) {
    if (thread < half) { parts[thread] = add(parts[thread], parts[thread + half]); }
    workgroupBarrier();
  }
  let sum = parts[0];
  workgroupBarrier();  // before the next sum
  return sum;
}

