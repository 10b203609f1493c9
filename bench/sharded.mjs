/**
 * What sharing a vocabulary costs: a step of DPO, gradient in place, on processes that share the memory and the cores of this
 * machine. Three contenders take turns:
 *
 *   one      one process with the cores of all others together
 *   apart    several processes with their part of the cores and of the sequences, each on its own
 *   shared   the same processes, each with its part of every row's columns
 *
 * All read and write as many logits with as many threads. What `apart` takes beyond `one` is the cost of several processes;
 * what `shared` takes beyond `apart` is that of sharing. Needs mpirun.
 *
 *   node bench/sharded.mjs [--ranks 2] [--rounds 15] [--shape 8,1024,32000]
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
  rounds: { type: 'string', default: '15' },
  shape: { type: 'string', default: '8,1024,32000' },
})
const { values } = parseArgs({ options })

/** Two have the same memory, and both begin with what the first leaves in the cache. */
const ORDER = ['one', 'apart', 'one', 'shared']

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
  const [sequences, columns] = [batch / size, vocab / size]
  if (sequences % 2 !== 0 || columns % 64 !== 0) {
    throw new Error(
      `--shape ${values.shape}: each rank must have whole pairs of sequences and whole tiles of 64 columns`,
    )
  }
  const threads = Math.max(1, Math.floor(availableParallelism() / size))
  const labels = Int32Array.from({ length: batch * time }, (_, i) => (i * 7919) % vocab)
  const ownLabels = labels.subarray(rank * sequences * time, (rank + 1) * sequences * time)
  const tensor = (/** @type {number[]} */ ...shape) => {
    const data = new Float32Array(shape.reduce((product, n) => product * n, 1))
    for (let i = 0; i < data.length; i++) data[i] = (i % 31) / 8
    return { data, shape }
  }
  const stepOf = (/** @type {number} */ count) => {
    const logProbs = Array(count / 2).fill(-700)
    return { reference: { chosen: logProbs, rejected: logProbs }, gradient: /** @type {const} */ ('in-place') }
  }
  const sharing = { shard: { start: rank * columns, vocab }, communicator }
  const whole = rank === 0 ? tensor(batch, time, vocab) : undefined
  const part = tensor(batch, time, columns)
  const rows = { data: part.data, shape: [sequences, time, vocab] }
  /** @type {Record<string, (() => unknown) | undefined>} */
  const contenders = {
    one: whole && (() => fusedPreferenceLossSync(whole, labels, { ...stepOf(batch), threads: threads * size })),
    apart: () => fusedPreferenceLossSync(rows, ownLabels, { ...stepOf(sequences), threads }),
    shared: () => fusedPreferenceLossSync(part, labels, { ...stepOf(batch), threads, ...sharing }),
  }
  const names = Object.keys(contenders)

  /** Of each contender the last time. */
  const last = new Map(names.map((name) => [name, 0]))
  /** The time of the slowest rank, and the time of all cores, in milliseconds. */
  const timed = (/** @type {string} */ name) => {
    const step = contenders[name]
    communicator.barrierSync()
    const [start, before] = [performance.now(), process.cpuUsage()]
    step?.()
    const { user, system } = process.cpuUsage(before)
    const own = Float64Array.of(performance.now() - start, (user + system) / 1000)
    // A rank that is not in it sleeps: one that waited for the others would now and then take a core from them.
    if (!step) sleep(1.2 * /** @type {number} */ (last.get(name)))
    const all = new Float64Array(2 * size)
    communicator.allGatherSync(new Uint8Array(own.buffer), new Uint8Array(all.buffer))
    const ms = Math.max(...all.filter((_, i) => i % 2 === 0))
    last.set(name, ms)
    return { ms, cpu: all.reduce((sum, x, i) => (i % 2 ? sum + x : sum), 0) }
  }
  const rounds = Array.from({ length: Number(values.rounds) + 2 }, () => ORDER.map(timed)).slice(2)
  if (rank !== 0) return
  const { instructionSet } = getBackends().cpu
  const library = communicator.version.slice(0, 30)
  console.log(
    `[${values.shape}], ${size} ranks of ${threads} threads on ${availableParallelism()} cores, ${instructionSet}, ${library}`,
  )
  console.log(`median of ${rounds.length} (the least), and in rounds, percent (the middle three fifths):`)
  for (const key of /** @type {const} */ (['ms', 'cpu'])) {
    const figures = names.map((name) => {
      const samples = rounds.map((round) => round[ORDER.indexOf(name)][key])
      return `${name} ${summarise(samples).median.toFixed(1)} (${Math.min(...samples).toFixed(1)}) ms`
    })
    const beyond = [
      ['apart', 'one'],
      ['shared', 'apart'],
      ['shared', 'one'],
    ].map(([more, less]) => {
      const [a, b] = [ORDER.indexOf(more), ORDER.indexOf(less)]
      const { median, p20, p80 } = summarise(rounds.map((round) => 100 * (round[a][key] / round[b][key] - 1)))
      return `${more} beyond ${less} ${median.toFixed(1)} (${p20.toFixed(1)} to ${p80.toFixed(1)})`
    })
    console.log(`${key === 'ms' ? 'time' : 'time of cores'}: ${[...figures, ...beyond].join(', ')}`)
  }
}

function sleep(/** @type {number} */ ms) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}
