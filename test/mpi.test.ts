/**
 * The communicator over MPI: collectives of 2 and 4 processes under every MPI of this machine.
 */
import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { findLibrary, launcherOf } from '../lib/distributed/mpi/libraries.js'
import { MPIS, runAlone, runRanks } from './mpi.js'

const hash = (array: NodeJS.TypedArray) => createHash('sha256').update(array).digest('hex')

/** Numbers of a rank, whose sum depends on the order in which it is taken. */
const numbersOf = (rank: number, i: number) => Math.imul(i + 17 * rank, 0x9e3779b1) / (3 << (3 * ((i + 5 * rank) % 9)))

/** Elements of the sums: one, fewer than ranks, and several rounds with a rest. */
const SUMS = [
  ['Float32Array', 1],
  ['Float32Array', 3],
  ['Float64Array', 1001],
  ['Float32Array', 1_100_001],
  ['Float64Array', 600_007],
] as const

const totalsOf = (size: number) =>
  SUMS.map(([type, length]) => {
    const stored = type === 'Float32Array' ? Math.fround : (x: number) => x
    const sum = Float64Array.from({ length }, (_, i) => {
      let total = stored(numbersOf(0, i))
      for (let rank = 1; rank < size; rank++) total += stored(numbersOf(rank, i))
      return total
    })
    return hash(type === 'Float32Array' ? new Float32Array(sum) : sum)
  })
/** Hashes of the sums, by the number of ranks. */
const TOTALS = { 2: totalsOf(2), 4: totalsOf(4) }

const COLLECTIVES = `
  const { createHash } = await import('node:crypto')
  const { Worker } = await import('node:worker_threads')
  const { rank, size } = communicator
  const hash = (array) => createHash('sha256').update(array).digest('hex')
  const numbersOf = ${numbersOf}
  tell({ size, library: communicator.library, version: communicator.version })

  // Bytes, some and many, in both forms.
  const bytes = (length) => Uint8Array.from({ length }, (_, i) => 10 * rank + i % 7)
  const gathered = []
  for (const length of [0, 3, 1000, 3_000_001]) {
    const [a, b] = [new Uint8Array(size * length), new Uint8Array(size * length)]
    await communicator.allGather(bytes(length), a)
    communicator.allGatherSync(bytes(length), b)
    gathered.push([hash(a), hash(b)])
  }
  tell(gathered)

  // Sums, whose bits are those of the order of ranks.
  const sums = []
  for (const [type, length] of ${JSON.stringify(SUMS)}) {
    const data = globalThis[type].from({ length }, (_, i) => numbersOf(rank, i))
    const copy = data.slice()
    await communicator.allReduceSum(data)
    communicator.allReduceSumSync(copy)
    sums.push([hash(data), hash(copy)])
  }
  tell(sums)

  // Views, in the order of the calls, while none is waited for; their arrays are garbage but for the call.
  const all = Array.from({ length: 200 }, () => new Uint8Array(size))
  const promises = all.map((receive, i) => communicator.allGather(new Uint8Array([0, i + rank, 0]).subarray(1, 2), receive))
  const total = Float64Array.of(1, 2, rank)
  const summed = communicator.allReduceSum(total.subarray(1))
  gc()
  communicator.barrierSync()
  tell([await Promise.all(promises).then(() => all.map((array) => array.join())), await summed, total.join()])

  // The event loop turns while a promise waits.
  let ticks = 0
  const ticking = setInterval(() => ticks++, 5)
  if (rank === 0) await new Promise((resolve) => setTimeout(resolve, 300))
  else await communicator.barrier()
  clearInterval(ticking)
  if (rank === 0) await communicator.barrier()
  tell(ticks)

  // An array that is taken away, on one rank.
  const taken = new Uint8Array(1000).fill(rank + 1)
  const receive = new Uint8Array(1000 * size)
  const taking = told(communicator.allGather(taken, receive))
  if (rank === 1) structuredClone(taken, { transfer: [taken.buffer] })
  tell(await taking)

  // Wrong arguments; nothing of them is sent.
  const shared = new Uint8Array(size + 1)
  tell([
    await told(communicator.allGather([1], new Uint8Array(size))),
    await told(communicator.allGather(new Uint8Array(2), new Uint8Array(size))),
    await told(communicator.allGather(shared.subarray(1, 2), shared.subarray(0, size))),
    await told(communicator.allReduceSum(new Int32Array(2))),
    await told(communicator.allReduceSum(taken)),
    await told((async () => communicator.abort(0))()),
    await told(mpiCommunicator({ librari: '' })),
    await told(mpiCommunicator({ library: 1 })),
  ])

  // Different calls; afterwards all are in step.
  tell(await told(rank === 1 ? communicator.barrier() : communicator.allGather(new Uint8Array(5), new Uint8Array(5 * size))))
  tell(await told(communicator.allReduceSum(new Float32Array(rank === 1 ? 3 : 2))))
  tell(await told(communicator.barrier()))

  // Workers cannot have it.
  const worker = new Worker(
    \`const { parentPort } = require('node:worker_threads')
    import(\${JSON.stringify(mpiUrl)}).then((m) => m.mpiCommunicator()).catch(({ code }) => parentPort.postMessage(code))\`,
    { eval: true },
  )
  tell(await new Promise((resolve) => worker.once('message', resolve)))
  await worker.terminate()

  // WebAssembly still finds out when it reads beyond its memory.
  const module = [0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 127, 1, 127, 3, 2, 1, 0, 5, 3, 1, 0, 1, 7, 5, 1, 1, 102, 0, 0]
  const code = [10, 9, 1, 7, 0, 32, 0, 40, 2, 0, 11]
  const { instance } = await WebAssembly.instantiate(new Uint8Array([...module, ...code]))
  tell(await told((async () => instance.exports.f(1e8))()))

  // Closed.
  await communicator.close()
  await communicator.close()
  tell([await told(communicator.barrier()), await told((async () => communicator.barrierSync())())])
`

