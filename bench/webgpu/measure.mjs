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
 * @typedef {(work: Work) => Promise<() => Promise<Result>>} Prepare makes what one call does, of which it returns when all
 *   of it is done
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
  return async () => {
    const encoder = device.createCommandEncoder()
    encoder.copyBufferToBuffer(logits, 0, to, 0, logits.size)
    device.queue.submit([encoder.finish()])
    await device.queue.onSubmittedWorkDone()
    return {}
  }
}

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
 * The forward pass and the step, in seconds: of each peer all samples, or why it has none.
 *
 * @param {Options} options
 */
export async function measure({ vocab, rows, rounds, told = () => {} }) {
  const { adapter, info } = await adapterOf()
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits
  const device = await adapter.requestDevice({ requiredLimits: { maxBufferSize, maxStorageBufferBindingSize } })
  const cases = []
  for (const name of ['forward', 'step']) {
    const work = workOf(device, [4, rows / 4, vocab], name === 'step')
    const running = []
    /** @type {{ name: string, title: string, seconds: number[], loss?: number, absent?: string }[]} */
    const results = []
    for (const { name: peer, title, prepare } of PEERS) {
      told(`${name}: ${title}`)
      const result = { name: peer, title, seconds: /** @type {number[]} */ ([]) }
      results.push(result)
      try {
        const run = await prepare(work)
        // The first call compiles.
        const { loss } = await run()
        Object.assign(result, { loss })
        running.push({ run, seconds: result.seconds })
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
      for (const { run, seconds } of running) {
        const start = performance.now()
        await run()
        seconds.push((performance.now() - start) / 1000)
      }
    }
    work.logits.destroy()
    cases.push({ name, shape: work.shape, results })
  }
  device.destroy()
  return { format: 1, date: new Date().toISOString(), adapter: info, agent: userAgent, cases }
}
