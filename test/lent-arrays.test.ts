/**
 * Arrays that the caller transfers while a call uses them, to a receiver that drops them at once, and arrays whose
 * memory moves. The process survives and the call reports the transfer. Child processes use dist.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { loadNative } from '../lib/backends/cpu/index.js'
import { sequenceLogProbs, sequenceLogProbsSync } from '../lib/index.js'
import { CUDA, DIST } from './support.js'

const execute = promisify(execFile)

/** Only the type libraries of browsers declare it. */
const { WebAssembly } = globalThis as unknown as {
  WebAssembly: {
    Memory: new (options: {
      initial: number
      maximum: number
      shared?: boolean
    }) => { readonly buffer: ArrayBuffer; grow(pages: number): number }
  }
}

const HEAD = `
  import * as fpl from ${JSON.stringify(DIST.href)}
  const backend = process.argv.at(-1)
  const turn = () => new Promise((resolve) => setImmediate(resolve))
  const [rows, vocab, width] = backend === 'cuda' ? [20, 5000, 8] : [200, 20_000, 64]
  const array = (...shape) => new Float32Array(shape.reduce((a, b) => a * b)).fill(0.25)
  const labels = new Int32Array(2 * rows).fill(3)
  const options = { shift: false, threads: 1, backend, outputs: ['tokenEntropies'] }
  const WAYS = {
    clone: (buffer) => structuredClone(buffer, { transfer: [buffer] }),
    port: (buffer) => {
      const { port1, port2 } = new MessageChannel()
      port1.postMessage(buffer, [buffer])
      port1.close()
      port2.close()
    },
    transfer: (buffer) => buffer.transfer?.() ?? structuredClone(buffer, { transfer: [buffer] }),
  }
  // Keeps the thread of all backends busy until the function it returns is called: calls made meanwhile have to wait.
  function busy() {
    const stop = new AbortController()
    const logits = { data: new Float32Array(1e6), shape: [1, 400_000, 1e6], strides: [0, 0, 1] }
    const settings = { shift: false, threads: 1, backend: 'cpu', signal: stop.signal }
    fpl.sequenceLogProbs(logits, new Int32Array(400_000), settings).catch(() => {})
    return () => stop.abort()
  }
  // Whoever has the memory now lets go of it.
  async function drop() {
    for (let i = 0; i < 3; i++) { gc(); await turn() }
  }
`

async function child(body: string, backend = 'cpu'): Promise<unknown> {
  const flags = ['--expose-gc', '--input-type=module', '-e', HEAD + body, backend]
  // Memory of that size goes back to the system when it is freed, and cannot be read any more.
  const env = { ...process.env, MALLOC_MMAP_THRESHOLD_: '65536' }
  const { stdout } = await execute(process.execPath, flags, { env })
  return JSON.parse(stdout)
}

const native = loadNative()
const held = 'addon' in native && native.addon.holdsMemory
const major = Number(process.versions.node.split('.')[0])
const known = process.platform === 'linux' && process.arch === 'x64' && [20, 22, 24, 26].includes(major)

test('memory in use is held where that has been tried', () => {
  expect(held).toBe(known)
})