/** Starts MPI with messages of 1000 bytes at the most, so that all-gathers are made of pieces. */
const OPEN_SMALL = `await (async () => {
  process.env.UCX_MEM_EVENTS = 'no'
  const { mpi } = loadNative().addon
  mpi.open(findLibrary(mpi).path, 1000)
  return mpiCommunicator()
})()`

describe.each(MPIS)('$name', (mpi) => {
  test.each([2, 4] as const)('collectives of %i processes', { timeout: 120_000 }, async (size) => {
    const { status, values, stderr } = await runRanks(mpi, {
      size,
      javaScript: COLLECTIVES,
      open: size === 2 ? OPEN_SMALL : undefined,
    })
    expect(stderr).not.toContain('Error')
    expect({ status, ranks: values.length }).toEqual({ status: 0, ranks: size })
    const ranks = Array.from({ length: size }, (_, rank) => rank)
    const bytes = [0, 3, 1000, 3_000_001].map((each) =>
      hash(Uint8Array.from({ length: size * each }, (_, i) => 10 * Math.floor(i / each) + ((i % each) % 7))),
    )
    for (const [rank, told] of values.entries()) {
      const [library, gathered, sums, ordered, ticks, taken, wrong, call, length, after, worker, trap, closed] = told
      expect(library).toMatchObject({ size, version: expect.stringMatching(mpi.isOpenMpi ? /^Open MPI/ : /^MPICH/) })
      expect(gathered).toEqual(bytes.map((each) => [each, each]))
      expect(sums).toEqual(TOTALS[size].map((each) => [each, each]))
      expect(ordered).toEqual([
        Array.from({ length: 200 }, (_, i) => ranks.map((r) => (i + r) % 256).join()),
        null,
        [1, 2 * size, (size * (size - 1)) / 2].join(),
      ])
      if (rank !== 0) expect(ticks).toBeGreaterThan(5)
      if (rank === 1) expect(taken).toMatch(/^ERR_INVALID_ARG_VALUE: send was detached/)
      else expect(taken).toBe('fine')
      expect(wrong).toEqual([
        'ERR_INVALID_ARG_TYPE: send must be a Uint8Array; got an array of length 1',
        `ERR_SHAPE_MISMATCH: receive must have ${2 * size} bytes: ${size} ranks times those of send; got ${size}`,
        'ERR_INVALID_ARG_VALUE: receive would overwrite send: they share memory',
        'ERR_INVALID_ARG_TYPE: data must be a Float32Array or a Float64Array; got Int32Array(2)',
        expect.stringMatching(/^ERR_INVALID_ARG_TYPE: data must be/),
        'ERR_OUT_OF_RANGE: code must be an integer in [1, 255]; got 0',
        expect.stringMatching(/^ERR_INVALID_ARG_VALUE: options.librari is not an option/),
        'ERR_INVALID_ARG_TYPE: options.library must be a string; got 1',
      ])
      const other = rank === 1 ? 'rank 0 calls allGather, 5 bytes' : 'rank 1 calls barrier'
      expect(call).toBe(
        `ERR_RANK_FAILED: all ranks must call the same: ${other}, and rank ${rank} calls ${
          rank === 1 ? 'barrier' : 'allGather, 5 bytes'
        }`,
      )
      expect(length).toMatch(
        /^ERR_RANK_FAILED: all ranks must call the same: rank [01] calls allReduceSum of float32, /,
      )
      expect(after).toBe('fine')
      expect(worker).toBe('ERR_MPI')
      expect(trap).toMatch(/memory access out of bounds/)
      expect(closed).toEqual(Array(2).fill('ERR_DISPOSED: the communicator is closed'))
    }
  })

  test('one process without mpirun', { timeout: 60_000 }, async () => {
    const program =
      'tell([communicator.rank, communicator.size, communicator.library]); communicator.allReduceSumSync(new Float32Array(3))'
    const { values, status } = await runAlone(program, { PATH: mpi.mpirun.replace(/\/mpirun.*/, '') })
    expect({ values, status }).toEqual({ values: [[[0, 1, expect.stringContaining('mpi')]]], status: 0 })
  })

  test.runIf(mpi.python)('a rank in Python takes part', { timeout: 60_000 }, async () => {
    const javaScript = `
      const all = new Uint8Array(3 * communicator.size)
      await communicator.allGather(Uint8Array.of(1, 2, 3), all)
      const data = Float32Array.of(0.1, 0.2, 0.3, 0.4, 0.5)
      await communicator.allReduceSum(data)
      tell([all.join(), [...data]])
    `
    const { status, values, stderr } = await runRanks(mpi, { size: 1, javaScript, python: PYTHON })
    expect(stderr).not.toContain('Traceback')
    const sum = Float32Array.of(0.1, 0.2, 0.3, 0.4, 0.5).map((x, i) => x + Math.fround(i / 3))
    expect({ status, values }).toEqual({ status: 0, values: [[['1,2,3,7,8,9', [...sum]]]] })
  })
})

