// What the threads of a workgroup have swept, one by one. Where a device is software, barriers cost more than the sums.
fn putSwept(segment: u32, swept: Swept, thread: u32) {
  let near = ofNeighbours(swept);
  if (thread % NEIGHBOURS == 0) { partials[(segment * WORKGROUP + thread) / NEIGHBOURS] = near; }
}
