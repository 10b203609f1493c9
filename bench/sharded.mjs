/**
 * What sharing a vocabulary costs: a step of DPO, gradient in place, in one process with all cores of this machine, against
 * the same step on several processes, each of which has its part of the columns and of the cores. Memory is shared, so the
 * work is the same, and what is more is the cost. The two take turns; needs mpirun.
 *
 *   node bench/sharded.mjs [--ranks 2] [--pairs 15] [--shape 8,1024,32000]
 */
import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { fusedPreferenceLossSync, getBackends } from 'fused-preference-loss'
import { mpiCommunicator } from 'fused-preference-loss/mpi'
import { summarise } from './statistics.mjs'

const options = /** @type {const} */ ({
  ranks: { type: 'string', default: '2' },
  pairs: { type: 'string', default: '15' },
  shape: { type: 'string', default: '8,1024,32000' },
})
const { values } = parseArgs({ options })
const { OMPI_COMM_WORLD_SIZE, PMI_SIZE } = process.env

if (OMPI_COMM_WORLD_SIZE ?? PMI_SIZE) await measure()
else process.exitCode = start()

/** Starts this program on the ranks, none of which stays on one core, as the process alone has all of them. */
function start() {
  const isOpenMpi = /Open MPI|OpenRTE/.test(spawnSync('mpirun', ['--version'], { encoding: 'utf8' }).stdout)
  const free = isOpenMpi ? ['--oversubscribe', '--bind-to', 'none'] : []
  const own = [process.execPath, fileURLToPath(import.meta.url), ...process.argv.slice(2)]
  const asRoot = process.getuid?.() === 0 && { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' }
  const env = { ...process.env, ...asRoot }
  const { status, error } = spawnSync('mpirun', ['-n', values.ranks, ...free, ...own], { stdio: 'inherit', env })
  if (error) console.error(`mpirun cannot be started: ${error.message}`)
  return status ?? 1
}

async function measure() {
  const communicator = await mpiCommunicator()
  const { rank, size } = communicator
  const [batch, time, vocab] = values.shape.split(',').map(Number)
  const border = (/** @type {number} */ r) => Math.round((vocab * r) / size / 64) * 64
  const [from, to] = [border(rank), rank === size - 1 ? vocab : border(rank + 1)]
  const labels = Int32Array.from({ length: batch * time }, (_, i) => (i * 7919) % vocab)
  const reference = { chosen: Array(batch / 2).fill(-700), rejected: Array(batch / 2).fill(-700) }
  const tensor = (/** @type {number} */ columns) => ({
    data: Float32Array.from({ length: batch * time * columns }, (_, i) => (i % 31) / 8),
    shape: [batch, time, columns],
  })
  const whole = rank === 0 ? tensor(vocab) : undefined
  const own = tensor(to - from)
  const cores = availableParallelism()
  const call = { reference, gradient: /** @type {const} */ ('in-place') }
  const alone = () => whole && fusedPreferenceLossSync(whole, labels, { ...call, threads: cores })
  const shared = () =>
    fusedPreferenceLossSync(own, labels, {
      ...call,
      threads: Math.max(1, Math.floor(cores / size)),
      shard: { start: from, vocab },
      communicator,
    })

  /** The time of the slowest rank, and the time of all cores, in milliseconds. */
  const timed = (/** @type {() => unknown} */ step) => {
    communicator.barrierSync()
    const [start, before] = [performance.now(), process.cpuUsage()]
    step()
    const ms = performance.now() - start
    const { user, system } = process.cpuUsage(before)
    const all = new Float64Array(2 * size)
    communicator.allGatherSync(
      new Uint8Array(Float64Array.of(ms, (user + system) / 1000).buffer),
      new Uint8Array(all.buffer),
    )
    const cpu = all.reduce((sum, x, i) => (i % 2 ? sum + x : sum), 0)
    return { ms: Math.max(...all.filter((_, i) => i % 2 === 0)), cpu }
  }
  const pairs = Array.from({ length: Number(values.pairs) + 2 }, () => [timed(alone), timed(shared)]).slice(2)
  if (rank !== 0) return
  const { instructionSet } = getBackends().cpu
  console.log(
    `[${values.shape}], ${size} ranks on ${cores} cores, ${instructionSet}, ${communicator.version.slice(0, 30)}`,
  )
  for (const key of /** @type {const} */ (['ms', 'cpu'])) {
    const [one, several] = [0, 1].map((i) => summarise(pairs.map((pair) => pair[i][key])).median)
    const { median, p20, p80 } = summarise(pairs.map(([a, b]) => b[key] / a[key]))
    const percent = (/** @type {number} */ ratio) => `${(100 * (ratio - 1)).toFixed(1)} %`
    console.log(
      `${key === 'ms' ? 'time' : 'time of cores'}: one process ${one.toFixed(0)} ms, ${size} processes ${several.toFixed(0)} ms; in pairs ${percent(median)} more (${percent(p20)} to ${percent(p80)})`,
    )
  }
}
