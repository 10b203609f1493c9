/**
 * The measurement of WebGPU, in a page: ours, the trainers' own operations, naive shaders, and a copy of the logits, one
 * after the other in each round.
 *
 * @typedef {object} Work
 * @property {GPUDevice} device
 * @property {GPUBuffer} logits
 * @property {Float32Array} values those of the logits
 * @property {[batch: number, time: number, vocab: number]} shape
 * @property {Int32Array<ArrayBuffer>} labels
 * @property {Int32Array<ArrayBuffer>} targets what each row predicts, -1 where nothing
 * @property {{ chosen: number[], rejected: number[] }} reference
 * @property {Float32Array<ArrayBuffer>} margins of the reference
 * @property {number} beta
 * @property {boolean} hasGradient
 *
 * @typedef {{ loss?: number, gradient?: unknown }} Result
 * @typedef {(() => Promise<Result>) & { record?: (encoder: GPUCommandEncoder) => void }} Run does one call, and returns when
 *   all of it is done; `record` records its work alone, where that can be had
 * @typedef {(work: Work) => Promise<Run>} Prepare
 */
import { jax } from './jax.mjs'
import { naive } from './naive.mjs'
import { ours } from './ours.mjs'
import { tfjsCustom, tfjsWritten } from './tfjs.mjs'

/** @type {{ name: string, title: string, prepare: Prepare }[]} */
const PEERS = [
  { name: 'ours', title: 'fused-preference-loss', prepare: ours },
  { name: 'tfjs-custom', title: 'TensorFlow.js, with an op of its own', prepare: tfjsCustom },
  { name: 'tfjs', title: 'TensorFlow.js', prepare: tfjsWritten },
  { name: 'jax-js', title: 'jax-js', prepare: jax },
  { name: 'naive', title: 'naive shaders, in float32', prepare: naive },
  { name: 'copy', title: 'a copy of the logits', prepare: copy },
]

const [STORAGE, COPY_SRC, COPY_DST] = [128, 4, 8]

/** @type {Prepare} */
async function copy({ device, logits }) {
  const to = device.createBuffer({ size: logits.size, usage: COPY_DST })
  const record = (/** @type {GPUCommandEncoder} */ encoder) => encoder.copyBufferToBuffer(logits, 0, to, 0, logits.size)
  const run = async () => {
    const encoder = device.createCommandEncoder()
    record(encoder)
    device.queue.submit([encoder.finish()])
    await device.queue.onSubmittedWorkDone()
    return {}
  }
  return Object.assign(run, { record })
}

/**
 * What a device says that recorded work takes, in seconds; undefined where it has no timestamps. They are written by passes
 * of nothing, before and after the work.
 *
 * @param {GPUDevice} device
 */
function clockOf(device) {
  if (!device.features.has('timestamp-query')) return undefined
  const [QUERY_RESOLVE, MAP_READ] = [0x200, 1]
  const querySet = device.createQuerySet({ type: 'timestamp', count: 2 })
  const resolved = device.createBuffer({ size: 16, usage: QUERY_RESOLVE | COPY_SRC })
  const found = device.createBuffer({ size: 16, usage: COPY_DST | MAP_READ })
  return async (/** @type {(encoder: GPUCommandEncoder) => void} */ record) => {
    const encoder = device.createCommandEncoder()
    encoder.beginComputePass({ timestampWrites: { querySet, beginningOfPassWriteIndex: 0 } }).end()
    record(encoder)
    encoder.beginComputePass({ timestampWrites: { querySet, endOfPassWriteIndex: 1 } }).end()
    encoder.resolveQuerySet(querySet, 0, 2, resolved, 0)
    encoder.copyBufferToBuffer(resolved, 0, found, 0, 16)
    device.queue.submit([encoder.finish()])
    await found.mapAsync(MAP_READ)
    const [begin, end] = new BigUint64Array(found.getMappedRange())
    found.unmap()
    return Number(end - begin) / 1e9
  }
}

/** What the device can have of these features is asked for. */
const FEATURES = /** @type {GPUFeatureName[]} */ (['subgroups', 'timestamp-query'])

