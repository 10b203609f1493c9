// Where rows of logits lie: row (b, t) begins at element b · batchStride + t · timeStride of its memory. A shader sees a
// window of that memory, which begins at element `start`. All of this is modulo 2^32, which leaves the place in the window
// right wherever the window lies.
struct Rows {
  time: u32,
  batchStride: u32,
  timeStride: u32,
  start: u32,
}

fn rowStart(rows: Rows, row: u32) -> u32 {
  return row / rows.time * rows.batchStride + row % rows.time * rows.timeStride - rows.start;
}

// Rows `first` to the next sequence's `first` form a sequence, of which `count` predict something. Behind the last sequence
// there is one more.
struct Sequence {
  first: u32,
  count: i32,
}

// A row of workgroups is cut where the grid has a second dimension.
fn workgroupIndex(group: vec3u, groups: vec3u) -> u32 { return group.y * groups.x + group.x; }
