// What the threads of a workgroup have swept, put together: one part for each segment.
var<workgroup> lanes: array<Swept, WORKGROUP>;

fn putSwept(segment: u32, swept: Swept, thread: u32) {
  lanes[thread] = swept;
  for (var half = WORKGROUP / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { lanes[thread] = merged(lanes[thread], lanes[thread + half]); }
  }
  if (thread == 0) { partials[segment] = lanes[0]; }
}
