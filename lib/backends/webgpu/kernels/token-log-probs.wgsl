// Stage 1: every active row of logits is read once. A row is cut into segments of a length that depends on the vocabulary
// alone, and each segment is a workgroup's, so that the result of a row depends on the row alone. finish-rows.wgsl puts what
// there is of a row together.
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

// From one vector of a tile to the next.
const STEP = 4 * WORKGROUP;

// The largest of all bits, as signed numbers and as unsigned ones: they tell of +∞ and NaN, which no row may have.
var<private> mostBits: vec4i = vec4i(-1);
var<private> mostUnsigned: vec4u;

fn hasNoDistribution() -> bool {
  return any(mostBits >= vec4i(i32(INFINITY_BITS))) || any(mostUnsigned > vec4u(INFINITY_BITS | 0x80000000u));
}

// Takes note of four logits as they count, of which the first `count` are in the row.
fn seen(x: vec4f, place: u32, count: u32) -> vec4f {
  let logits = capped4(x);
  mostBits = max(mostBits, bitcast<vec4i>(logits));
  mostUnsigned = max(mostUnsigned, bitcast<vec4u>(logits));
  noteLogits(logits, place, count);
  return logits;
}

// Four logits of the row, the vector of that number of a tile; -∞ past its end and for the label itself.
fn quadOf(row: u32, at: u32, end: u32, label: u32, number: u32) -> vec4f {
  var x = vec4f(-infinity());
  if (at >= end) { return x; }
  if (at + 4 <= end) {
    x = vectorOf(row + at, number);
  } else {
    for (var i = 0u; at + i < end; i++) { x[i] = loadLogit(row + at + i); }
  }
  x = seen(x, at, end - at);
  let places = vec4u(at) + vec4u(0, 1, 2, 3);
  return select(x, vec4f(-infinity()), (places >= vec4u(end)) | (places == vec4u(label)));
}

fn tileOf(row: u32, at: u32, end: u32, label: u32) -> Tile {
  let ahead = label - at;
  let hasLabel = ahead < 4 * STEP && ahead % STEP < 4;
  if (hasLabel || at + 3 * STEP + 4 > end) {
    return Tile(
        quadOf(row, at, end, label, 0), quadOf(row, at + STEP, end, label, 1),
        quadOf(row, at + 2 * STEP, end, label, 2), quadOf(row, at + 3 * STEP, end, label, 3));
  }
  let place = row + at;
  let a = seen(vectorOf(place, 0), at, 4);
  let b = seen(vectorOf(place + STEP, 1), at + STEP, 4);
  let c = seen(vectorOf(place + 2 * STEP, 2), at + 2 * STEP, 4);
  let d = seen(vectorOf(place + 3 * STEP, 3), at + 3 * STEP, 4);
  return Tile(a, b, c, d);
}

// The same, in a unit that logits of this maximum fit.
fn withRoom(swept: Swept, maximum: f32) -> Swept {
  let t = params.temperature;
  if (!isZero(swept.sum) && !isOutgrown(swept.unit, maximum, t)) { return swept; }
  return rescaled(swept, unitFor(maximum, t));
}

@compute @workgroup_size(WORKGROUP)
fn tokenLogProbs(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    invocation: Invocation) {
  hiddenZero = params.zero;
  let thread = threadOf(invocation);
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
  beginTiles(start + begin, thread);
  for (var tile = begin; tile < end; tile += 4 * STEP) {
    readTile(start, tile, end, thread);
    let at = tile + 4 * thread;
    if (at < end) { swept = addTile(swept, tileOf(start, at, end, label), at); }
  }
  swept = withNotes(swept);
  if (hasNoDistribution()) { swept.sum = two(notANumber()); }
  putSwept(row * params.segments + index % params.segments, swept, thread);
}
