// Stage 4: every active row of logits is read once and its gradient written once, perhaps to the same memory; other rows
// become zeros, or are left alone. A workgroup writes a part of a row.
struct Params {
  temperature: Temperature,
  rows: Rows,
  outRows: Rows,
  cap: Cap,
  zero: u32,
  first: u32,  // row of the window
  count: u32,  // rows of the window
  vocab: u32,
  parts: u32,         // of a row, each a workgroup's,
  partLength: u32,    // of so many logits: a number of tiles
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
fn gradientOf(x: vec4f, v: RowValues, scale: Scale, everywhere: vec4f) -> vec4f {
  let powers = powersOf(x, scale, params.temperature);
  var factor = vec4f(v.constant);
  if (FULL) { factor += v.perLog * ((powers.power - f32(scaleOf(v))) * LN2.x + powers.rest); }
  // The factor goes in before the power, which may be as small as float32 is. What is added makes 0 of -0.
  return factor * powers.mantissa * powers.powerOfTwo + everywhere;
}

// What is added to four logits alike but for the weights of their classes.
fn everywhereAt(v: RowValues, at: u32) -> vec4f {
  var everywhere = vec4f(v.everywhere);
  if (HAS_CLASSES) {
    for (var i = 0u; i < 4; i++) { everywhere[i] *= classWeight(min(at + i, params.vocab - 1)); }
  }
  return everywhere;
}

// Four derivatives.
fn derivativesOf(logits: vec4f, at: u32, v: RowValues, scale: Scale, label: u32) -> vec4f {
  var x = logits;
  var slope = vec4f(1);
  if (CAPS) {
    let capped = cappedWithSlope(x);
    x = capped.value;
    slope = capped.slope;
  }
  var gradient = gradientOf(x, v, scale, everywhereAt(v, at));
  gradient = select(gradient, vec4f(v.atLabel), vec4u(0, 1, 2, 3) == vec4u(label - at));
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
  if (index >= params.count * params.parts) { return; }
  let row = params.first + index / params.parts;
  let word = targets[row];
  if (word == INACTIVE && params.skipInactive != 0) { return; }
  let label = u32(word);
  let start = rowStart(params.rows, row);
  let out = rowStart(params.outRows, row);
  var v = RowValues();
  if (word >= 0) { v = values[row]; }
  let hasDistribution = !isNan(v.constant);
  if (!hasDistribution) { v = RowValues(0, 0, v.constant, 0, v.constant, v.constant); }
  let reads = hasDistribution && takesLogits(v);
  // What stands for logits that are not read: nothing comes of it but what all get alike.
  let unread = vec4f(-infinity());
  let scale = scaleFor(unitOf(v), params.temperature);
  // Fours are written at once; the first may begin before the row.
  let lead = leadOf(start, out);
  let rowEnd = lead + params.vocab;
  let begin = index % params.parts * params.partLength;
  let end = min(begin + params.partLength, rowEnd);
  beginTiles(start - lead + begin, thread);
  for (var tile = begin; tile < end; tile += TILE) {
    readTile(start - lead, tile, select(0, rowEnd, reads), thread);
    for (var number = 0u; number < 4; number++) {
      let place = tile + 4 * thread + number * STEP;
      if (place + 4 > end) { break; }
      if (place < lead) { continue; }
      let at = place - lead;
      var x = unread;
      if (reads) { x = vectorOf(start + at, number); }
      let gradient = derivativesOf(x, at, v, scale, label);
      storeGradient4(out + at, gradient);
    }
  }
  // The ends of the row, which are no whole fours, go one by one.
  let last = rowEnd / 4 * 4;
  let isFirst = thread < 4 && begin == 0 && lead > 0;
  let isLast = thread >= 4 && thread < 8 && begin <= last && last < end && last >= lead;
  let place = select(last + thread - 4, thread, thread < 4);
  if ((isFirst || isLast) && place >= lead && place < rowEnd) {
    let at = place - lead;
    var x = unread;
    if (reads) { x = vec4f(loadLogit(start + at)); }
    let gradient = derivativesOf(x, at, v, scale, label).x;
    storeGradient(out + at, gradient);
  }
}
