/**
 * Mistakes that must be caught before they reach a GPU: addresses that are not device memory, devices that cannot be
 * used, errors that outlive their call, work that breaks a capture or a tool. The tests use the host's runtime, which
 * detects them.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { cudaProcess } from './cuda-process.js'
import { CUDA } from './support.js'

const onHost = !process.env.FPL_TEST_GPU
const two = { FPL_HOST_DEVICES: '2' }

/** Calls that together take every array of the caller's, as functions of the arrays. */
const GIVE = `
  const run = (given, options) => fusedPreferenceLossSync({ data: given.logits, shape }, given.labels, {
    shift: false, mask: given.mask, gradient: given.gradient, reference: { logits: { data: given.reference, shape } }, ...options })
  const layer = (given) => fpl.fusedLinearPreferenceLossSync(
    { data: given.hidden, shape: [B, T, D] }, { data: given.weight, shape: [V, D] }, given.labels,
    { shift: false, lossType: 'cpo', mask: given.mask, bias: given.bias,
      gradient: { hidden: given.gradHidden, weight: given.gradWeight, bias: given.gradBias } })
  const make = (device = 0) => {
    const made = {}
    for (const name of ['logits', 'reference', 'labels', 'mask', 'hidden', 'weight', 'bias']) {
      made[name] = DeviceBuffer.from(host[name], { device })
    }
    made.gradient = new DeviceBuffer(host.logits.byteLength, { device })
    for (const name of ['hidden', 'weight', 'bias']) {
      made['grad' + name[0].toUpperCase() + name.slice(1)] = new DeviceBuffer(host[name].byteLength, { device })
    }
    return made
  }
  const FUSED = ['logits', 'labels', 'mask', 'reference', 'gradient']
  const LAYER = ['hidden', 'weight', 'bias', 'gradHidden', 'gradWeight', 'gradBias']
  const callOf = (name) => LAYER.includes(name) ? layer : run
  // The error of a call with something else in the place of one buffer.
  const errors = (change) => Object.fromEntries([...FUSED, ...LAYER].map((name) => {
    const given = make()
    given[name] = change(given[name])
    return [name, thrown(() => callOf(name)(given))]
  }))`

/** The name of an array in errors. */
const NAMES: Record<string, string> = {
  logits: 'logits.data',
  labels: 'labels',
  mask: 'options.mask',
  reference: 'options.reference.logits.data',
  gradient: 'options.gradient',
  hidden: 'hidden.data',
  weight: 'weight.data',
  bias: 'options.bias',
  gradHidden: 'options.gradient.hidden',
  gradWeight: 'options.gradient.weight',
  gradBias: 'options.gradient.bias',
}

interface Told {
  code: string
  message: string
}

describe.runIf(onHost && CUDA.length > 0)('an address', () => {
  const refused = (told: Record<string, Told>, suffix: string) => {
    expect(Object.keys(told)).toEqual(Object.keys(NAMES))
    for (const [name, error] of Object.entries(told)) {
      expect([name, error?.code]).toEqual([name, 'ERR_INVALID_ARG_VALUE'])
      expect(error.message).toContain(`${NAMES[name]}${suffix}`)
    }
  }

  it('of the host, or of nothing, is refused, and CUDA lives on', () => {
    const [told, loss] = cudaProcess(`${GIVE}
      const wanted = run(make()).loss
      const found = errors(({ byteLength }) => ({ ptr: 0x7f0000001000, byteLength }))
      const copied = thrown(() => make().logits.copyFrom({ ptr: 0x7f0000001000, byteLength: 64 }))
      tell([found, [run(make()).loss === wanted, copied]])`) as [Record<string, Told>, [boolean, Told]]
    refused(told, '.ptr must be an address of device memory')
    expect(loss).toEqual([true, { code: 'ERR_INVALID_ARG_VALUE', name: 'TypeError', message: expect.any(String) }])
  })

  it.each(['1', '0'])('whose memory has been freed is refused, with pools and without: %s', (pools) => {
    const program = `${GIVE}
      tell(errors((buffer) => {
        const { ptr, byteLength } = buffer
        buffer.dispose()
        return { ptr, byteLength }
      }))`
    const told = cudaProcess(program, { FPL_HOST_POOLS: pools }) as Record<string, Told>
    refused(told, '.ptr must be')
  })

  it('whose memory ends too early is refused', () => {
    const told = cudaProcess(`${GIVE}
      const sizes = { labels: 8 * B * T }
      tell(errors(({ ptr, byteLength }) => {
        const half = new DeviceBuffer(byteLength - 4)
        return { ptr: half.ptr, byteLength, keep: half }
      }))`) as Record<string, Told>
    refused(told, '.byteLength is')
  })

  it('of another GPU is refused', () => {
    const told = cudaProcess(
      `${GIVE}
      tell(errors(({ byteLength }) => {
        const { ptr } = new DeviceBuffer(byteLength, { device: 1 })
        return { ptr, byteLength, device: 0 }
      }))`,
      two,
    ) as Record<string, Told>
    refused(told, '.device is 0, but the memory is on device 1')
  })

  it('says which GPU it is of', () => {
    const told = cudaProcess(
      `${GIVE}
      const wanted = run(make()).loss
      const bare = (buffers) => Object.fromEntries(Object.entries(buffers).map(
        ([name, buffer]) => [name, { ptr: buffer.ptr, byteLength: buffer.byteLength, buffer }]))
      const second = make(1)
      const given = bare(second)
      const mixed = ['labels', 'mask'].map((name) => thrown(() => run({ ...given, [name]: make()[name] })).message)
      const onDevice = run(bare(make(1)), { gradient: true }).gradLogits.data.device
      const byte = DeviceBuffer.from(Uint8Array.of(7), { device: 1 })
      new DeviceBuffer(1, { device: 1 }).copyFrom(byte)
      tell([run(given).loss === wanted, run(second).loss === wanted, layer(given).loss === layer(make()).loss, mixed, onDevice])`,
      two,
    )
    const mixed = [
      'labels must be on the device of the logits, or of hidden and weight',
      'options.mask must be on the device of the logits, or of hidden and weight',
    ]
    expect(told).toEqual([true, true, true, mixed, 1])
  })

  it('beyond what a number can be is refused', () => {
    const told = cudaProcess(`${GIVE}
      tell(thrown(() => run({ ...make(), logits: { ptr: 2n ** 60n, byteLength: host.logits.byteLength } })))`) as Told
    expect(told.code).toBe('ERR_OUT_OF_RANGE')
  })
})

