/**
 * Collectives on device memory: several processes, whose GPUs and NCCL the host plays; and the real NCCL, as far as it
 * goes without a GPU.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { ncclFolder } from '../scripts/install-nccl.mjs'
import { type Ended, onRanks, onThread } from './nccl-ranks.js'
import { TESTS_GPU } from './platform.js'
import { CUDA, decode, encode } from './support.js'

const onHost = !TESTS_GPU && CUDA.length > 0 && process.platform === 'linux'
/** On a GPU, one rank of the real NCCL. */
const onGpu = TESTS_GPU && existsSync(process.env.FUSED_PREFERENCE_LOSS_NCCL ?? '')

interface Told {
  code: string
  name: string
  message: string
}

/** What the ranks told; they must all have ended well. */
function told(ended: readonly Ended[]): unknown[] {
  const ends = ended.map(({ code, signal, stderr }) => ({ code, signal, stderr }))
  expect(ends).toEqual(ended.map(() => ({ code: 0, signal: null, stderr: '' })))
  return ended.map((each) => each.told)
}

/** The values of a rank, all different and exact in every type. */
const VALUES = 'Float32Array.from({ length: 5 }, (_, i) => 8 * rank + i - 3)'
const values = (rank: number) => Array.from({ length: 5 }, (_, i) => 8 * rank + i - 3)
const sums = (size: number) =>
  values(0).map((_, i) => Array.from({ length: size }, (_, r) => values(r)[i]).reduce((a, b) => a + b))

describe.runIf(onHost || onGpu).each(onGpu ? [1] : [1, 4])('%i ranks', (size) => {
  const ranks = Array.from({ length: size }, (_, rank) => rank)
  const gathered = ranks.flatMap(values)

  it('gather, add up and broadcast, in the order of ranks', async () => {
    const found = told(
      await onRanks(
        size,
        `const nccl = await connect()
        const own = ${VALUES}
        const all = new Float32Array(5 * size)
        const [send, receive, inPlace] = [there(own), there(all), there(all)]
        const [stream, last] = [new Stream({ device: rank }), size - 1]
        inPlace.copyFrom(own, { byteOffset: rank * own.byteLength })
        nccl.allGather(send, receive, { stream })
        nccl.allGather(inPlace.slice(rank * own.byteLength, (rank + 1) * own.byteLength), inPlace, { stream })
        const sum = there(own)
        nccl.allReduceSum(sum, { stream })
        nccl.broadcast(send, { root: last, stream })
        await nccl.synchronize(stream)
        const first = there(own)
        nccl.broadcast(first)
        nccl.allGather(there(Uint8Array.of(rank)), first.slice(0, size))
        await nccl.synchronize()
        tell([nccl.rank, nccl.size, nccl.device, read(receive, all), read(inPlace, all), read(sum, own), read(send, own),
          read(first, new Uint8Array(20)).slice(0, size)])
        nccl.dispose()`,
      ),
    )
    const wanted = [gathered, gathered, sums(size), values(size - 1), ranks]
    expect(found).toEqual(ranks.map((rank) => [rank, size, rank, ...wanted]))
  })

  it('add up each type of elements', async () => {
    const stored = {
      float32: `Float32Array.from(${VALUES})`,
      float64: `Float64Array.from(${VALUES}, (value) => value + 2 ** -40 * rank)`,
      float16: `Uint16Array.from(${JSON.stringify(ranks.map((rank) => values(rank).map(encode.float16)))}[rank])`,
      bfloat16: `Uint16Array.from(${JSON.stringify(ranks.map((rank) => values(rank).map(encode.bfloat16)))}[rank])`,
    }
    const found = told(
      await onRanks(
        size,
        `const nccl = await connect({ device: size - 1 - rank })
        const stored = { ${Object.entries(stored).map(([dtype, array]) => `${dtype}: ${array}`)} }
        const results = {}
        for (const [dtype, array] of Object.entries(stored)) {
          const data = there(array, nccl.device)
          nccl.allReduceSum(data, { dtype })
          await nccl.synchronize()
          results[dtype] = read(data, array)
        }
        tell([nccl.device, results])
        nccl.dispose()`,
      ),
    ) as [number, Record<string, number[]>][]
    const more = 2 ** -40 * ((size * (size - 1)) / 2)
    for (const [rank, [device, { float32, float64, float16, bfloat16 }]] of found.entries()) {
      expect(device).toBe(size - 1 - rank)
      expect(float32).toEqual(sums(size))
      expect(float64).toEqual(sums(size).map((sum) => sum + more))
      expect(float16.map(decode.float16)).toEqual(sums(size))
      expect(bfloat16.map(decode.bfloat16)).toEqual(sums(size))
    }
  })

  it('are captured in a graph, which keeps what it needs', async () => {
    const found = told(
      await onRanks(
        size,
        `const nccl = await connect()
        const own = ${VALUES}
        const stream = new Stream({ device: rank })
        const [data, all] = [there(own), there(new Float32Array(5 * size))]
        const graph = stream.capture(() => {
          nccl.allReduceSum(data, { stream })
          nccl.allGather(data, all, { stream })
        })
        await stream.synchronize()
        const before = read(data, own)
        graph.launch(stream)
        graph.launch(stream)
        await nccl.synchronize(stream)
        const after = read(all, new Float32Array(5 * size))
        // Nothing of it is there any more, but for the graph.
        const kept = data.slice()
        nccl.dispose()
        const late = thrown(() => nccl.allReduceSum(data)).code
        graph.launch(stream)
        await stream.synchronize()
        tell([before, after, read(data, own), late])
        graph.dispose()`,
      ),
    )
    const times = (factor: number) => sums(size).map((sum) => factor * sum)
    const wanted = [ranks.flatMap(() => times(size)), times(size * size), 'ERR_DISPOSED']
    expect(found).toEqual(ranks.map((rank) => [values(rank), ...wanted]))
  })
})

