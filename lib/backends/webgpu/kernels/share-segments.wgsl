// What the threads of a workgroup have swept, put together: one part for each segment.
const LANES = WORKGROUP / NEIGHBOURS;
var<workgroup> lanes: array<Swept, LANES>;

fn putSwept(segment: u32, swept: Swept, thread: u32) {
  let near = ofNeighbours(swept);
  let lane = thread / NEIGHBOURS;
  let isFirst = thread % NEIGHBOURS == 0;
  if (isFirst) { lanes[lane] = near; }
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (isFirst && lane < half) { lanes[lane] = merged(lanes[lane], lanes[lane + half]); }
  }
  if (thread == 0) { partials[segment] = lanes[0]; }
}