describe.runIf(onHost && CUDA.length > 0)('a stream', () => {
  it('of another GPU is refused', () => {
    const told = cudaProcess(
      `${GIVE}
      const stream = new Stream({ device: 1 })
      const given = make()
      const step = prepareFusedPreferenceLoss({ data: given.logits, shape }, given.labels, { lossType: 'cpo' })
      const own = new Stream()
      const graph = own.capture(() => step.enqueue(own))
      tell([
        () => run(given, { stream }),
        () => prepareFusedPreferenceLoss({ data: given.logits, shape }, given.labels, { lossType: 'cpo', stream }),
        () => step.enqueue(stream),
        () => step.read(stream),
        () => graph.launch(stream),
        () => new Event().record(stream),
        () => given.logits.copyFrom(host.logits, { stream }),
        () => given.logits.copyTo(host.logits, { stream }),
      ].map((call) => thrown(call)))`,
      two,
    ) as Told[]
    for (const error of told) {
      expect(error.code).toBe('ERR_INVALID_ARG_VALUE')
      expect(error.message).toContain('options.stream is on device 1')
    }
  })
})

describe.runIf(onHost && CUDA.length > 0)('an error', () => {
  it('is not that of the next call', () => {
    const told = cudaProcess(`${GIVE}
      const given = make()
      const wanted = run(given).loss
      const calls = {
        device: () => new DeviceBuffer(8, { device: 7 }),
        stream: () => run(given, { stream: 0x7f0000001000 }),
        event: () => new Event({ device: 7 }),
        memory: () => new DeviceBuffer(2 ** 40),
        unrecorded: () => new Event().millisecondsTo(new Event()),
        capture: () => new Stream().capture(() => new DeviceBuffer(8)),
        graph: () => { const s = new Stream(); s.capture(() => new Stream().synchronizeSync()); s.capture(() => s.synchronizeSync()) },
      }
      tell(Object.entries(calls).map(([name, call]) => [name, thrown(call)?.code, thrown(() => run(given)) ?? run(given).loss === wanted]))`)
    expect(told).toEqual(
      ['device', 'stream', 'event', 'memory', 'unrecorded', 'capture', 'graph'].map((name) => [name, 'ERR_CUDA', true]),
    )
  })

  it('of a call off the calling thread is not that of the next there', () => {
    const told = cudaProcess(`${GIVE}
      const given = make()
      const call = (options) => rejected(fpl.sequenceLogProbs({ data: given.logits, shape }, given.labels, options))
      tell([(await call({ stream: 0x7f0000001000 }))?.code, (await call({})) ?? 'fine'])`)
    expect(told).toEqual(['ERR_CUDA', 'fine'])
  })
})