/** A rank that calls allGather and allReduceSum with mpi4py, as native/mpi/world.h describes it. */
const PYTHON = `
import struct
from array import array
from mpi4py import MPI

world = MPI.COMM_WORLD

def gather(send):
    receive = bytearray(len(send) * world.size)
    world.Iallgather([send, MPI.BYTE], [receive, MPI.BYTE]).Wait()
    return receive

def header(kind, length):
    mine = struct.pack("=iiq", kind, 0, length)
    return gather(mine) == mine * world.size

def all_gather(send):
    assert header(2, len(send))
    return gather(send)

def all_reduce_sum(data):
    assert header(3, 4 * len(data))
    chunk = -(-len(data) // world.size)
    send = array("f", list(data) + [0] * (chunk * world.size - len(data)))
    arrived = array("f", send)
    world.Ialltoall([send, 4 * chunk, MPI.BYTE], [arrived, 4 * chunk, MPI.BYTE]).Wait()
    sums = array("f", [sum(arrived[r * chunk + i] for r in range(world.size)) for i in range(chunk)])
    return array("f", bytes(gather(sums.tobytes())))[: len(data)]

assert all_gather(bytes([7, 8, 9])) == bytes([1, 2, 3, 7, 8, 9])
mine = array("f", [i / 3 for i in range(5)])
theirs = array("f", [0.1, 0.2, 0.3, 0.4, 0.5])
assert all_reduce_sum(mine) == array("f", [a + b for a, b in zip(theirs, mine)])
while not header(5, 0):
    pass
`

