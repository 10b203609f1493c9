/**
 * Calls of several processes, which mpirun starts: collectives in both forms, and an output layer that they share, whose
 * gradient of the hidden states is added up in chunks. `npm run test:sanitize` watches each process to its end.
 */
import { mpiCommunicator } from '../dist/distributed/mpi/index.mjs'
import { linearCrossEntropy, linearCrossEntropySync } from '../dist/index.mjs'

const communicator = await mpiCommunicator()
const { rank, size } = communicator
const [tokens, width, vocab] = [2500, 8, 400]
const [start, end] = [rank, rank + 1].map((r) => Math.floor((vocab * r) / size))
const array = (/** @type {number} */ length) => Float32Array.from({ length }, (_, i) => ((i * 37) % 11) / 8)
const hidden = { data: array(tokens * width), shape: [1, tokens, width] }
const weight = { data: array((end - start) * width), shape: [end - start, width] }
const labels = Int32Array.from({ length: tokens }, (_, i) => (i * 31) % vocab)
const gradient = /** @type {const} */ ({ hidden: true, weight: true })

for (let round = 0; round < 6; round++) {
  // More than the 4 MB of a round of MPI's, and calls that wait for those before them.
  const large = new Float32Array(1_300_000).fill(rank + 1)
  const own = new Uint8Array(100).fill(rank)
  const all = new Uint8Array(100 * size)
  await Promise.all([communicator.allReduceSum(large), communicator.allGather(own, all), communicator.barrier()])
  if (large.some((x) => x !== (size * (size + 1)) / 2) || all.at(-1) !== size - 1) throw new Error('not as expected')
  communicator.allReduceSumSync(large)
  communicator.barrierSync()

  const options = { shard: { start, vocab }, communicator, gradient, threads: 1 + (round % 3) }
  const { gradHidden } = await linearCrossEntropy(hidden, weight, labels, options)
  const again = linearCrossEntropySync(hidden, weight, labels, options).gradHidden
  if (again.data.some((x, i) => x !== gradHidden.data[i])) throw new Error('not as expected')
  const bad = rank === 1 ? labels.with(7, vocab) : labels
  const code = await linearCrossEntropy(hidden, weight, bad, options).then(
    () => undefined,
    (error) => error.code,
  )
  if (code !== (rank === 1 ? 'ERR_LABEL_OUT_OF_RANGE' : 'ERR_RANK_FAILED')) throw new Error(`not as expected: ${code}`)
}
if (rank === 0) console.log(`${size} ranks, ${communicator.version.slice(0, 30)}`)