describe.runIf(onHost && CUDA.length > 0)('a GPU', () => {
  it('older than the build serves is no reason to call CUDA available', () => {
    const told = cudaProcess(`tell([getBackends().cuda, thrown(() => new DeviceBuffer(8))])`, {
      FPL_HOST_CAPABILITY: '7.0',
    }) as [{ available: boolean; reason: string }, Told]
    expect(told[0].available).toBe(false)
    expect(told[0].reason).toContain('GPU 0 has compute capability 7.0; this build needs 7.5 or newer')
    expect(told[1].code).toBe('ERR_BACKEND_UNAVAILABLE')
  })

  it('older than the build serves is refused, and another beside it is not', () => {
    const told = cudaProcess(
      `${GIVE}
      const capabilities = getBackends().cuda.devices.map(({ computeCapability }) => computeCapability)
      const given = make()
      const prepared = thrown(() => prepareFusedPreferenceLoss({ data: given.logits, shape }, given.labels, { lossType: 'cpo' }))
      tell([capabilities, thrown(() => run(given)), prepared, run(make(1)).loss])`,
      { ...two, FPL_HOST_CAPABILITY: '7.0,7.5' },
    ) as [string[], Told, Told, number]
    expect(told[0]).toEqual(['7.0', '7.5'])
    for (const error of [told[1], told[2]]) {
      expect(error.code).toBe('ERR_CUDA')
      expect(error.message).toContain('GPU 0 has compute capability 7.0')
    }
    expect(told[3]).toBeTypeOf('number')
  })

  it('that cannot multiply bfloat16 says so', () => {
    const program = `
      const half = (array) => Uint16Array.from(new Uint32Array(array.buffer), (bits) => bits >>> 16)
      const call = (hidden, weight, dtypes) => linearSequenceLogProbsSync(
        { data: hidden, shape: [B, T, D], dtype: dtypes[0] }, { data: weight, shape: [V, D], dtype: dtypes[1] },
        host.labels, { backend: 'cuda' }).logProbs.length
      const both = thrown(() => call(half(host.hidden), half(host.weight), ['bfloat16', 'bfloat16']))
      tell([both ?? 'fine', call(host.hidden, half(host.weight), ['float32', 'bfloat16'])])`
    const [error, mixed] = cudaProcess(program, { FPL_HOST_CAPABILITY: '7.5' }) as [Told, number]
    expect(error.code).toBe('ERR_CUDA')
    expect(error.message).toContain('output layers of bfloat16 need a GPU of compute capability 8.0')
    expect(mixed).toBe(4)
    expect(cudaProcess(program, { FPL_HOST_CAPABILITY: '8.0' })).toEqual(['fine', 4])
  })

  it('that cannot multiply TF32 says so', () => {
    const program = `
      const call = (products) => linearSequenceLogProbsSync(
        { data: host.hidden, shape: [B, T, D] }, { data: host.weight, shape: [V, D] },
        host.labels, { backend: 'cuda', products }).logProbs.length
      tell([thrown(() => call('tf32')) ?? 'fine', call('own')])`
    const [error, own] = cudaProcess(program, { FPL_HOST_CAPABILITY: '7.5' }) as [Told, number]
    expect(error.code).toBe('ERR_CUDA')
    expect(error.message).toContain('output layers of TF32 need a GPU of compute capability 8.0')
    expect(own).toBe(4)
    expect(cudaProcess(program, { FPL_HOST_CAPABILITY: '8.0' })).toEqual(['fine', 4])
  })
})

