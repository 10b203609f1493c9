/**
 * Ranks that fail or end while others wait: no job hangs, under any MPI of this machine.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { changedLibrary, MPIS, runAlone, runRanks } from './mpi.js'
import { DIST } from './support.js'

const folder = mkdtempSync(join(tmpdir(), 'fpl-mpi-failures-'))
afterAll(() => rmSync(folder, { recursive: true }))

const WAIT = `
  const wait = () => communicator.allGather(new Uint8Array(4), new Uint8Array(4 * communicator.size))
`

/** Rank 1 does this; rank 0 waits in a promise form, rank 2 in a Sync form, and neither comes any further. */
const ENDS = [
  { ends: 'throws', rank1: "throw new Error('rank one throws')", status: 1, says: 'Error: rank one throws' },
  { ends: 'exits with a code', rank1: 'process.exit(3)', status: 3, says: '' },
  { ends: 'aborts', rank1: 'communicator.abort(7)', status: 7, says: '' },
  {
    ends: 'aborts while it waits itself',
    rank1: 'wait(); setTimeout(() => communicator.abort(), 50)',
    status: 1,
    says: '',
  },
  { ends: 'is killed', rank1: "process.kill(process.pid, 'SIGKILL')", status: expect.any(Number), says: '' },
]

describe.each(MPIS)('$name', (mpi) => {
  test.each(ENDS)('all ranks end when one $ends', { timeout: 60_000 }, async ({ rank1, status, says }) => {
    const javaScript = `
      ${WAIT}
      if (communicator.rank === 1) { ${rank1} }
      else {
        if (communicator.rank === 0) await wait()
        else communicator.allGatherSync(new Uint8Array(4), new Uint8Array(4 * communicator.size))
        communicator.barrierSync()
        tell('came further')
      }
    `
    const start = performance.now()
    const ended = await runRanks(mpi, { size: 3, javaScript })
    expect(performance.now() - start).toBeLessThan(20_000)
    expect(ended.values).toEqual([])
    expect(ended.status).toEqual(status)
    expect(ended.status).not.toBe(0)
    expect(ended.stderr).toContain(says)
  })

  test('all ranks end when one is killed while a gradient is added up', { timeout: 60_000 }, async () => {
    const javaScript = `
      const { writeSync } = await import('node:fs')
      const { linearCrossEntropy } = await import(${JSON.stringify(DIST.href)})
      const { rank, size } = communicator
      const [tokens, width, vocab] = [3300, 8, 400]
      let sums = 0
      const own = {
        ...{ rank, size },
        allGather: (send, receive) => communicator.allGather(send, receive),
        allReduceSum(data) {
          if (rank === 1 && ++sums === 2) {
            writeSync(2, 'the second sum')
            process.kill(process.pid, 'SIGKILL')
          }
          return communicator.allReduceSum(data)
        },
        ...{ barrier: () => communicator.barrier(), abort: () => communicator.abort() },
      }
      const hidden = { data: new Float32Array(tokens * width).fill(0.5), shape: [1, tokens, width] }
      const weight = { data: new Float32Array((vocab / size) * width).fill(0.5), shape: [vocab / size, width] }
      const shard = { start: (vocab / size) * rank, vocab }
      await linearCrossEntropy(hidden, weight, new Int32Array(tokens), { communicator: own, shard, gradient: true })
      tell('came further')
    `
    const start = performance.now()
    const { status, values, stderr } = await runRanks(mpi, { size: 2, javaScript })
    expect(performance.now() - start).toBeLessThan(20_000)
    expect(stderr).toContain('the second sum')
    expect(values).toEqual([])
    expect(status).not.toBe(0)
  })

  test('a rank that aborts ends where MPI_Abort returns', { timeout: 60_000 }, async () => {
    const library = await changedLibrary(mpi, folder, 'int MPI_Abort(void) { return 0; }')
    const javaScript = `
      ${WAIT}
      if (communicator.rank === 1) communicator.abort(7)
      await wait()
      tell('came further')
    `
    const environment = { FUSED_PREFERENCE_LOSS_MPI: library }
    const start = performance.now()
    const { status, values } = await runRanks(mpi, { size: 2, javaScript, environment })
    expect(performance.now() - start).toBeLessThan(20_000)
    expect(values).toEqual([])
    expect(status).not.toBe(0) // MPICH's mpirun gives the code of the rank that has lost the other
  })

  test('MPI that could not be started can be tried again', { timeout: 60_000 }, async () => {
    const once = 'static int calls; int MPI_Initialized(int* flag) { *flag = calls++ == 0; return 0; }'
    const library = await changedLibrary(mpi, folder, once)
    const javaScript = `
      const open = () => mpiCommunicator({ library: ${JSON.stringify(library)} })
      const first = await told(open())
      console.log('told ' + JSON.stringify({ rank: 0, value: [first, (await open()).size] }))
    `
    const { status, values } = await runAlone(javaScript, {}, 'undefined')
    const first = expect.stringMatching(/^ERR_MPI: MPI can be started only once in a process, and has been/)
    expect({ status, values }).toEqual({ status: 0, values: [[[first, 1]]] })
  })

  test('a library without threads is refused, and again', { timeout: 60_000 }, async () => {
    const alone = `int PMPI_Init_thread(int*, char***, int, int*);
      int MPI_Init_thread(int* c, char*** v, int wanted, int* granted) {
        const int error = PMPI_Init_thread(c, v, wanted, granted);
        *granted = 0;
        return error;
      }`
    const library = await changedLibrary(mpi, folder, alone)
    const javaScript = `
      const open = () => mpiCommunicator({ library: ${JSON.stringify(library)} })
      console.log('told ' + JSON.stringify({ rank: 0, value: [await told(open()), await told(open())] }))
    `
    const { status, values } = await runAlone(javaScript, {}, 'undefined')
    const [first, second] = values[0][0] as string[]
    expect(first).toBe('ERR_MPI: the MPI library allows no threads besides the one that calls it')
    expect(second).toMatch(/^ERR_MPI: MPI can be started only once/)
    expect(status).toBe(0)
  })

  test('a worker that ends does not wait for what the main thread waits for', { timeout: 60_000 }, async () => {
    const javaScript = `
      const { existsSync, writeFileSync } = await import('node:fs')
      const { once } = await import('node:events')
      const { Worker } = await import('node:worker_threads')
      const ended = new URL('worker-has-ended', import.meta.url)
      if (communicator.rank === 1) {
        while (!existsSync(ended)) await new Promise((resolve) => setTimeout(resolve, 20))
        await communicator.barrier()
      } else {
        const barrier = communicator.barrier()
        const code = 'import(' + JSON.stringify(mpiUrl) + ').then(() => import(' + JSON.stringify(addonUrl) + ')).then((m) => m.loadNative())'
        await once(new Worker(code, { eval: true }), 'exit')
        writeFileSync(ended, '')
        await barrier
        tell('came further')
      }
    `
    const { status, values } = await runRanks(mpi, { size: 2, javaScript })
    expect({ status, values }).toEqual({ status: 0, values: [['came further']] })
  })

  test('a rank that ends early is named to those that wait for it', { timeout: 60_000 }, async () => {
    const javaScript = `
      ${WAIT}
      if (communicator.rank !== 1) {
        tell(await told(wait()))
        tell(await told((async () => communicator.barrierSync())()))
      }
    `
    const { status, values } = await runRanks(mpi, { size: 3, javaScript })
    const wanted = (rank: number) => [
      `ERR_RANK_FAILED: rank 1 has ended, or has closed its communicator, and rank ${rank} calls allGather, 4 bytes`,
      `ERR_RANK_FAILED: rank 1 has ended, or has closed its communicator, and rank ${rank} calls barrier`,
    ]
    expect({ status, values }).toEqual({ status: 0, values: [wanted(0), undefined, wanted(2)] })
  })

  test('a rank that exits takes part in what it has begun', { timeout: 60_000 }, async () => {
    const javaScript = `
      ${WAIT}
      if (communicator.rank === 1) {
        wait()
        process.exit(0)
      }
      await new Promise((resolve) => setTimeout(resolve, 100))
      tell(await told(wait()))
    `
    const { status, values } = await runRanks(mpi, { size: 2, javaScript })
    expect({ status, values }).toEqual({ status: 0, values: [['fine']] })
  })
})

const [openMpi, mpich] = [true, false].map((isOpenMpi) => MPIS.find((mpi) => mpi.isOpenMpi === isOpenMpi))

test.runIf(openMpi && mpich)('the library of another mpirun is refused', { timeout: 60_000 }, async () => {
  const javaScript = "console.log('told ' + JSON.stringify({ rank: 0, value: communicator }))"
  const library = 'libmpi.so.40'
  const { values } = await runRanks(mpich!, {
    size: 2,
    javaScript,
    open: 'await told(mpiCommunicator())',
    environment: { FUSED_PREFERENCE_LOSS_MPI: library },
  })
  expect(values).toEqual([
    Array(2).fill(
      expect.stringMatching(/^ERR_MPI: MPICH's mpirun has started 2 processes, but libmpi.so.40 .* knows of one/),
    ),
  ])
})
