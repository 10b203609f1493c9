// Stage 4: every active row of logits is read once and its gradient written once, perhaps to the same memory; other rows
// become zeros, or are left alone. A workgroup writes a tile of a row.
struct Params {
  temperature: Temperature,
  rows: Rows,
  outRows: Rows,
  cap: Cap,
  zero: u32,
  first: u32,  // row of the window
  count: u32,  // rows of the window
  vocab: u32,
  tiles: u32,         // of a row
  skipInactive: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read_write> values: array<RowValues>;

// From one vector of a tile to the next.
const STEP = 4 * WORKGROUP;
const TILE = 4 * STEP;

fn isConstant(v: RowValues) -> bool { return v.constant == 0 && v.perLog == 0; }
fn isNothing(v: RowValues) -> bool { return isConstant(v) && v.everywhere == 0 && v.atLabel == 0; }

// Whether the gradient of a row depends on its logits.
fn takesLogits(v: RowValues) -> bool { return !isConstant(v) || (CAPS && !isNothing(v)); }

// What logits become, all but the label's. Of capped ones that is to be multiplied by the slope of the cap.
fn gradientOf(x: vec4f, v: RowValues, everywhere: vec4f) -> vec4f {
  let powers = powersOf(x, unitOf(v), params.temperature);
  // The factor goes in before the power, which may be as small as float32 is.
  if (!FULL) {
    let gradient = v.constant * powers.mantissa * powersOfTwo4(powers.power);
    // 0 rather than -0.
    return select(gradient, vec4f(0), gradient == vec4f(0));
  }
  let logs = vec4f(powers.power - scaleOf(v)) * LN2.x + powers.rest;
  return (v.constant + v.perLog * logs) * powers.mantissa * powersOfTwo4(powers.power) + everywhere;
}

// Whether four logits are all in the row: the first four may begin before it, at -1.
fn isInside(at: u32) -> bool { return at < params.vocab && at + 4 <= params.vocab; }

// What is added to four logits alike but for the weights of their classes.
fn everywhereAt(v: RowValues, at: u32) -> vec4f {
  var everywhere = vec4f(v.everywhere);
  if (HAS_CLASSES) {
    for (var i = 0u; i < 4; i++) { everywhere[i] *= classWeight(min(at + i, params.vocab - 1)); }
  }
  return everywhere;
}

// Four derivatives of a row with a distribution, those of the vector of that number of a tile.
fn quadOf(start: u32, at: u32, v: RowValues, label: u32, number: u32) -> vec4f {
  let everywhere = everywhereAt(v, at);
  var x = vec4f(0);
  var slope = vec4f(1);
  if (takesLogits(v)) {
    if (isInside(at)) {
      x = vectorOf(start + at, number);
    } else {
      for (var i = 0u; i < 4; i++) { if (at + i < params.vocab) { x[i] = loadLogit(start + at + i); } }
    }
    if (CAPS) {
      let capped = cappedWithSlope(x);
      x = capped.value;
      slope = capped.slope;
    }
  }
  var gradient = everywhere;
  if (!isConstant(v)) { gradient = gradientOf(x, v, everywhere); }
  if (label - at < 4) { gradient[label - at] = v.atLabel; }
  if (CAPS) { gradient *= slope; }
  return gradient;
}

@compute @workgroup_size(WORKGROUP)
fn logitsGradient(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = params.zero;
  let index = workgroupIndex(group, groups);
  if (index >= params.count * params.tiles) { return; }
  let row = params.first + index / params.tiles;
  let label = targets[row];
  let isActive = label >= 0;
  if (label == INACTIVE && params.skipInactive != 0) { return; }
  let start = rowStart(params.rows, row);
  let out = rowStart(params.outRows, row);
  var v = RowValues();
  if (isActive) { v = values[row]; }
  let hasValues = isActive && !isNan(v.constant);
  let lead = leadOf(start, out);
  let tile = index % params.tiles * TILE;
  let end = params.vocab + lead;
  beginTiles(start - lead + tile, thread);
  readTile(start - lead, tile, select(0, end, hasValues && takesLogits(v)), thread);
  for (var number = 0u; number < 4; number++) {
    let place = tile + 4 * thread + number * STEP;
    if (place >= end) { break; }
    let at = place - lead;
    // 0, or NaN.
    var gradient = vec4f(v.constant);
    if (hasValues) { gradient = quadOf(start, at, v, u32(label), number); }
    if (isInside(at)) {
      storeGradient4(out + at, gradient);
    } else {
      for (var i = 0u; i < 4; i++) { if (at + i < params.vocab) { storeGradient(out + at + i, gradient[i]); } }
    }
  }
}