describe.skipIf(!held).each(['cpu', ...CUDA.map(({ name }) => name)])('%s: memory in use is held', (backend) => {
  /** The arrays of a call, each under its name in errors, and the call. */
  const CALLS = {
    fusedPreferenceLoss: `
      const shape = [2, rows, vocab]
      const arrays = {
        'logits.data': array(...shape), 'options.reference.logits.data': array(...shape), 'options.gradient': array(...shape),
      }
      const [logits, reference, gradient] = Object.values(arrays)
      const call = () => fpl.fusedPreferenceLoss({ data: logits, shape }, labels, {
        ...options, reference: { logits: { data: reference, shape } }, gradient,
      })`,
    sequenceLogProbs: `
      const shape = [2, rows, vocab]
      const arrays = { 'logits.data': array(...shape) }
      const [data] = Object.values(arrays)
      const call = () => fpl.sequenceLogProbs({ data, shape }, labels, options)`,
    linearSequenceLogProbs: `
      const arrays = { 'hidden.data': array(2, rows, width), 'weight.data': array(vocab, width), 'options.bias': array(vocab) }
      const [hidden, weight, bias] = Object.values(arrays)
      const call = () => fpl.linearSequenceLogProbs(
        { data: hidden, shape: [2, rows, width] }, { data: weight, shape: [vocab, width] }, labels, { ...options, bias })`,
    fusedLinearPreferenceLoss: `
      const of = (name) => ({
        [name('hidden.data')]: array(2, rows, width), [name('weight.data')]: array(vocab, width), [name('bias')]: array(vocab),
      })
      const arrays = {
        ...of((name) => (name === 'bias' ? 'options.bias' : name)),
        ...of((name) => 'options.reference.' + name),
        'options.gradient.hidden': array(2, rows, width),
        'options.gradient.weight': array(vocab, width),
        'options.gradient.bias': array(vocab),
      }
      const [hidden, weight, bias, hidden2, weight2, bias2, ...gradients] = Object.values(arrays)
      const layer = (hidden, weight) =>
        [{ data: hidden, shape: [2, rows, width] }, { data: weight, shape: [vocab, width] }]
      const [h2, w2] = layer(hidden2, weight2)
      const call = () => fpl.fusedLinearPreferenceLoss(...layer(hidden, weight), labels, {
        ...options, bias, reference: { hidden: h2, weight: w2, bias: bias2 },
        gradient: { hidden: gradients[0], weight: gradients[1], bias: gradients[2] },
      })`,
  }

  test.each(Object.entries(CALLS))('%s', async (_, code) => {
    const body = `
      async function one(name, way) {
        ${code}
        if (name === undefined) return Object.keys(arrays)
        const free = busy()
        const outcome = call().then(() => 'fulfilled', ({ code, message }) => code + ' ' + message.split(' ')[0])
        WAYS[way](arrays[name].buffer)
        return { outcome, free }
      }
      const outcomes = {}
      const names = await one()
      // Each array one way, a single one all ways.
      const ways = Object.keys(WAYS)
      const tries = names.length > 1 ? names.map((name, i) => [name, ways[i % 3]]) : ways.map((way) => [names[0], way])
      for (const [name, way] of tries) {
        const { outcome, free } = await one(name, way)
        await drop()
        free()
        outcomes[name + ', ' + way] = await outcome
      }
      console.log(JSON.stringify({ names, outcomes }))`
    const { names, outcomes } = (await child(body, backend)) as { names: string[]; outcomes: Record<string, string> }
    expect(names.length).toBeGreaterThan(0)
    expect(Object.keys(outcomes).length).toBe(Math.max(names.length, 3))
    for (const [what, outcome] of Object.entries(outcomes)) {
      expect([what, outcome]).toEqual([what, `ERR_INVALID_ARG_VALUE ${what.split(',')[0]}`])
    }
  })
})

describe.skipIf(!held || CUDA.length === 0)('copies to and from a GPU', () => {
  test('memory in use is held', async () => {
    const body = `
      const { DeviceBuffer } = await import(${JSON.stringify(new URL('cuda/index.mjs', DIST).href)})
      const memory = new DeviceBuffer(2 ** 24)
      for (const way of Object.values(WAYS)) {
        for (const copy of ['copyFromAsync', 'copyToAsync']) {
          const free = busy()
          let data = array(2 ** 20)
          const running = memory[copy](data)
          way(data.buffer)
          data = undefined
          await drop()
          free()
          await running
        }
      }
      console.log('"done"')`
    expect(await child(body)).toBe('done')
  })
})

describe.skipIf(!held)('memory that was held', () => {
  test.each(['before', 'after'])('is let go of when its call is over, its owner having dropped it %s', async (when) => {
    const body = `
      const length = 2 * rows * vocab
      const shape = [2, rows, vocab]
      async function one() {
        const data = new Float32Array(length).fill(1)
        const free = busy()
        const outcome = fpl.sequenceLogProbs({ data, shape }, labels, options).catch(() => {})
        return { outcome, free, owner: WAYS.clone(data.buffer) }
      }
      for (let i = 0; i < 40; i++) {
        const call = await one()
        if (${when === 'before'}) call.owner = undefined
        await drop()
        call.free()
        await call.outcome
      }
      await drop()
      console.log(JSON.stringify(process.memoryUsage().rss))`
    // All together were 1.3 GB.
    expect(await child(body)).toBeLessThan(4e8)
  })

  test('is let go of when a worker is terminated in mid-call', async () => {
    const worker = `${HEAD}
      import { parentPort } from 'node:worker_threads'
      const data = new Float32Array(2 * 200 * vocab).fill(1)
      const logits = { data, shape: [2, 200, vocab], strides: [200 * vocab, vocab, 1] }
      for (let i = 0; i < 5; i++) fpl.sequenceLogProbs(logits, new Int32Array(400), options)
      parentPort.postMessage('begun')`
    const body = `
      const { Worker } = await import('node:worker_threads')
      const url = new URL('data:text/javascript,' + encodeURIComponent(${JSON.stringify(worker)}))
      for (let i = 0; i < 20; i++) {
        const worker = new Worker(url, { argv: ['cpu'] })
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
        await worker.terminate()
      }
      await drop()
      console.log(JSON.stringify(process.memoryUsage().rss))`
    // 80 MB each, 1.6 GB together.
    expect(await child(body)).toBeLessThan(6e8)
  })
})

