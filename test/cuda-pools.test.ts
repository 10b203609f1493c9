/**
 * Memory of GPUs that is given back in the order of streams: nothing waits for that, what is in use is not given to anybody
 * else, and it is kept until it is asked back. The host's runtime ends every call after memory was used out of order.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { cudaProcess } from './cuda-process.js'
import { onRanks } from './nccl-ranks.js'
import { TESTS_GPU } from './platform.js'
import { CUDA } from './support.js'

const onHost = CUDA.length > 0 && !TESTS_GPU

describe.runIf(onHost)('the runtime that the host plays', () => {
  const program = fileURLToPath(new URL('../build/Release/fused_preference_loss_host_streams', import.meta.url))

  it.each([
    ['in order', 'cudaSuccess'],
    ['in order of the host', 'cudaSuccess'],
    ['in order of an event that the host has awaited', 'cudaSuccess'],
    ['in order of an event that the host has asked for', 'cudaSuccess'],
    ['in order across streams', 'cudaSuccess'],
    ['before it is taken', 'cudaErrorIllegalAddress'],
    ['before it is given back, by chance', 'cudaErrorIllegalAddress'],
    ['after it is given back', 'cudaErrorIllegalAddress'],
    ['after it is given back, in order', 'cudaErrorIllegalAddress'],
    ['after an earlier event', 'cudaErrorIllegalAddress'],
    ['of a graph', 'cudaErrorIllegalAddress'],
    ['twice', 'cudaErrorInvalidValue'],
    ['by cudaFree', 'cudaErrorInvalidValue'],
    ['of no pool', 'cudaErrorInvalidValue'],
    ['while capturing', 'cudaErrorStreamCaptureInvalidated'],
    ['of a stream that is destroyed while it captures', 'cudaSuccess'],
    ['kept', 'cudaSuccess'],
  ])('judges the use of memory of a pool: %s', (name, wanted) => {
    const { status, stdout } = spawnSync(program, [name], { encoding: 'utf8' })
    expect([status, stdout]).toEqual([0, wanted])
  })
})

/** A file that the runtime writes to, and what reads its lines in a program. */
function withLines(variable: string, program: string, environment: Record<string, string> = {}): unknown {
  const folder = mkdtempSync(join(tmpdir(), 'pools-'))
  try {
    const file = join(folder, 'lines')
    const lines = `
      const { existsSync, readFileSync } = await import('node:fs')
      const lines = () => existsSync(process.env.${variable})
        ? readFileSync(process.env.${variable}, 'utf8').trim().split('\\n') : []`
    return cudaProcess(lines + program, { ...environment, [variable]: file })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const STEP = `
  const stream = new Stream()
  const labels = there(host.labels)
  const prepare = () => prepareFusedPreferenceLoss({ data: there(host.logits), shape }, labels, {
    lossType: 'cpo', gradient: new DeviceBuffer(host.logits.byteLength), stream })`

describe.runIf(onHost)('memory of a GPU', () => {
  const GIVING: Record<string, string> = {
    'a buffer': `const buffer = new DeviceBuffer(1000)
      step.enqueue()
      buffer.dispose()`,
    'a prepared call': `step.enqueue()
      step.dispose()`,
    'what is forgotten': `let forgotten = [prepare(), new DeviceBuffer(1000)]
      step.enqueue()
      forgotten = undefined
      await collected()`,
  }
  const launchesUntilWaiting = (giving: string, environment = {}) =>
    withLines(
      'FPL_HOST_LAUNCHES',
      `${STEP}
      const step = prepare()
      const before = lines().length
      ${giving}
      const meanwhile = lines().length - before
      stream.synchronizeSync()
      tell([meanwhile, lines().length - before])`,
      environment,
    )

  it.each(Object.entries(GIVING))('is given back with %s, without waiting for what runs', (_, giving) => {
    const [meanwhile, after] = launchesUntilWaiting(giving) as number[]
    expect(meanwhile).toBe(0)
    expect(after).toBeGreaterThan(0)
  })

  it('is given back after waiting, where a GPU has no pools', () => {
    const [meanwhile, after] = launchesUntilWaiting(GIVING['a buffer'], { FPL_HOST_POOLS: '0' }) as number[]
    expect(meanwhile).toBe(after)
    expect(after).toBeGreaterThan(0)
  })

  it.each([
    ['a buffer that is filled', `buffer.fill(1, { stream })`],
    ['a buffer that is filled on the default stream', `buffer.fill(1)`],
    ['a buffer that is copied to', `buffer.copyFrom(there(host.labels), { stream })`],
    ['a buffer that is copied', `there(host.logits).copyFrom(buffer, { stream })`],
    [
      'a buffer that a graph fills',
      `const graph = stream.capture(() => buffer.fill(1, { stream }))
      graph.launch(stream)
      graph.dispose()`,
    ],
    [
      'what a prepared call uses',
      `const step = prepareFusedPreferenceLoss({ data: there(host.logits), shape }, labels, {
        lossType: 'cpo', gradient: buffer, stream })
      step.enqueue()
      step.dispose()`,
    ],
    [
      'what another stream uses after an event',
      `const [other, event] = [new Stream(), new Event()]
      buffer.fill(1, { stream })
      event.record(stream)
      other.wait(event)
      there(host.logits).copyFrom(buffer, { stream: other })`,
    ],
  ])('is not given to anybody else before the work on it has ended: %s', (_, use) => {
    const told = cudaProcess(`${STEP}
      const buffer = new DeviceBuffer(host.logits.byteLength)
      ${use}
      buffer.dispose()
      const bytes = taken()
      stream.synchronizeSync()
      tell([thrown(() => fusedPreferenceLossSync({ data: there(host.logits), shape }, host.labels, { lossType: 'cpo' })) ?? 'fine',
        bytes > 0])`)
    expect(told).toEqual(['fine', true])
  })

  it.runIf(process.platform === 'linux')(
    'is not given to anybody else before collectives on it have ended',
    async () => {
      const ended = await onRanks(
        2,
        `const nccl = await connect()
      const stream = new Stream({ device: rank })
      for (const operation of ['allReduceSum', 'broadcast', 'allGather']) {
        const buffer = there(Float32Array.of(rank, 2))
        const all = there(new Float32Array(4))
        if (operation === 'allGather') nccl.allGather(buffer, all, { stream })
        else nccl[operation](buffer, { stream })
        buffer.dispose()
        all.dispose()
      }
      await nccl.synchronize(stream)
      const buffer = there(Float32Array.of(rank, 2))
      nccl.allReduceSum(buffer, { stream })
      await nccl.synchronize(stream)
      tell(read(buffer, new Float32Array(2)))`,
      )
      expect(ended.map(({ told }) => told)).toEqual([
        [1, 4],
        [1, 4],
      ])
    },
  )

  it('is kept for later buffers and calls until it is asked back', () => {
    const program = `
      const bytes = () => Number(lines().at(-1))
      new DeviceBuffer(5_000_000).dispose()
      // Pins memory, and so waits until all is given back.
      const logits = there(host.logits)
      const step = prepareFusedPreferenceLoss({ data: logits, shape }, host.labels, { lossType: 'cpo' })
      const grown = lines().length
      new DeviceBuffer(2_000_000).dispose()
      new DeviceBuffer(2_000_000).dispose()
      const held = bytes()
      const growth = lines().length - grown
      fusedPreferenceLossSync({ data: host.logits, shape }, host.labels, { lossType: 'cpo', backend: 'cuda' })
      step.dispose()
      logits.dispose()
      cuda.trimMemory()
      tell([held > 5_000_000, growth, bytes()])`
    expect(withLines('FPL_HOST_POOL_BYTES', program)).toEqual([true, 0, 0])
  })

  it('is asked back of one GPU', () => {
    const program = `
      const bytes = () => Number(lines().at(-1))
      new DeviceBuffer(1_000_000, { device: 1 }).dispose()
      cuda.trimMemory()
      const before = bytes()
      cuda.trimMemory({ device: 1 })
      tell([before, bytes()])`
    expect(withLines('FPL_HOST_POOL_BYTES', program, { FPL_HOST_DEVICES: '2' })).toEqual([1_000_000, 0])
  })

  it('is asked back of a GPU that there is', () => {
    const told = cudaProcess(`tell([null, { devices: 1 }, { device: -1 }, { device: '0' }, { device: 7 }].map(
      (options) => thrown(() => cuda.trimMemory(options))?.code))`)
    const wrong = ['ERR_INVALID_ARG_TYPE', 'ERR_INVALID_ARG_VALUE', 'ERR_OUT_OF_RANGE', 'ERR_INVALID_ARG_TYPE']
    expect(told).toEqual([...wrong, 'ERR_CUDA'])
  })

  it('that is still used is waited for where there is no other', () => {
    const told = cudaProcess(
      `const stream = new Stream()
      for (let i = 0; i < 3; i++) {
        const buffer = new DeviceBuffer(900_000)
        buffer.fill(i, { stream })
        buffer.dispose()
      }
      const last = new DeviceBuffer(900_000)
      tell([last.byteLength, thrown(() => new DeviceBuffer(200_000)).message])`,
      { FPL_HOST_DEVICE_BYTES: '1000000' },
    ) as [number, string]
    expect(told[0]).toBe(900_000)
    expect(told[1]).toContain('200000 bytes of device memory for a buffer (100000 of 1000000 are free)')
  })

  it('that is asked for in a capture is refused, and the capture goes on', () => {
    const told = cudaProcess(`${STEP}
      const step = prepare()
      const codes = []
      const graph = stream.capture(() => {
        codes.push(thrown(() => new DeviceBuffer(8)), thrown(prepare))
        step.enqueue()
      })
      graph.launch(stream)
      const { loss } = step.read()
      tell([codes.map(({ code }) => code), codes[0].message, loss, new DeviceBuffer(8).byteLength,
        fusedPreferenceLossSync({ data: there(host.logits), shape }, host.labels, { lossType: 'cpo' }).loss])`) as [
      string[],
      string,
      number,
      number,
      number,
    ]
    expect(told[0]).toEqual(['ERR_CUDA', 'ERR_CUDA'])
    expect(told[1]).toContain('cudaErrorStreamCaptureUnsupported while allocating 8 bytes')
    expect(told[2]).toBe(told[4])
    expect(told[3]).toBe(8)
  })
})
