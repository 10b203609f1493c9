// A product of matrices for the output layer, C = start + A · B: A is [m, k], B [k, n], and C [m, n]. A workgroup makes a
// tile of C, of which each thread has 4 by 4 elements; tiles of A and B pass through the workgroup's memory.
//
// Sums are float32: GROUP products are added up in their order, and then the sums of the groups in theirs, on top of what
// C holds, or of the bias. So the result is the same however k is cut into products that follow each other, where they
// begin at multiples of GROUP.
struct Operand {
  start: u32,  // element (0, 0)
  rowStep: u32,
  columnStep: u32,
  spare: u32,
}

struct Params {
  a: Operand,
  b: Operand,
  c: Operand,
  m: u32,
  n: u32,
  k: u32,
  begins: u32,     // C holds nothing yet
  biasStart: u32,  // element of column 0
  firstRow: u32,   // of the gathered matrix, in `places`
}

@group(0) @binding(0) var<uniform> params: Params;
// Where the rows of a matrix begin that are gathered, in the place of its start and rowStep; NOWHERE for a row of zeros.
@group(0) @binding(1) var<storage, read> places: array<u32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;

const TILE = 64u;
const DEPTH = 16u;
const PITCH = TILE + 1;  // so that columns of a tile lie in different banks

var<workgroup> tileA: array<f32, DEPTH * PITCH>;  // [k][row]
var<workgroup> tileB: array<f32, DEPTH * PITCH>;  // [k][column]

fn placeIn(operand: Operand, row: u32, column: u32) -> u32 {
  return operand.start + row * operand.rowStep + column * operand.columnStep;
}

fn elementOfA(row: u32, column: u32) -> f32 {
  if (row >= params.m || column >= params.k) { return 0; }
  if (!GATHERS_A) { return loadA(placeIn(params.a, row, column)); }
  return loadA(places[params.firstRow + row] + params.a.start + column);
}

fn elementOfB(row: u32, column: u32) -> f32 {
  if (row >= params.k || column >= params.n) { return 0; }
  if (!GATHERS_B) { return loadB(placeIn(params.b, row, column)); }
  let place = places[params.firstRow + row];
  if (place == NOWHERE) { return 0; }
  return loadB(place + params.b.start + column);
}

// Neighbours in a tile that are neighbours in memory are loaded by neighbouring threads.
fn loadTiles(row: u32, column: u32, depth: u32, thread: u32) {
  for (var element = thread; element < TILE * DEPTH; element += WORKGROUP) {
    let along = vec2u(element / DEPTH, element % DEPTH);
    let across = vec2u(element % TILE, element / TILE);
    let a = select(across, along, params.a.columnStep == 1);
    tileA[a.y * PITCH + a.x] = elementOfA(row + a.x, depth + a.y);
    let b = select(along, across, params.b.columnStep == 1);
    tileB[b.y * PITCH + b.x] = elementOfB(depth + b.y, column + b.x);
  }
}

fn startOf(row: u32, column: u32) -> f32 {
  if (row >= params.m || column >= params.n) { return 0; }
  if (params.begins != 0) { return biasAt(params.biasStart + column); }
  return c[placeIn(params.c, row, column)];
}

@compute @workgroup_size(WORKGROUP)
fn headProduct(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  let index = workgroupIndex(group, groups);
  let across = (params.n + TILE - 1) / TILE;
  let row = index / across * TILE;
  let column = index % across * TILE;
  if (row >= params.m) { return; }
  let x = thread / 16 * 4;
  let y = thread % 16 * 4;

  var total = array<vec4f, 4>();
  for (var i = 0u; i < 4; i++) {
    for (var j = 0u; j < 4; j++) { total[i][j] = startOf(row + x + i, column + y + j); }
  }
  for (var first = 0u; first < params.k; first += GROUP) {
    var sum = array<vec4f, 4>();
    for (var depth = first; depth < min(first + GROUP, params.k); depth += DEPTH) {
      loadTiles(row, column, depth, thread);
      workgroupBarrier();
      for (var step = 0u; step < DEPTH; step++) {
        let at = step * PITCH + y;
        let b = vec4f(tileB[at], tileB[at + 1], tileB[at + 2], tileB[at + 3]);
        for (var i = 0u; i < 4; i++) { sum[i] += tileA[step * PITCH + x + i] * b; }
      }
      workgroupBarrier();
    }
    for (var i = 0u; i < 4; i++) { total[i] += sum[i]; }
  }
  for (var i = 0u; i < 4; i++) {
    for (var j = 0u; j < 4; j++) {
      if (row + x + i < params.m && column + y + j < params.n) {
        c[placeIn(params.c, row + x + i, column + y + j)] = total[i][j];
      }
    }
  }
}
