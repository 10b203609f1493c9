// The gradient of the bias: the columns of the logits' gradient are added up, in groups as in head-product.wgsl.
struct Params {
  rows: u32,
  vocab: u32,
  stride: u32,  // from row to row
  begins: u32,  // the sums hold nothing yet
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn headBias(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  let word = workgroupIndex(group, groups) * WORKGROUP + thread;
  if (word >= params.vocab) { return; }
  var total = 0f;
  if (params.begins == 0) { total = sums[word]; }
  for (var first = 0u; first < params.rows; first += GROUP) {
    var sum = 0f;
    for (var row = first; row < min(first + GROUP, params.rows); row++) { sum += gradient[row * params.stride + word]; }
    total += sum;
  }
  sums[word] = total;
}
