/**
 * What a failure in the middle leaves behind. Each call that an operation makes of the CUDA runtime, cuBLASLt and NCCL
 * fails once, one after the other, on the host's runtime: the error has a code, nothing that was taken is kept, inputs
 * are as they were, and the next operation gives the same bits as one before which nothing has failed.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { cudaProcess } from './cuda-process.js'
import { CUDA } from './support.js'

const onHost = !process.env.FPL_TEST_GPU

const SWEEP = `
  const { createHash } = await import('node:crypto')
  const { readFileSync } = await import('node:fs')
  const lines = (name) => readFileSync(process.env[name], 'utf8').split('\\n').slice(0, -1)
  const held = () => lines('FPL_HOST_HELD').reduce((sum, line) => sum + Number(line), 0)
  const digest = (...values) => {
    const hash = createHash('sha1')
    const visit = (v) => {
      if (ArrayBuffer.isView(v)) hash.update(new Uint8Array(v.buffer, v.byteOffset, v.byteLength))
      else if (typeof v === 'number') hash.update(new Uint8Array(Float64Array.of(v).buffer))
      else if (v && typeof v === 'object' && !v.ptr) for (const key of Object.keys(v)) visit(v[key])
    }
    visit(values)
    return hash.digest('hex')
  }
  const halves = (array) => Uint16Array.from(new Uint32Array(array.buffer), (bits) => bits >>> 16)
  // What the operation disposes of at its end, come what may.
  const keeping = (operation) => async () => {
    const own = []
    try {
      return await operation((made) => (own.push(made), made))
    } finally {
      const errors = own.reverse().map((each) => thrown(() => each.dispose())).filter((error) => error)
      if (errors.length > 0) throw Object.assign(new Error(errors[0].message), errors[0])
    }
  }
  const attempt = async (operation, number) => {
    const before = lines('FPL_HOST_FAILED').length
    process.env.FPL_HOST_FAIL_CALL = String(number)
    try {
      return { result: await operation() }
    } catch ({ code, message }) {
      return { code, message }
    } finally {
      delete process.env.FPL_HOST_FAIL_CALL
      Object.assign(attempt, { failed: lines('FPL_HOST_FAILED').slice(before) })
    }
  }
  // What has become of each. Warm: what the operation before has left is there.
  const sweep = async (operation, isWarm) => {
    const found = []
    const wanted = isWarm ? await operation() : undefined
    await collected()
    cuda.trimMemory()
    const before = held()
    // What is held that nobody needs. Nothing is kept then for the next operation.
    const left = async () => {
      const isNothing = () => (cuda.trimMemory(), held() === before)
      // What is forgotten is given back off this thread, some time.
      for (let i = 0; i < 10 && !isNothing(); i++) await collected(isNothing)
      return held() - before
    }
    for (let number = 1; ; number++) {
      if (isWarm) await operation()
      const end = await attempt(operation, number)
      const [name] = attempt.failed
      if (!name) return { found, last: end.result, wanted: await operation(), left: await left() }
      const next = isWarm ? await operation() : undefined
      found.push({ number, name, ...end, next, left: await left() })
    }
  }
  const inputs = digest(host)
`

/** Operations that together make every call there is; \`operation\` may be called again and again. */
const OPERATIONS: Record<string, string> = {
  'a loss of logits in device memory': `
    const given = Object.fromEntries(['logits', 'labels', 'mask', 'reference'].map((name) => [name, there(host[name])]))
    const gradient = new DeviceBuffer(host.logits.byteLength)
    const operation = () => {
      const result = fusedPreferenceLossSync({ data: given.logits, shape }, given.labels, {
        shift: false, mask: given.mask, gradient, reference: { logits: { data: given.reference, shape } } })
      return digest(result, read(gradient, host.logits))
    }`,
  'a loss of logits in host memory': `
    const operation = () => digest(fusedPreferenceLossSync({ data: host.logits, shape }, host.labels, {
      backend: 'cuda', gradient: true, reference: { logits: { data: host.reference, shape } } }))`,
  'a gradient of another type': `
    const logits = { data: halves(host.logits), dtype: 'bfloat16', shape }
    const operation = () => digest(fusedPreferenceLossSync(logits, host.labels, {
      backend: 'cuda', lossType: 'cpo', gradient: true, gradientDType: 'float32' }))`,
  'rows that are read and written in one go': `
    const logits = there(host.logits)
    const operation = () => {
      logits.copyFrom(host.logits)
      const result = fusedPreferenceLossSync({ data: logits, shape }, host.labels, {
        shift: false, lossType: 'cpo', gradient: 'in-place', deferredScale: true })
      return digest(result, read(logits, host.logits))
    }`,
  'a cross-entropy whose labels are in device memory': `
    const [logits, labels] = [there(host.logits), there(host.labels)]
    const gradient = new DeviceBuffer(host.logits.byteLength)
    const classWeights = Float64Array.from({ length: V }, (_, v) => 1 + v % 3)
    const operation = () => {
      const result = fpl.crossEntropySync({ data: logits, shape }, labels, { shift: false, classWeights, labelSmoothing: 0.1, gradient })
      return digest(result, read(gradient, host.logits))
    }`,
  'log-probs, and their gradient later': `
    const outputs = ['tokenLogProbs', 'tokenEntropies']
    const operation = () => {
      const sums = sequenceLogProbsSync({ data: host.logits, shape }, host.labels, { backend: 'cuda', outputs })
      return digest(sums, sums.backwardSync([1, 2, 3, 4]))
    }`,
  'an output layer in host memory': `
    const [hidden, weight, bias] = ['hidden', 'weight', 'bias'].map((name) => halves(host[name]))
    const operation = () => digest(fpl.fusedLinearPreferenceLossSync(
      { data: hidden, dtype: 'float16', shape: [B, T, D] }, { data: weight, dtype: 'float16', shape: [V, D] }, host.labels,
      { backend: 'cuda', lossType: 'cpo', bias, gradient: true }))`,
  'an output layer in device memory': `
    const [hidden, weight, bias] = ['hidden', 'weight', 'bias'].map((name) => there(host[name]))
    const gradient = { hidden: there(host.hidden), weight: there(host.weight), bias: there(host.bias) }
    const operation = () => {
      const result = fpl.fusedLinearPreferenceLossSync(
        { data: hidden, shape: [B, T, D] }, { data: weight, shape: [V, D] }, host.labels,
        { lossType: 'cpo', bias, gradient, logitsBudget: 0 })
      return digest(result, ...['hidden', 'weight', 'bias'].map((name) => read(gradient[name], host[name])))
    }`,
  'an output layer whose labels are in device memory, prepared': `
    const [hidden, weight, labels] = ['hidden', 'weight', 'labels'].map((name) => there(host[name]))
    const layer = [{ data: hidden, shape: [B, T, D] }, { data: weight, shape: [V, D] }, labels]
    const operation = keeping((keep) => {
      const gradient = { hidden: keep(there(host.hidden)), weight: keep(there(host.weight)) }
      const step = keep(cuda.prepareFusedLinearPreferenceLoss(...layer, { lossType: 'cpo', gradient }))
      step.enqueue()
      return digest(step.read(), read(gradient.hidden, host.hidden), read(gradient.weight, host.weight))
    })`,
  'a prepared call': `
    const logits = there(host.logits)
    const operation = keeping((keep) => {
      const gradient = keep(new DeviceBuffer(host.logits.byteLength))
      const stream = keep(new Stream())
      const step = keep(prepareFusedPreferenceLoss({ data: logits, shape }, host.labels, { shift: false, lossType: 'cpo', gradient, stream }))
      step.enqueue()
      return digest(step.read(), read(gradient, host.logits))
    })`,
  'a graph': `
    const logits = there(host.logits)
    const operation = keeping((keep) => {
      const stream = keep(new Stream())
      const gradient = keep(new DeviceBuffer(host.logits.byteLength))
      const step = keep(prepareFusedPreferenceLoss({ data: logits, shape }, host.labels, { shift: false, lossType: 'cpo', gradient }))
      const graph = keep(stream.capture(() => step.enqueue(stream)))
      for (let i = 0; i < 2; i++) graph.launch(stream)
      return digest(step.read(stream), read(gradient, host.logits))
    })`,
  'streams, events and copies': `
    const operation = keeping((keep) => {
      const [stream, other] = [keep(new Stream()), keep(new Stream())]
      const [start, end] = [keep(new Event()), keep(new Event())]
      const [first, second] = [keep(new DeviceBuffer(host.logits.byteLength)), keep(new DeviceBuffer(host.logits.byteLength))]
      start.record(stream)
      first.copyFrom(host.logits, { stream })
      first.slice(0, 64).fill(0, { stream })
      end.record(stream)
      other.wait(end)
      second.copyFrom(first, { stream: other })
      other.synchronizeSync()
      if (!(start.millisecondsTo(end) >= 0)) throw new Error('no time has passed')
      return digest(read(second, host.logits))
    })`,
  'promises, and a signal': `
    const logits = there(host.logits)
    const options = { shift: false, lossType: 'cpo', signal: new AbortController().signal }
    const operation = keeping(async (keep) => {
      const gradient = keep(new DeviceBuffer(host.logits.byteLength))
      const first = await fpl.fusedPreferenceLoss({ data: logits, shape }, host.labels, { ...options, gradient })
      const second = await fpl.fusedPreferenceLoss({ data: host.logits, shape }, host.labels, { ...options, backend: 'cuda', gradient: true })
      const copy = new Float32Array(host.logits.length)
      await gradient.copyToAsync(copy)
      return digest(first, copy, second)
    })`,
  'log-probs of a reference in device memory': `
    const [logits, labels] = [there(host.logits), there(host.labels)]
    const reference = { logProbs: there(Float32Array.of(-20, -21.5, -22, -19)) }
    const gradient = new DeviceBuffer(host.logits.byteLength)
    const operation = () => {
      const result = fusedPreferenceLossSync({ data: logits, shape }, labels, { reference, ldAlpha: 0.5, gradient })
      return digest(result, read(gradient, host.logits))
    }`,
  'log-probs in device memory, prepared': `
    const values = { chosen: [-1, -2], rejected: [-3, -1], referenceChosen: [-2, -2], referenceRejected: [-2, -3] }
    const operation = keeping((keep) => {
      const logProbs = {}
      for (const name of Object.keys(values)) logProbs[name] = keep(there(Float64Array.from(values[name])))
      const step = keep(cuda.preparePreferenceLoss(logProbs))
      step.enqueue()
      return digest(step.read())
    })`,
  'memory that is given back, and trimmed': `
    const operation = keeping((keep) => {
      const stream = keep(new Stream())
      const first = new DeviceBuffer(host.logits.byteLength)
      first.copyFrom(host.logits, { stream })
      const second = keep(new DeviceBuffer(host.logits.byteLength))
      second.copyFrom(first, { stream })
      first.dispose()
      cuda.trimMemory()
      return digest(read(second, host.logits))
    })`,
  'a shared vocabulary': `
    const { ncclCommunicator } = await import(new URL('../distributed/nccl/index.mjs', cudaUrl).href)
    const alone = {
      rank: 0, size: 1, async barrier() {}, abort() {}, async allReduceSum() {}, async allGather(send, receive) { receive.set(send) } }
    const logits = there(host.logits)
    const operation = keeping(async (keep) => {
      const communicator = keep(await ncclCommunicator(alone))
      const gradient = keep(new DeviceBuffer(host.logits.byteLength))
      const result = await fpl.fusedPreferenceLoss({ data: logits, shape }, host.labels, {
        shift: false, lossType: 'cpo', gradient, shard: { start: 0, vocab: V }, communicator })
      return digest(result, read(gradient, host.logits))
    })`,
}

