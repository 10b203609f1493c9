// Sums in float32 become a gradient, or are added to it. A thread writes a word, which is one element or two.
struct Params {
  zero: u32,
  words: u32,
  elements: u32,
  width: u32,       // elements of a row
  first: u32,       // row, in `index`
  start: u32,       // element of the binding where that row begins
  sumsStart: u32,   // element of the sums that the binding begins with
  adds: u32,
  zeros: u32,       // rows that have no sums become zeros
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> index: array<i32>;  // where INDEXED, the row of the sums, or -1
@group(0) @binding(2) var<storage, read> sums: array<f32>;
@group(0) @binding(3) var<storage, read_write> gradient: array<u32>;

fn finished(element: u32, bits: u32) -> u32 {
  let row = params.first + element / params.width;
  var place = i32(row);
  if (INDEXED) { place = index[row]; }
  if (place < 0) { return select(bits, 0, params.zeros != 0); }
  var sum = sums[u32(place) * params.width + element % params.width - params.sumsStart];
  if (params.adds != 0) { sum += decoded(bits); }
  return encoded(sum);
}

@compute @workgroup_size(WORKGROUP)
fn headFinish(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = params.zero;
  let at = workgroupIndex(group, groups) * WORKGROUP + thread;
  if (at >= params.words) { return; }
  // What is before the first element, or behind the last, is the caller's.
  let isWhole = at * PARTS >= params.start && at * PARTS + PARTS <= params.start + params.elements;
  var word = 0u;
  if (!isWhole || params.adds != 0 || params.zeros == 0) { word = gradient[at]; }
  for (var part = 0u; part < PARTS; part++) {
    let element = at * PARTS + part - params.start;
    if (element >= params.elements) { continue; }
    let shift = part * 16;
    word = insertBits(word, finished(element, extractBits(word, shift, 32 / PARTS)), shift, 32 / PARTS);
  }
  gradient[at] = word;
}
