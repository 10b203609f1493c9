// Where the hidden states of rows begin that take part in the gradients. One whose gradient is 0 does not, even if its hidden
// states are NaN.
struct Params {
  rows: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> places: array<u32>;
@group(0) @binding(2) var<storage, read_write> values: array<RowValues>;
@group(0) @binding(3) var<storage, read_write> taking: array<u32>;

fn isNothing(x: f32) -> bool { return bitcast<u32>(x) << 1 == 0; }

@compute @workgroup_size(WORKGROUP)
fn headPlaces(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  let row = workgroupIndex(group, groups) * WORKGROUP + thread;
  if (row >= params.rows) { return; }
  let v = values[row];
  let idle = isNothing(v.constant) && isNothing(v.perLog) && isNothing(v.everywhere) && isNothing(v.atLabel);
  taking[row] = select(places[row], NOWHERE, idle);
}
