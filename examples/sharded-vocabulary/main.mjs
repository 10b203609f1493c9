// An output layer that is too large for one process: each rank holds some rows of its weight, with their gradient and
// momentum, and trains them. Fails when a rank uses more memory than its budget, or when nothing is learned.
//
//   npm run example:sharded -- [--ranks 2] [--quick]
//
// The model knows 256 contexts, each of which is followed by one token of a vocabulary of 128 256. What leads to the output
// layer, a vector for each context, is small: every rank has all of it, and keeps it the same without exchanging it, because
// the gradient with respect to the layer's input has the same bits on every rank.
import { createHash } from 'node:crypto'
import { linearCrossEntropy } from 'fused-preference-loss'
import { mpiCommunicator } from 'fused-preference-loss/mpi'
import { randomNumbers } from '../moby-dick/data.mjs'

const [VOCAB, WIDTH, CONTEXTS] = [128_256, 32, 256]
const STEPS = process.argv.includes('--quick') ? 20 : 100
const BATCH = 128
const [RATE, MOMENTUM] = [60, 0.9]
/** Bytes that a rank may use for its part of the layer: weight, gradient and momentum of float32. */
const BUDGET = 32e6

const communicator = await mpiCommunicator()
const { rank, size } = communicator
const log = (/** @type {string} */ text) => rank === 0 && console.log(text)
/** Rows of the weight, as equal in number as they can be. */
const start = Math.floor((rank * VOCAB) / size)
const rows = Math.floor(((rank + 1) * VOCAB) / size) - start
const bytes = 3 * 4 * WIDTH * rows
const megabytes = (/** @type {number} */ bytes) => `${(bytes / 1e6).toFixed(1)} MB`
log(
  `the layer takes ${megabytes(3 * 4 * WIDTH * VOCAB)}; a rank may use ${megabytes(BUDGET)}, and ${size} use ${megabytes(bytes)} each`,
)
if (bytes > BUDGET) {
  throw new Error(`that is too much for a rank: --ranks ${Math.ceil((3 * 4 * WIDTH * VOCAB) / BUDGET)}`)
}

// The same numbers on every rank, of which each keeps its part of the weight's.
const random = randomNumbers(7)
const vectors = Float32Array.from({ length: CONTEXTS * WIDTH }, () => 2 * random() - 1)
const next = Int32Array.from({ length: CONTEXTS }, () => Math.floor(VOCAB * random()))
const before = process.memoryUsage().arrayBuffers
const weight = new Float32Array(rows * WIDTH)
const gradient = new Float32Array(rows * WIDTH)
const momentum = new Float32Array(rows * WIDTH)
const used = process.memoryUsage().arrayBuffers - before
if (used > BUDGET) throw new Error(`the layer uses ${megabytes(used)}`)

let [loss, right] = [Number.NaN, 0]
for (let step = 1; step <= STEPS; step++) {
  const contexts = Int32Array.from({ length: BATCH }, () => Math.floor(CONTEXTS * random()))
  const hidden = new Float32Array(BATCH * WIDTH)
  for (const [i, context] of contexts.entries()) {
    hidden.set(vectors.subarray(context * WIDTH, (context + 1) * WIDTH), i * WIDTH)
  }
  const labels = contexts.map((context) => next[context])
  const result = await linearCrossEntropy(
    { data: hidden, shape: [1, BATCH, WIDTH] },
    { data: weight, shape: [rows, WIDTH] },
    labels,
    {
      shift: false,
      shard: { start, vocab: VOCAB },
      communicator,
      outputs: ['tokenArgmax'],
      gradient: { hidden: true, weight: gradient },
    },
  )
  loss = result.loss
  right = result.tokenArgmax.filter((token, i) => token === labels[i]).length / BATCH
  for (let i = 0; i < gradient.length; i++) {
    momentum[i] = MOMENTUM * momentum[i] + gradient[i]
    weight[i] -= RATE * momentum[i]
  }
  const slopes = /** @type {Float32Array} */ (result.gradHidden.data)
  for (const [i, context] of contexts.entries()) {
    for (let d = 0; d < WIDTH; d++) vectors[context * WIDTH + d] -= slopes[i * WIDTH + d]
  }
  if (step % 10 === 0)
    log(`step ${step}/${STEPS}  loss ${loss.toFixed(3)}  next token right ${(100 * right).toFixed(0)} %`)
}

// What no rank has sent is the same on all of them.
const own = createHash('sha256').update(new Uint8Array(vectors.buffer)).digest()
const all = new Uint8Array(size * own.length)
await communicator.allGather(new Uint8Array(own), all)
for (const [i, byte] of all.entries()) {
  if (byte !== own[i % own.length]) throw new Error('the ranks have come to different vectors')
}
log(`the ranks have the same vectors; the loss began at ln ${VOCAB} = ${Math.log(VOCAB).toFixed(3)}`)
if (!(loss < 3)) throw new Error('nothing was learned')