describe.runIf(onHost && CUDA.length > 0)('the backend', () => {
  it.runIf(process.platform === 'linux')('opens cuBLASLt when it is asked for, and not before', () => {
    const told = cudaProcess(`
      const { readFileSync } = await import('node:fs')
      const isOpen = () => readFileSync('/proc/self/maps', 'utf8').includes(process.env.FUSED_PREFERENCE_LOSS_CUBLASLT)
      const found = getBackends().cuda
      const before = [found.available, found.devices.length, isOpen()]
      tell([before, found.cublasLt, isOpen()])`)
    expect(told).toEqual([[true, 1, false], { available: true }, true])
  })

  it('captures a prepared call that has never run', () => {
    const told = cudaProcess(`${GIVE}
      const given = make()
      const options = { shift: false, mask: given.mask, gradient: given.gradient, reference: { logits: { data: given.reference, shape } } }
      const step = prepareFusedPreferenceLoss({ data: given.logits, shape }, given.labels, options)
      const stream = new Stream()
      const graph = stream.capture(() => step.enqueue(stream))
      graph.launch(stream)
      tell(step.read(stream).loss === run(make()).loss)`)
    expect(told).toBe(true)
  })

  it("leaves the calling thread's context as it was", () => {
    const program = fileURLToPath(new URL('../build/Release/fused_preference_loss_host_contexts', import.meta.url))
    const { status, stdout } = spawnSync(program, [process.env.FUSED_PREFERENCE_LOSS_CUDA_LIBRARY as string], {
      encoding: 'utf8',
      env: { ...process.env, ...two },
    })
    expect([status, stdout]).toEqual([0, 'as they were\n'])
  })

  const calls = `${GIVE}
    run(make())
    layer(make())
    const outputs = ['tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'logSumExp', 'sumSquaredProbs']
    const labels = host.labels.map((label, i) => i % 3 === 1 ? -100 : label)
    for (const options of [{}, { gradient: true }, { outputs }, { gradient: 'in-place', outputs, weighting: 'wpo' }]) {
      fusedPreferenceLossSync({ data: host.logits, shape }, labels, { backend: 'cuda', lossType: 'cpo', ...options })
    }
    fusedPreferenceLossSync({ data: host.logits, shape }, labels, { backend: 'cuda', reference: { logits: { data: host.reference, shape } } })
    sequenceLogProbsSync({ data: host.logits, shape }, labels, { backend: 'cuda', outputs }).backwardSync([1, 2, 3, 4])
    linearSequenceLogProbsSync({ data: host.hidden, shape: [B, T, D] }, { data: host.weight, shape: [V, D] }, labels,
      { backend: 'cuda', outputs }).backwardSync([1, 2, 3, 4])
    tell('clean')`

  it('copies nothing to the host that nobody has written, once memory is cleared for tools that look for that', () => {
    const look = { FPL_HOST_INITCHECK: '1' }
    expect(cudaProcess(calls, { ...look, FUSED_PREFERENCE_LOSS_CLEAR_MEMORY: '1' })).toBe('clean')
    // The gaps between results, which nobody reads.
    expect(() => cudaProcess(calls, look)).toThrow('bytes are copied to the host that nobody has written')
  })

  it('has the same results when logits are brought over in many chunks, call after call', () => {
    // A row is larger than a chunk: two buffers take turns, and are used again by what follows.
    const told = cudaProcess(`
      const vocab = 4_300_000
      const data = Float32Array.from({ length: 4 * vocab }, (_, i) => Math.fround(i * 0.618) % 5)
      const logits = { data, shape: [4, 1, vocab] }
      const labels = Int32Array.of(5, vocab - 1, -100, 77)
      const options = { shift: false, lossType: 'cpo', gradient: true }
      const digest = ({ gradLogits: { data } }) => data.reduce((sum, x, i) => sum + x * (i % 1013), 0)
      const results = [0, 1].map(() => fusedPreferenceLossSync(logits, labels, { ...options, backend: 'cuda' }))
      const wanted = fusedPreferenceLossSync(logits, labels, options)
      tell([results.map(({ loss }) => loss), results.map(digest), wanted.loss, digest(wanted)])`) as [
      number[],
      number[],
      number,
      number,
    ]
    const [losses, digests, loss, digest] = told
    expect(losses[1]).toBe(losses[0])
    expect(digests[1]).toBe(digests[0])
    expect(Math.abs(losses[0] - loss)).toBeLessThan(1e-5 * Math.abs(loss))
    expect(Math.abs(digests[0] - digest)).toBeLessThan(1e-4 * Math.abs(digest) + 1e-3)
  })

  it.each([
    ['a reference', `{ reference: { logits: { data: host.reference, shape } } }`],
    ['a gradient', `{ lossType: 'cpo', gradient: true, gradientDType: 'float32' }`],
  ])('has room for %s of a larger type than the logits', (_, options) => {
    const [found, wanted] = cudaProcess(`
      const data = new Uint16Array(host.logits.buffer).filter((_, i) => i % 2 === 1)
      tell(['cuda', 'cpu'].map((backend) => {
        const logits = { data, dtype: 'bfloat16', shape }
        const { loss, gradLogits } = fusedPreferenceLossSync(logits, host.labels, { ...${options}, backend })
        return [loss, gradLogits ? gradLogits.data.reduce((sum, x) => sum + Math.abs(x), 0) : 1]
      }))`) as number[][]
    for (const [i, x] of wanted.entries()) expect(Math.abs(found[i] - x)).toBeLessThan(1e-5 * Math.abs(x))
  })

  it('fuses multiply-adds where the source says so and nowhere else', () => {
    const build = readFileSync(new URL('../CMakeLists.txt', import.meta.url), 'utf8')
    expect(build).toMatch(/target_compile_options\(fused_preference_loss_cuda PRIVATE [^)]*-fmad=false/)
    expect(build.match(/-ffp-contract=off/g)?.length).toBeGreaterThanOrEqual(2)
  })

  it('has an intermediate form of the oldest architecture, by which all newer ones are served', () => {
    const build = readFileSync(new URL('../CMakeLists.txt', import.meta.url), 'utf8')
    expect(build).toMatch(/set\(ARCHITECTURES 75 /)
  })
})