describe.runIf(onHost)('a rank', () => {
  it('refuses what it cannot use, and goes on', async () => {
    const [codes, sum] = told(
      await onRanks(
        1,
        `const nccl = await connect()
        const [data, other] = [there(Float32Array.of(1, 2)), there(Float32Array.of(3, 4), 1)]
        const stream = new Stream({ device: 1 })
        const refused = [
          () => nccl.allReduceSum(Float32Array.of(1)),
          () => nccl.allReduceSum({ ptr: 0x7f0000001000, byteLength: 8 }),
          () => nccl.allReduceSum(other),
          () => nccl.allReduceSum(data, { stream }),
          () => nccl.allReduceSum(data, { dtype: 'float23' }),
          () => nccl.allReduceSum(data, { type: 'float32' }),
          () => nccl.allReduceSum(data.slice(0, 6)),
          () => nccl.allReduceSum(data.slice(2, 6)),
          () => nccl.allGather(data, data.slice(0, 4)),
          () => nccl.allGather(data.slice(0, 5), data.slice(1, 6)),
          () => nccl.allGather(data, other),
          () => nccl.broadcast(data, { root: 1 }),
          () => nccl.broadcast(data, { root: '0' }),
        ].map((call) => { const { code, message } = thrown(call); return [code, message] })
        nccl.allReduceSum(data)
        await nccl.synchronize()
        refused.push(['rejected', (await rejected(nccl.synchronize(stream))).message])
        tell([refused, read(data, new Float32Array(2))])
        nccl.dispose()`,
        { FPL_HOST_DEVICES: '2' },
      ),
    )[0] as [string[][], number[]]
    expect(codes).toEqual([
      ['ERR_INVALID_ARG_TYPE', 'data must be device memory; got Float32Array(1)'],
      ['ERR_INVALID_ARG_VALUE', expect.stringContaining('data.ptr must be an address of device memory')],
      ['ERR_INVALID_ARG_VALUE', 'data is on device 1, but the communicator is on device 0'],
      ['ERR_INVALID_ARG_VALUE', 'options.stream is on device 1, but the memory is on device 0'],
      ['ERR_INVALID_ARG_VALUE', expect.stringContaining("options.dtype must be one of 'float32', 'float16'")],
      ['ERR_INVALID_ARG_VALUE', expect.stringContaining('options.type is not an option')],
      ['ERR_SHAPE_MISMATCH', 'data has 6 bytes; its elements have 4 bytes each'],
      ['ERR_INVALID_ARG_VALUE', expect.stringContaining('must be a multiple of the element size, 4')],
      ['ERR_SHAPE_MISMATCH', 'receive has 4 bytes; it must have 8 bytes: those of 1 ranks'],
      ['ERR_INVALID_ARG_VALUE', 'send overlaps receive, but is not its own part'],
      ['ERR_INVALID_ARG_VALUE', 'receive is on device 1, but the communicator is on device 0'],
      ['ERR_OUT_OF_RANGE', 'options.root must be an integer in [0, 0]; got 1'],
      ['ERR_INVALID_ARG_TYPE', "options.root must be an integer in [0, 0]; got '0'"],
      ['rejected', 'options.stream is on device 1, but the memory is on device 0'],
    ])
    expect(sum).toEqual([1, 2])
  })

  it('that cannot begin tells the others', async () => {
    const found = told(await onRanks(3, `tell(await rejected(connect(rank === 1 ? { device: 99 } : {})))`)) as Told[]
    const { code, message } = found[1]
    expect([code, message]).toEqual(['ERR_OUT_OF_RANGE', 'options.device must be an integer in [0, 2]; got 99'])
    for (const other of [found[0], found[2]]) {
      expect(other.code).toBe('ERR_RANK_FAILED')
      expect(other.message).toContain(`rank 1 of 3 has failed: ERR_OUT_OF_RANGE: ${message}`)
    }
  })

  it('has a GPU and a version of NCCL that suit the others', async () => {
    const [same, different] = await Promise.all([
      onRanks(2, `tell(await rejected(connect({ device: 0 })))`),
      onRanks(2, `process.env.FPL_HOST_NCCL_VERSION = String(22809 + rank); tell(await rejected(connect()))`),
    ])
    for (const { code, message } of told(same) as Told[]) {
      expect([code, message]).toEqual(['ERR_NCCL', expect.stringContaining('two ranks have the same GPU')])
      expect(message).toMatch(/^NCCL failed while connecting the ranks: invalid usage: /)
    }
    for (const { code, message } of told(different) as Told[]) {
      expect([code, message]).toEqual(['ERR_INVALID_ARG_VALUE', expect.stringContaining('in the version of NCCL')])
    }
  })

  it('that dies is an error of the others, which live on', async () => {
    const ended = await onRanks(
      3,
      `const nccl = await connect()
      const stream = new Stream({ device: rank })
      const data = there(Float32Array.of(rank))
      nccl.allReduceSum(data)
      await nccl.synchronize()
      await host.barrier()
      if (rank === 2) await new Promise(() => setTimeout(() => process.kill(process.pid, 'SIGKILL'), 200))
      const sum = async () => { nccl.allReduceSum(data, { stream }); await nccl.synchronize(stream) }
      const waiting = await rejected(sum())
      const later = [await rejected(nccl.synchronize(stream)), thrown(() => nccl.broadcast(data))]
      await stream.synchronize()
      nccl.dispose()
      data.copyFrom(Float32Array.of(7))
      tell([waiting, later, read(data, new Float32Array(1))])`,
    )
    expect(ended[2].signal).toBe('SIGKILL')
    for (const [waiting, later, data] of told(ended.slice(0, 2)) as [Told, Told[], number[]][]) {
      for (const { code, message } of [waiting, ...later]) {
        const reason = 'cannot be used any more: remote process exited or there was a network error'
        expect([code, message]).toEqual(['ERR_NCCL', expect.stringContaining(reason)])
      }
      expect(data).toEqual([7])
    }
  })

  it('that died is noticed by the next operation, but not by work that is done', async () => {
    const ended = await onRanks(
      2,
      `const nccl = await connect()
      const data = there(Float32Array.of(rank + 1))
      nccl.allReduceSum(data)
      await nccl.synchronize()
      await host.barrier()
      if (rank === 1) process.kill(process.pid, 'SIGKILL')
      await new Promise((resolve) => setTimeout(resolve, 300))
      const done = await rejected(nccl.synchronize())
      tell([done ?? 'done', thrown(() => nccl.allReduceSum(data)), read(data, new Float32Array(1))])
      nccl.dispose()`,
    )
    const [done, next, data] = told(ended.slice(0, 1))[0] as [string, Told, number[]]
    expect([done, next.code, data]).toEqual(['done', 'ERR_NCCL', [3]])
  })

  it.each(['nccl', 'stream'])('that is aborted ends what waits for others, by a synchronize of %s', async (by) => {
    const found = told(
      await onRanks(
        2,
        `const nccl = await connect()
        const stream = new Stream({ device: rank })
        const data = there(Float32Array.of(rank))
        if (rank === 0) {
          nccl.allReduceSum(data, { stream })
          const waiting = ${by === 'nccl' ? 'nccl.synchronize(stream)' : 'stream.synchronize()'}
          setTimeout(() => nccl.abort(), 100)
          tell([await rejected(waiting), thrown(() => nccl.allReduceSum(data)), await rejected(stream.synchronize())])
        }
        await host.barrier()
        nccl.dispose()`,
      ),
    )[0] as [Told | undefined, Told, Told | undefined]
    const [waiting, later, after] = found
    const aborted = 'this NCCL communicator cannot be used any more: it has been aborted'
    expect([later.code, later.message]).toEqual(['ERR_NCCL', aborted])
    expect(waiting?.message).toBe(by === 'nccl' ? aborted : undefined)
    expect(after).toBeUndefined()
  })

  it('that dies before it has come to NCCL does not let the others wait', async () => {
    const ended = await onRanks(
      3,
      `const { readFileSync } = await import('node:fs')
      if (rank === 2) {
        const gather = host.allGather
        // With the id of NCCL it has all that it needs, but it does not come.
        let gathers = 0
        host.allGather = async (...all) => { await gather(...all); if (++gathers === 2) process.kill(process.pid, 'SIGKILL') }
      }
      const begin = Date.now()
      const error = await rejected(connect({ timeout: 1.5 }))
      tell([error, (Date.now() - begin) / 1000,
        readFileSync('/proc/self/maps', 'utf8').split('memfd:nccl').length - 1])`,
    )
    expect(ended[2].signal).toBe('SIGKILL')
    for (const [{ code, message }, seconds, mapped] of told(ended.slice(0, 2)) as [Told, number, number][]) {
      const wanted = 'not all ranks have come to NCCL within 1.5 seconds: one may have failed'
      expect([code, message, mapped]).toEqual(['ERR_NCCL', wanted, 0])
      expect(seconds).toBeGreaterThanOrEqual(1.5)
    }
  })

  it('whose thread ends while it comes to NCCL waits for nobody', async () => {
    const ends = onThread(`
      const gather = host.allGather
      let gathers = 0
      host.allGather = async (...all) => { await gather(...all); if (++gathers === 2) setTimeout(end, 100) }
      void connect({ timeout: 20 })`)
    const comesLate = `
      const gather = host.allGather
      let gathers = 0
      host.allGather = async (...all) => { await gather(...all); if (++gathers === 2) await host.barrier() }
      tell([0, await rejected(connect({ timeout: 1 }))])`
    const ended = await onRanks(2, `if (rank === 0) { ${ends}; await host.barrier() } else { ${comesLate} }`)
    const [[milliseconds], [, other]] = told(ended) as [number, Told][]
    expect(milliseconds).toBeLessThan(10_000)
    expect(other.code).toBe('ERR_NCCL')
  })

  it('whose NCCL fails says what has failed', async () => {
    const [error] = told(
      await onRanks(
        1,
        `const nccl = await connect()
        tell(thrown(() => nccl.broadcast(there(Float32Array.of(1)))))
        nccl.dispose()`,
        { FPL_HOST_FAULT: 'nccl' },
      ),
    ) as Told[]
    expect(error).toEqual({
      code: 'ERR_NCCL',
      name: 'Error',
      message: 'NCCL failed while broadcasting: internal error: told to fail',
    })
  })
})

