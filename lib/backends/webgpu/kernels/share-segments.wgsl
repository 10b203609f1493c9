// What the threads of a workgroup have swept, put together: one part for each segment.
const LANES = WORKGROUP / NEIGHBOURS;
var<workgroup> lanes: array<Swept, LANES / 2>;

fn putSwept(segment: u32, swept: Swept, thread: u32) {
  const HALF = LANES / 2;
  let near = ofNeighbours(swept);
  let lane = thread / NEIGHBOURS;
  let isFirst = thread % NEIGHBOURS == 0;
  if (isFirst && lane >= HALF) { lanes[lane - HALF] = near; }
  workgroupBarrier();
  if (isFirst && lane < HALF) { lanes[lane] = merged(near, lanes[lane]); }
  for (var half = HALF / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (isFirst && lane < half) { lanes[lane] = merged(lanes[lane], lanes[lane + half]); }
  }
  if (thread == 0) { partials[segment] = lanes[0]; }
}
