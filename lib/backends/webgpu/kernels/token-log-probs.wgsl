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

// From one vector of a tile to the next, and from one tile to the next.
const STEP = 4 * WORKGROUP;
const TILE = 4 * STEP;

// The first bit of any tells that there has been a NaN; `seenInfinity` is of +∞. No row may have either.
var<private> seenNan: vec4u;
var<private> seenInfinity: vec4<bool>;

fn hasNoDistribution() -> bool { return any(seenInfinity) || any(seenNan >= vec4u(0x80000000u)); }

// Takes note of four logits as they count, of which the first `count` are in the row.
fn seen(x: vec4f, place: u32, count: u32) -> vec4f {
  let logits = capped4(x);
  let bits = bitcast<vec4u>(logits);
  // Of NaN alone the sum goes over to the sign.
  seenNan |= bits ^ (bits + (0x7fffffffu - INFINITY_BITS));
  seenInfinity |= bits == vec4u(INFINITY_BITS);
  noteLogits(logits, place, count);
  return logits;
}

// Four logits at that place without the label.
fn withoutLabel(x: vec4f, at: u32, label: u32) -> vec4f {
  return select(x, vec4f(-infinity()), vec4u(0, 1, 2, 3) == vec4u(label - at));
}

fn quadOf(start: u32, at: u32, label: u32, number: u32) -> vec4f {
  return withoutLabel(seen(vectorOf(start + at, number), at, 4), at, label);
}

// Four logits of which some may lie past the end: these are -∞.
fn lastQuadOf(start: u32, at: u32, end: u32, label: u32, number: u32) -> vec4f {
  if (at + 4 <= end) { return quadOf(start, at, label, number); }
  var x = vec4f(-infinity());
  for (var i = 0u; at + i < end; i++) { x[i] = loadLogit(start + at + i); }
  let inside = vec4u(0, 1, 2, 3) < vec4u(end - at);
  return withoutLabel(select(vec4f(-infinity()), seen(x, at, end - at), inside), at, label);
}

// The same, in a unit that logits of this maximum fit.
fn withRoom(swept: Swept, maximum: f32) -> Swept {
  let t = params.temperature;
  if (!isZero(swept.sum) && !isOutgrown(swept.unit, maximum, ROOM, t)) { return swept; }
  return rescaled(swept, unitFor(maximum, t));
}

// Four logits at a place of the row, which fit the unit.
fn plusQuad(swept: Swept, x: vec4f, place: u32, scale: Scale) -> Swept {
  return withTerms(withMaximum(swept, x, place), termsOf(x, scale));
}

fn addQuad(swept: Swept, x: vec4f, place: u32) -> Swept {
  let next = withRoom(swept, maximumOf(x));
  return plusQuad(next, x, place, scaleFor(next.unit, params.temperature));
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
  let whole = begin + (end - begin) / TILE * TILE;
  swept = sweepTiles(swept, start, begin, whole, end, label, thread);
  // What is left is less than a tile.
  if (whole < end) { readTile(start, whole, end, thread); }
  for (var number = 0u; number < 4; number++) {
    let at = whole + 4 * thread + number * STEP;
    if (at >= end) { break; }
    swept = addQuad(swept, lastQuadOf(start, at, end, label, number), at);
  }
  swept = withNotes(swept);
  if (hasNoDistribution()) { swept.sum = two(notANumber()); }
  putSwept(row * params.segments + index % params.segments, swept, thread);
}