describe.runIf(onHost)('a communicator', () => {
  const OPEN = `
    const { readFileSync, readdirSync } = await import('node:fs')
    const open = () => [
      readFileSync('/proc/self/maps', 'utf8').split('memfd:nccl').length - 1, readdirSync('/proc/self/fd').length]`

  it('that is forgotten does its work, and lets nobody else wait', async () => {
    const found = told(
      await onRanks(
        2,
        `${OPEN}
        const own = Float32Array.of(rank + 1)
        const data = there(own)
        const nothing = open()
        let kept = await connect()
        const stream = new Stream({ device: rank })
        kept.allReduceSum(data, { stream })
        if (rank === 0) {
          kept = undefined
          await collected()
          await stream.synchronize() // rank 1 still has its own
          await data.copyFromAsync(data, { stream })
        } else {
          await kept.synchronize(stream)
        }
        await host.barrier()
        kept?.dispose()
        await host.barrier()
        for (let i = 0; i < 100 && open()[0] > 0; i++) await new Promise((resolve) => setTimeout(resolve, 10))
        tell([read(data, own), open().map((count, i) => count - nothing[i])])`,
      ),
    )
    expect(found).toEqual([
      [[3], [0, 0]],
      [[3], [0, 0]],
    ])
  })

  it('leaves nothing behind, whoever ends it', async () => {
    const [left] = told(
      await onRanks(
        1,
        `${OPEN}
        const { Worker } = await import('node:worker_threads')
        const once = async () => { const nccl = await connect(); nccl.allReduceSum(there(Float32Array.of(1))); nccl.dispose() }
        await once()
        const before = open()
        for (let i = 0; i < 20; i++) await once()
        const after = open()
        const worker = new Worker(\`
          import { parentPort } from 'node:worker_threads'
          import { ncclCommunicator } from \${JSON.stringify(ncclUrl)}
          const allGather = async (send, receive) => receive.set(send)
          const host = { rank: 0, size: 1, allGather, allReduceSum() {}, barrier() {}, abort() {} }
          globalThis.kept = await ncclCommunicator(host)
          setInterval(() => {}, 1000) // it would come to its end by itself
          parentPort.postMessage('there')\`, { eval: true })
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
        const there1 = open()[0]
        await worker.terminate()
        tell([before[0], after.map((count, i) => count - before[i]), there1, open()[0]])`,
      ),
    ) as [number, number[], number, number][]
    expect(left).toEqual([0, [0, 0], 1, 0])
  })

  it('that nobody has disposed of keeps no process from its end', async () => {
    const found = told(await onRanks(2, `globalThis.kept = await connect(); tell(rank)`))
    expect(found).toEqual([0, 1])
  })
})

