/**
 * Forms in WGSL that a user might write, for the comparison: a workgroup of 256 threads for each row, float32 throughout,
 * one pass each for the maximum, the sum and the gradient. ExecuTorch's log-softmax has this form.
 */
const CODE = `
struct Params { vocab: u32, rows: u32, batch: u32, beta: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<i32>;
@group(0) @binding(3) var<storage, read_write> found: array<vec2f>; // log-prob and log-sum-exp of each row
@group(0) @binding(4) var<storage, read_write> slopes: array<f32>;  // of each sequence; then the loss
@group(0) @binding(5) var<storage, read> margins: array<f32>;
@group(0) @binding(6) var<storage, read_write> gradient: array<f32>;
var<workgroup> shared_: array<f32, 256>;

fn reduce(at: u32, x: f32, largest: bool) -> f32 {
  shared_[at] = x;
  workgroupBarrier();
  for (var step = 128u; step > 0; step /= 2) {
    if (at < step) {
      let other = shared_[at + step];
      shared_[at] = select(shared_[at] + other, max(shared_[at], other), largest);
    }
    workgroupBarrier();
  }
  let all = shared_[0];
  workgroupBarrier();
  return all;
}

@compute @workgroup_size(256) fn forward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) at: u32,
) {
  let begin = group.x * params.vocab;
  var most = -3.4e38;
  for (var i = at; i < params.vocab; i += 256) { most = max(most, logits[begin + i]); }
  most = reduce(at, most, true);
  var sum = 0.0;
  for (var i = at; i < params.vocab; i += 256) { sum += exp(logits[begin + i] - most); }
  let logSumExp = most + log(reduce(at, sum, false));
  if (at == 0) {
    let target_ = targets[group.x];
    let logProb = select(0, logits[begin + u32(max(target_, 0))] - logSumExp, target_ >= 0);
    found[group.x] = vec2f(logProb, logSumExp);
  }
}

@compute @workgroup_size(1) fn loss() {
  let half = params.batch / 2;
  let time = params.rows / params.batch;
  var total = 0.0;
  for (var pair = 0u; pair < half; pair++) {
    var margin = -margins[pair];
    for (var t = 0u; t < time; t++) { margin += found[pair * time + t].x - found[(half + pair) * time + t].x; }
    let z = params.beta * margin;
    total += log(1 + exp(-z));
    let slope = -params.beta / (1 + exp(z)) / f32(half);
    slopes[pair] = slope;
    slopes[half + pair] = -slope;
  }
  slopes[params.batch] = total / f32(half);
}

@compute @workgroup_size(256) fn backward(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_index) at: u32,
) {
  let begin = group.x * params.vocab;
  let target_ = targets[group.x];
  let slope = select(0, slopes[group.x / (params.rows / params.batch)], target_ >= 0);
  let logSumExp = found[group.x].y;
  for (var i = at; i < params.vocab; i += 256) {
    gradient[begin + i] = slope * (f32(i32(i) == target_) - exp(logits[begin + i] - logSumExp));
  }
}
`

const ENTRIES = /** @type {const} */ (['forward', 'loss', 'backward'])
const [UNIFORM, STORAGE, COPY_SRC, COPY_DST, MAP_READ] = [64, 128, 4, 8, 1]

/** @type {import('./measure.mjs').Prepare} */
export async function naive({ device, logits, shape, targets, margins, beta, hasGradient }) {
  const [batch, time, vocab] = shape
  const rows = batch * time
  const module = device.createShaderModule({ code: CODE })
  const put = (/** @type {ArrayBufferView<ArrayBuffer>} */ data, usage = STORAGE) => {
    const buffer = device.createBuffer({ size: data.byteLength, usage: usage | COPY_DST })
    device.queue.writeBuffer(buffer, 0, data)
    return buffer
  }
  const params = new ArrayBuffer(16)
  new Uint32Array(params).set([vocab, rows, batch])
  new Float32Array(params)[3] = beta
  const out = (/** @type {number} */ size) => device.createBuffer({ size, usage: STORAGE | COPY_SRC })
  const buffers = [
    put(new Uint8Array(params), UNIFORM),
    logits,
    put(targets),
    out(8 * rows),
    out(4 * batch + 4),
    put(margins),
    out(hasGradient ? logits.size : 4),
  ]
  const bindings = { forward: [0, 1, 2, 3], loss: [0, 3, 4, 5], backward: [0, 1, 2, 3, 4, 6] }
  const groups = { forward: rows, loss: 1, backward: rows }
  /** @type {{ pipeline: GPUComputePipeline, group: GPUBindGroup, groups: number }[]} */
  const steps = []
  for (const entryPoint of ENTRIES) {
    if (entryPoint === 'backward' && !hasGradient) continue
    const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint } })
    const entries = bindings[entryPoint].map((binding) => ({ binding, resource: { buffer: buffers[binding] } }))
    const group = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries })
    steps.push({ pipeline, group, groups: groups[entryPoint] })
  }
  const last = device.createBuffer({ size: 4, usage: COPY_DST | MAP_READ })
  const record = (/** @type {GPUCommandEncoder} */ encoder) => {
    const pass = encoder.beginComputePass()
    for (const { pipeline, group, groups } of steps) {
      pass.setPipeline(pipeline)
      pass.setBindGroup(0, group)
      pass.dispatchWorkgroups(groups)
    }
    pass.end()
  }
  const run = async () => {
    const encoder = device.createCommandEncoder()
    record(encoder)
    encoder.copyBufferToBuffer(buffers[4], 4 * batch, last, 0, 4)
    device.queue.submit([encoder.finish()])
    await last.mapAsync(MAP_READ)
    const [loss] = new Float32Array(last.getMappedRange().slice(0))
    last.unmap()
    return { loss, gradient: hasGradient ? buffers[6] : undefined }
  }
  return Object.assign(run, { record })
}