describe('memory that cannot be taken away', () => {
  const [rows, vocab] = [100, 5000]
  const labels = new Int32Array(2 * rows).fill(3)
  const fill = (data: Float32Array) => {
    for (let i = 0; i < data.length; i++) data[i] = (i % 13) / 4
    return data
  }
  const length = 2 * rows * vocab
  const wanted = sequenceLogProbsSync(
    { data: fill(new Float32Array(length)), shape: [2, rows, vocab] },
    labels,
  ).logProbs

  test('a SharedArrayBuffer: no transfer list takes it', async () => {
    const data = fill(new Float32Array(new SharedArrayBuffer(4 * length)))
    const running = sequenceLogProbs({ data, shape: [2, rows, vocab] }, labels)
    expect(() => structuredClone(data.buffer, { transfer: [data.buffer as unknown as ArrayBuffer] })).toThrow()
    expect((await running).logProbs).toEqual(wanted)
  })

  test('shared memory of WebAssembly: it may grow', async () => {
    const pages = Math.ceil((4 * length) / 65536)
    const memory = new WebAssembly.Memory({ initial: pages, maximum: 2 * pages, shared: true })
    const data = fill(new Float32Array(memory.buffer, 0, length))
    const running = sequenceLogProbs({ data, shape: [2, rows, vocab] }, labels)
    memory.grow(pages)
    expect((await running).logProbs).toEqual(wanted)
  })

  test('resizable and growable memory is refused', async () => {
    const make = [
      new (ArrayBuffer as unknown as new (n: number, o: object) => ArrayBuffer)(4 * length, {
        maxByteLength: 8 * length,
      }),
      new (SharedArrayBuffer as unknown as new (n: number, o: object) => SharedArrayBuffer)(4 * length, {
        maxByteLength: 8 * length,
      }),
    ]
    for (const buffer of make) {
      const logits = { data: new Float32Array(buffer), shape: [2, rows, vocab] }
      await expect(sequenceLogProbs(logits, labels)).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_VALUE' })
      expect(() => sequenceLogProbsSync(logits, labels)).toThrow('resizable')
    }
  })
})

describe('memory of WebAssembly that grows in mid-call', () => {
  test('is an error, not a crash', async () => {
    const pages = Math.ceil((4 * 2 * 100 * 5000) / 65536)
    const memory = new WebAssembly.Memory({ initial: pages, maximum: 4 * pages })
    const data = new Float32Array(memory.buffer, 0, 2 * 100 * 5000)
    const running = sequenceLogProbs({ data, shape: [2, 100, 5000] }, new Int32Array(200))
    memory.grow(pages)
    await expect(running).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_VALUE' })
  })

  test.skipIf(!held)('not even when it is dropped then', async () => {
    const body = `
      const outcomes = []
      for (let i = 0; i < 5; i++) {
        let memory = new WebAssembly.Memory({ initial: 1300, maximum: 2600 })
        const data = new Float32Array(memory.buffer, 0, 2 * rows * vocab)
        const free = busy()
        const call = fpl.sequenceLogProbs({ data, shape: [2, rows, vocab] }, labels, options)
        const outcome = call.then(() => 'fulfilled', ({ code }) => code)
        memory.grow(100)
        memory = undefined
        await drop()
        free()
        outcomes.push(await outcome)
      }
      console.log(JSON.stringify(outcomes))`
    expect(await child(body)).toEqual(Array(5).fill('ERR_INVALID_ARG_VALUE'))
  })
})