describe.runIf(onHost)('without NCCL', () => {
  const connects = async (environment: Record<string, string>) =>
    told(await onRanks(1, 'tell(await rejected(connect()))', environment))[0] as Told

  it('it says what is missing and how to get it', async () => {
    const [none, other] = await Promise.all([
      connects({ FUSED_PREFERENCE_LOSS_NCCL: '/nowhere/libnccl.so.2' }),
      connects({ FUSED_PREFERENCE_LOSS_NCCL: process.env.FUSED_PREFERENCE_LOSS_CUBLASLT ?? '' }),
    ])
    expect([none.code, other.code]).toEqual(['ERR_NCCL', 'ERR_NCCL'])
    expect(none.message).toMatch(
      /^NCCL cannot be used: \/nowhere\/libnccl\.so\.2: .*nvidia-nccl-cu13, and FUSED_PREFERENCE_LOSS_NCCL names its file/,
    )
    expect(other.message).toContain('NCCL cannot be used: it has no ncclGetVersion')
  })

  it('of a version that it knows it says so', async () => {
    const [old, new_] = await Promise.all(
      ['21217', '30001'].map((version) => connects({ FPL_HOST_NCCL_VERSION: version })),
    )
    expect([old.code, new_.code]).toEqual(['ERR_NCCL', 'ERR_NCCL'])
    expect(old.message).toContain('this NCCL is version 2.12.17; it must be at least 2.14.0 and below 3.0.0')
    expect(new_.message).toContain('this NCCL is version 3.0.1;')
  })

  it('or without CUDA it says so', async () => {
    const error = await connects({ FUSED_PREFERENCE_LOSS_CUDA_LIBRARY: '/nowhere.so' })
    expect([error.code, error.message]).toEqual(['ERR_BACKEND_UNAVAILABLE', expect.stringContaining('/nowhere.so')])
  })

  it('or without ranks it says so', async () => {
    const found = told(await onRanks(1, 'tell(await rejected(ncclCommunicator({ rank: 0, size: 1 })))'))[0] as Told
    expect([found.code, found.message]).toEqual([
      'ERR_INVALID_ARG_TYPE',
      'communicator.allGather must be a function; got undefined',
    ])
  })
})

