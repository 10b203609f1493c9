// The bench: log-probs, and the loss with its gradient, on logits in a buffer, each beside a copy of that buffer.
import { prepareFusedPreferenceLoss } from 'fused-preference-loss/webgpu'
import { create, download, numbers, upload } from './buffers.mjs'

const VOCAB = 50257
/** Bytes of logits, about. */
const SIZE = { hardware: 64 * 2 ** 20, software: 8 * 2 ** 20 }
const ROUNDS = 7
/** Calls in one round, so that what a submission costs does not count. */
const CALLS = { hardware: 8, software: 1 }

/**
 * Yields the median time of each after each round, in seconds.
 * @param {GPUDevice} device
 * @param {boolean} software
 * @returns {AsyncGenerator<import('../events.js').Benched>}
 */
export async function* bench(device, software) {
  const kind = software ? 'software' : 'hardware'
  const { maxStorageBufferBindingSize } = device.limits
  const rows = Math.max(8, 8 * Math.floor(Math.min(SIZE[kind], maxStorageBufferBindingSize) / (4 * VOCAB * 8)))
  const shape = [4, rows / 4, VOCAB]
  const next = numbers()
  const values = Float32Array.from({ length: rows * VOCAB }, () => 4 * (next() + next() + next() - 1.5))
  const labels = Int32Array.from({ length: rows }, () => Math.floor(VOCAB * next()))
  const logits = upload(device, values)
  const other = create(device, values.byteLength)
  const prepared = await Promise.all(
    [undefined, other].map((gradient) =>
      prepareFusedPreferenceLoss({ data: logits, shape }, labels, { lossType: 'simpo', gpuDevice: device, gradient }),
    ),
  )
  const [forward, step] = prepared
  const work = {
    copy: (/** @type {GPUCommandEncoder} */ encoder) => encoder.copyBufferToBuffer(logits, 0, other, 0, logits.size),
    forward: (/** @type {GPUCommandEncoder} */ encoder) => forward.encode(encoder),
    step: (/** @type {GPUCommandEncoder} */ encoder) => step.encode(encoder),
  }
  const clock = clockOf(device)
  const names = /** @type {const} */ (['copy', 'forward', 'step'])
  /** @type {Record<keyof typeof work, Awaited<ReturnType<typeof clock>>[]>} */
  const times = { copy: [], forward: [], step: [] }
  try {
    for (let round = 0; round <= ROUNDS; round++) {
      for (const name of names) {
        const time = await clock(work[name], CALLS[kind])
        // The first round gets memory and warms up.
        if (round > 0) times[name].push(time)
      }
      if (round === 0) continue
      const each = names.map((name) => [name, { wall: median(times[name], 'wall'), gpu: median(times[name], 'gpu') }])
      yield { shape, bytes: logits.size, calls: CALLS[kind], round, rounds: ROUNDS, seconds: Object.fromEntries(each) }
    }
  } finally {
    for (const call of prepared) call.dispose()
    for (const buffer of [logits, other]) buffer.destroy()
  }
}

/**
 * A function that times calls recorded one after the other, in seconds of one call: on the page's clock, from their
 * submission to their end, and on that of the GPU, where the device shows it.
 */
function clockOf(/** @type {GPUDevice} */ device) {
  const hasOwn = device.features.has('timestamp-query')
  const querySet = hasOwn ? device.createQuerySet({ type: 'timestamp', count: 2 }) : undefined
  const usage = GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC
  const stamps = hasOwn ? device.createBuffer({ size: 16, usage }) : undefined
  return async (/** @type {(encoder: GPUCommandEncoder) => void} */ record, /** @type {number} */ calls) => {
    const encoder = device.createCommandEncoder()
    // Passes without work, for commands outside of passes have no timestamps.
    if (querySet) encoder.beginComputePass({ timestampWrites: { querySet, endOfPassWriteIndex: 0 } }).end()
    for (let i = 0; i < calls; i++) record(encoder)
    if (querySet) encoder.beginComputePass({ timestampWrites: { querySet, beginningOfPassWriteIndex: 1 } }).end()
    if (querySet && stamps) encoder.resolveQuerySet(querySet, 0, 2, stamps, 0)
    const started = performance.now()
    device.queue.submit([encoder.finish()])
    await device.queue.onSubmittedWorkDone()
    const wall = (performance.now() - started) / 1000 / calls
    if (!stamps) return { wall, gpu: undefined }
    const [begin, end] = new BigUint64Array(await download(device, stamps))
    return { wall, gpu: Number(end - begin) / 1e9 / calls }
  }
}

/**
 * The median; undefined unless each time has been taken and is more than 0.
 * @param {{ wall: number, gpu: number | undefined }[]} times
 * @param {'wall' | 'gpu'} clock
 */
function median(times, clock) {
  const values = times.map((time) => time[clock] ?? 0).sort((a, b) => a - b)
  return values[0] > 0 ? values[values.length >> 1] : undefined
}