test("a process that has lost MPICH's mpirun is told so, rather than ended", async () => {
  const javaScript = "console.log('told ' + JSON.stringify({ rank: 0, value: await told(mpiCommunicator()) }))"
  const environment = { PMI_FD: '987', PMI_RANK: '0', PMI_SIZE: '2' }
  const { status, values } = await runAlone(javaScript, environment, 'undefined')
  const message = expect.stringMatching(
    /^ERR_MPI: this process was started by MPICH, but .*npm.* let mpirun start node itself, or use -pmi-port$/,
  )
  expect({ status, values }).toEqual({ status: 0, values: [[message]] })
})

const debians = MPIS.find(({ mpirun }) => mpirun === '/usr/bin/mpirun.mpich')

test.runIf(debians)("MPICH's mpirun that talks over a port is known, too", { timeout: 60_000 }, async () => {
  const javaScript = "tell([communicator.size, communicator.version.startsWith('MPICH')])"
  const { status, values } = await runRanks(debians!, { size: 2, javaScript, options: ['-pmi-port'] })
  expect({ status, values }).toEqual({ status: 0, values: [[[2, true]], [[2, true]]] })
})

test('the library is the one of the mpirun that has started the process', () => {
  expect(launcherOf({})).toBeUndefined()
  expect(launcherOf({ PMI_SIZE: '3' })).toMatchObject({ name: 'MPICH', size: 3 })
  const port = { PMI_PORT: 'host:33165', PMI_ID: '1', MPI_LOCALNRANKS: '2' }
  expect(launcherOf(port)).toMatchObject({ name: 'MPICH', isOpenMpi: false, size: 2 })
  expect(launcherOf({ PMI_PORT: 'host:33165' })).toMatchObject({ name: 'MPICH', size: 1 })
  expect(launcherOf({ OMPI_COMM_WORLD_SIZE: '2' })).toMatchObject({ name: 'Open MPI', size: 2 })
  const versions: Record<string, string> = {
    'libmpi.so.40': 'Open MPI v4.1.4',
    'libmpich.so.12': 'MPICH Version: 4.0.2',
  }
  const describe = (path: string) =>
    path in versions ? ({ version: versions[path], handles: 'mpich' } as const) : `${path}: no such file`
  const found = (environment: Record<string, string>, chosen?: string) => {
    const before = { ...process.env }
    Object.assign(process.env, { PATH: '/nowhere' }, environment)
    try {
      return findLibrary({ describe }, chosen).path
    } catch (error) {
      return error as Error & { code: string }
    } finally {
      process.env = before
    }
  }
  expect(found({})).toBe('libmpi.so.40')
  expect(found({ PMI_SIZE: '2' })).toBe('libmpich.so.12')
  expect(found(port)).toBe('libmpich.so.12')
  expect(found({ OMPI_COMM_WORLD_SIZE: '2' })).toBe('libmpi.so.40')
  expect(found({ OMPI_COMM_WORLD_SIZE: '2' }, 'libmpich.so.12')).toBe('libmpich.so.12')
  delete versions['libmpich.so.12']
  const missing = { code: 'ERR_BACKEND_UNAVAILABLE', message: expect.stringContaining('apt install mpich') }
  expect(found({ PMI_SIZE: '2' })).toMatchObject(missing)
  expect(found({ PMI_SIZE: '2' })).toMatchObject({
    message: expect.stringContaining("Open MPI v4.1.4…, but MPICH's mpirun has started this process"),
  })
  expect(found({}, '/nowhere/libmpi.so')).toMatchObject({
    ...missing,
    message: expect.stringContaining('\n  /nowhere/libmpi.so: no such file'),
  })
})
