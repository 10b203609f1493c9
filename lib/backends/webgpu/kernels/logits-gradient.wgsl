// Stage 4: every active row of logits is read once and its gradient written once, perhaps to the same memory; other rows
// become zeros, or are left alone. A workgroup writes a tile of a row.
struct Params {
  temperature: Temperature,
  rows: Rows,
  outRows: Rows,
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

const TILE = 16 * WORKGROUP;

fn isConstant(v: RowValues) -> bool { return v.constant == 0 && v.perLog == 0; }

// What logits become, all but the label's.
fn gradientOf(x: vec4f, v: RowValues) -> vec4f {
  let powers = powersOf(x, v.unit, params.temperature);
  if (!FULL) {
    // The factor goes in before the power, which may leave the normal numbers.
    return v.constant * powers.mantissa * bitcast<vec4f>((min(powers.power, vec4i(127)) + 127) << vec4u(23));
  }
  return valueOf(powers) * v.constant;
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
  let isActive = label != INACTIVE;
  if (!isActive && params.skipInactive != 0) { return; }
  let start = rowStart(params.rows, row);
  let out = rowStart(params.outRows, row);
  var v = RowValues(Unit(0, 0), 0, 0, 0, 0, 0, 0);
  if (isActive) { v = values[row]; }
  let isNaNs = isNan(v.constant);
  let reads = isActive && !isNaNs && !isConstant(v);
  let first = index % params.tiles * TILE + 4 * thread;
  for (var at = first; at < min(first + TILE, params.vocab); at += 4 * WORKGROUP) {
    let isWhole = at + 4 <= params.vocab;
    var x = vec4f(select(v.everywhere, v.constant, isNaNs));
    if (reads) {
      if (isWhole) {
        x = loadLogits4(start + at);
      } else {
        for (var i = 0u; at + i < params.vocab; i++) { x[i] = loadLogit(start + at + i); }
      }
      x = gradientOf(x, v);
    }
    if (!isNaNs && label >= 0 && u32(label) - at < 4) { x[u32(label) - at] = v.atLabel; }
    if (isWhole) {
      storeGradient4(out + at, x);
    } else {
      for (var i = 0u; at + i < params.vocab; i++) { storeGradient(out + at + i, x[i]); }
    }
  }
}