interface Found {
  number: number
  name: string
  code?: string
  message?: string
  result?: string
  next?: string
  left: number
}

/** What a program tells that may use the names of SWEEP. */
function swept(program: string): unknown {
  const folder = mkdtempSync(join(tmpdir(), 'fpl-failures-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const [failed, held] = ['failed', 'held'].map((name) => join(folder, name))
  for (const file of [failed, held]) writeFileSync(file, '')
  return cudaProcess(SWEEP + program, { FPL_HOST_FAILED: failed, FPL_HOST_HELD: held })
}

describe.runIf(onHost && CUDA.length > 0).each([
  ['after another one', true],
  ['before any other one', false],
])('where a call fails once, %s,', (_, isWarm) => {
  it.each(Object.keys(OPERATIONS))('%s fails with a code, leaves nothing, and the next one is right', (name) => {
    const told = swept(`
      getBackends().cuda.cublasLt
      ${OPERATIONS[name]}
      tell({ ...await sweep(operation, ${isWarm}), untouched: digest(host) === inputs })`)
    const { found, ...end } = told as { found: Found[]; last: string; wanted: string; left: number; untouched: boolean }
    expect(found.length).toBeGreaterThan(10)
    expect(end).toEqual({ last: end.wanted, wanted: expect.any(String), left: 0, untouched: true })
    for (const { next, ...each } of found) {
      // Or it has noticed nothing, and done what it should.
      if (each.message) expect(each).toMatchObject({ code: expect.stringMatching(/^ERR_(CUDA|NCCL)$/) })
      else expect(each).toMatchObject({ result: end.wanted })
      expect(each).toMatchObject({ left: 0 })
      if (isWarm) expect({ ...each, next }).toMatchObject({ next: end.wanted })
    }
  })
})

describe.runIf(onHost && CUDA.length > 0)('where a call fails once', () => {
  it('a pool of memory is not opened, and nothing of it is left', () => {
    const found = swept(`
      getBackends().cuda.available
      const found = []
      for (let number = 1; number < 100; number++) {
        const { code } = await attempt(() => new DeviceBuffer(8).dispose(), number)
        const [name] = attempt.failed
        if (name === 'cudaMallocFromPoolAsync') break
        found.push({ name, code, left: held() })
      }
      new DeviceBuffer(8).dispose()
      tell(found)`) as Pick<Found, 'name' | 'code' | 'left'>[]
    const opening = found.slice(found.findIndex(({ name }) => name === 'cudaDeviceGetAttribute'))
    const steps = ['StreamCreateWithFlags', 'StreamCreateWithFlags', 'EventCreateWithFlags', 'MemPoolCreate']
    expect(opening.map(({ name }) => name)).toEqual(
      ['DeviceGetAttribute', ...steps, 'MemPoolSetAttribute', 'MemPoolSetAttribute'].map((step) => `cuda${step}`),
    )
    for (const each of found) expect(each).toEqual({ ...each, code: 'ERR_CUDA', left: 0 })
  })
})
