// Sums over a workgroup, of which every invocation has one part: always in the same order.

var<workgroup> parts: array<TwoFloat, WORKGROUP>;

// The sum, for every invocation. `local` is the invocation's index; all of them must come here.
fn workgroupSum(part: TwoFloat, local: u32) -> TwoFloat {
  parts[local] = part;
  workgroupBarrier();
  for (var half = WORKGROUP / 2; half > 0; half /= 2) {
    if (local < half) { parts[local] = add(parts[local], parts[local + half]); }
    workgroupBarrier();
  }
  let sum = parts[0];
  workgroupBarrier();  // before the next sum
  return sum;
}

// The index of an invocation in a grid of one or two dimensions.
fn indexOf(id: vec3u, groups: vec3u) -> u32 { return id.y * groups.x * WORKGROUP + id.x; }
