/**
 * Calls every function, synchronously and not, with calls that finish, are refused and are cancelled. `npm run
 * test:sanitize` watches this process to its end.
 */
import * as fpl from '../dist/index.mjs'

const { available, reason } = fpl.getBackends().cpu
if (!available) throw new Error(reason)

const [batch, time, vocab] = [4, 30, 700]
const shape = [batch, time, vocab]
const labels = Int32Array.from({ length: batch * time }, (_, i) => (i * 31) % vocab)
const reference = { chosen: [-90, -91], rejected: [-92, -95] }
const logits = () => ({ data: Float32Array.from({ length: batch * time * vocab }, (_, i) => (i * 37) % 11), shape })
const outputs = /** @type {const} */ ([
  'tokenLogProbs',
  'tokenEntropies',
  'tokenArgmax',
  'logSumExp',
  'sumSquaredProbs',
])

const hidden = () => ({ data: logits().data.subarray(0, batch * time * 9), shape: [batch, time, 9] })
const weight = { data: logits().data.slice(0, vocab * 9), shape: [vocab, 9] }
const head = { reference, outputs, gradient: true, bias: new Float32Array(vocab) }
/** @type {import('../dist/distributed/index.mjs').Communicator} */
const alone = {
  ...{ rank: 0, size: 1 },
  allGather: async (send, receive) => receive.set(send),
  allReduceSum: async () => {},
  barrier: async () => {},
  abort() {},
}

const shared = { ...head, shard: { start: 0, vocab }, communicator: alone }

let calls = 0
for (let round = 0; round < 20; round++) {
  /** @type {import('../dist/index.mjs').FusedOptions} */
  const options = {
    reference,
    outputs,
    gradient: round % 2 ? true : 'in-place',
    weighting: 'wpo',
    threads: 1 + (round % 4),
  }
  fpl.fusedPreferenceLossSync(logits(), labels, options)
  fpl.sequenceLogProbsSync(logits(), labels, { outputs }).backwardSync([1, 2, 3, 4])
  fpl.preferenceLossSync({ chosen: [-1], rejected: [-2] }, { lossType: 'cpo' })
  fpl.linearSequenceLogProbsSync(hidden(), weight, labels, { threads: 1 + (round % 4) }).backwardSync([1, 2, 3, 4])
  const controller = new AbortController()
  const running = [
    fpl.fusedPreferenceLoss(logits(), labels, options),
    fpl.sequenceLogProbs(logits(), labels, { signal: controller.signal }),
    fpl.fusedPreferenceLoss(logits(), labels, { ...options, signal: controller.signal }),
    fpl.preferenceLoss({ chosen: [-1], rejected: [-2] }, { lossType: 'cpo' }),
    fpl.sequenceLogProbs(logits(), labels, { temperature: -1 }),
    fpl.fusedLinearPreferenceLoss(hidden(), weight, labels, { ...head, signal: controller.signal }),
    fpl.fusedLinearPreferenceLoss(hidden(), weight, labels, shared),
  ]
  if (round % 3 === 0) controller.abort()
  const settled = await Promise.allSettled(running)
  if (settled[0].status !== 'fulfilled' || settled[4].status !== 'rejected') throw new Error('not as expected')
  calls += 11
}

if (fpl.getBackends().cuda.available) {
  const { DeviceBuffer, Event, prepareFusedPreferenceLoss, Stream } = await import('../dist/cuda/index.mjs')
  const { ncclCommunicator } = await import('../dist/distributed/nccl/index.mjs')
  const nothing = async () => {}
  const allGather = async (/** @type {Uint8Array} */ send, /** @type {Uint8Array} */ receive) => receive.set(send)
  const alone = { rank: 0, size: 1, allGather, allReduceSum: nothing, barrier: nothing, abort() {} }
  for (let round = 0; round < 5; round++) {
    const buffers = [logits().data, labels, logits().data].map((array) => DeviceBuffer.from(array))
    const [data, there, gradient] = buffers
    const [stream, event] = [new Stream(), new Event()]
    const step = prepareFusedPreferenceLoss({ data, shape }, there, { reference, outputs, gradient, stream })
    const graph = stream.capture(() => {
      step.enqueue()
      event.record(stream)
    })
    graph.launch(stream)
    step.read()
    let failures = 0
    for (const enqueue of [() => new DeviceBuffer(8), () => gradient.copyFrom(new Float32Array(1e6))]) {
      try {
        stream.capture(() => {
          step.enqueue()
          enqueue()
        })
      } catch {
        failures++
      }
    }
    if (failures !== 2) throw new Error('captured a call that cannot be captured')
    await fpl.fusedPreferenceLoss(logits(), labels, { reference, backend: 'cuda', gradient: 'in-place' })
    await gradient.copyFromAsync(data, { stream })
    const nccl = await ncclCommunicator(alone)
    nccl.allReduceSum(gradient, { stream })
    await nccl.synchronize(stream)
    const shared = { shard: { start: 0, vocab: shape[2] }, communicator: nccl, stream }
    await fpl.fusedPreferenceLoss({ data, shape }, labels, { reference, outputs, gradient: 'in-place', ...shared })
    if (round % 2) nccl.abort()
    nccl.dispose()
    await stream.synchronize()
    for (const thing of [...buffers, stream, event, step, graph]) thing.dispose()
    calls += 6
  }
}
console.log(`${calls} calls`)