/** Numbers in [0, 1), the same each time. */
function uniforms() {
  let state = 1
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

/**
 * @param {GPUDevice} device
 * @param {[number, number, number]} shape
 * @param {boolean} hasGradient
 * @returns {Work}
 */
function workOf(device, shape, hasGradient) {
  const [batch, time, vocab] = shape
  const next = uniforms()
  const values = Float32Array.from({ length: batch * time * vocab }, () => 4 * (next() + next() + next() - 1.5))
  const logits = device.createBuffer({ size: values.byteLength, usage: STORAGE | COPY_SRC | COPY_DST })
  device.queue.writeBuffer(logits, 0, values)
  const labels = Int32Array.from({ length: batch * time }, () => Math.floor(vocab * next()))
  const targets = labels.map((_, i) => (i % time === time - 1 ? -1 : labels[i + 1]))
  const half = batch / 2
  const reference = {
    chosen: Array.from({ length: half }, (_, i) => -12 * time - i),
    rejected: Array.from({ length: half }, (_, i) => -12 * time + i),
  }
  const margins = Float32Array.from(reference.chosen, (x, i) => x - reference.rejected[i])
  return { device, logits, values, shape, labels, targets, reference, margins, beta: 0.1, hasGradient }
}

/** Of the page, whose types are not in the program. */
const { gpu, userAgent } = /** @type {{ gpu?: GPU, userAgent: string }} */ (/** @type {any} */ (globalThis).navigator)

/** The adapter's own words, and whether it is software. */
export async function adapterOf() {
  const adapter = await gpu?.requestAdapter({ powerPreference: 'high-performance' })
  if (!adapter) throw new Error('this browser has no WebGPU, or no adapter for it')
  const { vendor, architecture, device, description } = /** @type {any} */ (adapter).info
  const isSoftware = /swiftshader|llvmpipe|lavapipe/i.test(`${architecture} ${description}`)
  return { adapter, info: { vendor, architecture, device, description, isSoftware } }
}

/**
 * @typedef {object} Options
 * @property {number} vocab
 * @property {number} rows a multiple of 4
 * @property {number} rounds
 * @property {(line: string) => void} [told]
 */

/**
 * The forward pass and the step, in seconds: of each peer all samples, or why it has none; and those of the device, where
 * it has timestamps and the peer's work can be recorded.
 *
 * @param {Options} options
 */
export async function measure({ vocab, rows, rounds, told = () => {} }) {
  const { adapter, info } = await adapterOf()
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits
  const device = await adapter.requestDevice({
    requiredLimits: { maxBufferSize, maxStorageBufferBindingSize },
    requiredFeatures: FEATURES.filter((feature) => adapter.features.has(feature)),
  })
  const clock = clockOf(device)
  const cases = []
  for (const name of ['forward', 'step']) {
    const work = workOf(device, [4, rows / 4, vocab], name === 'step')
    const running = []
    /** @type {{ name: string, title: string, seconds: number[], ofDevice: number[], loss?: number, absent?: string }[]} */
    const results = []
    for (const { name: peer, title, prepare } of PEERS) {
      told(`${name}: ${title}`)
      /** @type {typeof results[number]} */
      const result = { name: peer, title, seconds: [], ofDevice: [] }
      results.push(result)
      try {
        const run = await prepare(work)
        // The first call compiles.
        const { loss } = await run()
        Object.assign(result, { loss })
        running.push({ run, result })
      } catch (error) {
        Object.assign(result, { absent: String(/** @type {Error} */ (error).message ?? error) })
      }
    }
    const wanted = results[0].loss ?? Number.NaN
    for (const { title, loss } of results) {
      if (loss !== undefined && !(Math.abs(loss - wanted) < 1e-4)) {
        throw new Error(`${title} has the loss ${loss}, and ours is ${wanted}`)
      }
    }
    for (let round = 0; round < rounds; round++) {
      told(`${name}: round ${round + 1} of ${rounds}`)
      for (const { run, result } of running) {
        const start = performance.now()
        await run()
        result.seconds.push((performance.now() - start) / 1000)
        if (clock && run.record) result.ofDevice.push(await clock(run.record))
      }
    }
    work.logits.destroy()
    cases.push({ name, shape: work.shape, results })
  }
  device.destroy()
  return { format: 1, date: new Date().toISOString(), adapter: info, agent: userAgent, cases }
}
