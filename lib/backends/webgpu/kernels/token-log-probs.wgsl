// Stage 1: every active row of logits is read once. A row is cut into segments of a length that depends on the vocabulary
// alone, and each segment is a workgroup's, so that the result of a row depends on the row alone. finish-rows.wgsl puts the
// segments together.
struct Params {
  temperature: Temperature,
  rows: Rows,
  cap: Cap,
  inverse: TwoFloat,  // 1 / T
  zero: u32,
  first: u32,  // row of the window
  count: u32,  // rows of the window
  vocab: u32,
  segments: u32,  // of a row
  segmentLength: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> partials: array<Swept>;

var<workgroup> lanes: array<Swept, WORKGROUP>;

// Four logits of the row, and -∞ past its end.
fn quadOf(row: u32, at: u32, end: u32) -> vec4f {
  if (at + 4 <= end) { return capped4(loadLogits4(row + at)); }
  // No cap for what is past the end.
  var x = vec4f(-infinity());
  for (var i = 0u; at + i < end; i++) { x[i] = capped4(vec4f(loadLogit(row + at + i))).x; }
  return x;
}

@compute @workgroup_size(WORKGROUP)
fn tokenLogProbs(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = params.zero;
  let index = workgroupIndex(group, groups);
  if (index >= params.count * params.segments) { return; }
  let row = params.first + index / params.segments;
  let word = targets[row];
  if (word < 0) { return; }
  let label = u32(word);
  let begin = index % params.segments * params.segmentLength;
  let end = min(begin + params.segmentLength, params.vocab);
  let start = rowStart(params.rows, row);

  var swept = nothingSwept();
  var worst = vec4u(0);
  for (var at = begin + 4 * thread; at < end; at += 16 * WORKGROUP) {
    var x = array<vec4f, 4>();
    for (var i = 0u; i < 4; i++) {
      let place = at + 4 * i * WORKGROUP;
      if (place < end) {
        x[i] = quadOf(start, place, end);
        swept = addLogits(swept, x[i], place, end - place);
        worst = max(worst, rank4(x[i]));
        // Left out of the sums.
        if (label - place < 4) { x[i][label - place] = -infinity(); }
      } else {
        x[i] = vec4f(-infinity());
      }
    }
    swept = addTile(swept, x, at);
  }
  if (any(worst > vec4u(INFINITY_BITS))) { swept.sum = two(notANumber()); }

  lanes[thread] = swept;
  for (var step = 1u; step < WORKGROUP; step *= 2) {
    workgroupBarrier();
    if (thread % (2 * step) == 0) { lanes[thread] = merged(lanes[thread], lanes[thread + step]); }
  }
  if (thread == 0) { partials[row * params.segments + index % params.segments] = lanes[0]; }
}