const folder = ncclFolder()
if (!folder) console.log('the real NCCL left out: node scripts/install-nccl.mjs installs it')

describe.runIf(folder)('the real NCCL', () => {
  it('declares what native/cuda/nccl.h declares', () => {
    const source = fileURLToPath(new URL('native/nccl_declarations.cc', import.meta.url))
    // What its header needs of CUDA, the type of a stream, comes from native/cuda/host.
    const none = mkdtempSync(join(tmpdir(), 'cuda-'))
    for (const name of ['runtime', 'fp16', 'bf16', 'fp8']) writeFileSync(join(none, `cuda_${name}.h`), '')
    const options = ['-std=c++17', '-fsyntax-only', '-DFPL_HOST_EXECUTION', `-I${folder}/include`, `-I${none}`]
    const { status, stderr } = spawnSync('c++', [...options, source], { encoding: 'utf8' })
    rmSync(none, { recursive: true })
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  })

  it.runIf(onHost)('is opened, has all functions, and says that there is no GPU', async () => {
    const [error] = told(
      await onRanks(1, 'tell(await rejected(connect()))', { FUSED_PREFERENCE_LOSS_NCCL: `${folder}/lib/libnccl.so.2` }),
    ) as Told[]
    expect(error.code).toBe('ERR_NCCL')
    expect(error.message).toMatch(/^NCCL failed while connecting the ranks: unhandled cuda error .*: Cuda failure /)
  })
})
