/**
 * Promises whose process or worker ends while a call runs, and the memory of calls that are over. The programs use dist.
 */
import { execFile, fork } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import { afterAll, expect, test } from 'vitest'
import { preferenceLoss } from '../lib/index.js'
import { CUDA, DIST } from './support.js'

const scripts = mkdtempSync(join(tmpdir(), 'fused-preference-loss-'))
afterAll(() => rmSync(scripts, { recursive: true }))

/** A file with an ES module that has `dist` imported as `fpl`, and calls that take long, `long()` and `writing()`. */
function script(name: string, body: string): string {
  const path = join(scripts, `${name}.mjs`)
  const head = `
    import * as fpl from ${JSON.stringify(DIST.href)}
    const vocab = 50_000
    const call = (rows, more) => fpl.fusedPreferenceLoss(
      { data: new Float32Array(vocab), shape: [2, rows, vocab], strides: [0, 0, 1] },
      new Int32Array(2 * rows),
      { shift: false, lossType: 'cpo', threads: 2, ...more }
    )
    // The one only reads, the other mostly writes.
    const long = (more) => call(20_000, more)
    const writing = () => call(700, { gradient: true })
    const short = () => fpl.preferenceLoss({ chosen: [-1], rejected: [-2] }, { lossType: 'cpo' })
    // Its job tells of each group of rows that is finished.
    const nothing = async () => {}
    const alone = { rank: 0, size: 1, allReduceSum: nothing, barrier: nothing, abort: nothing }
    const telling = () => fpl.linearCrossEntropy(
      { data: new Float32Array(80_000), shape: [1, 10_000, 8] },
      { data: new Float32Array(80), shape: [10, 8] },
      new Int32Array(10_000),
      {
        communicator: { ...alone, allGather: async (send, receive) => receive.set(send) },
        shard: { start: 0, vocab: 10 },
        gradient: true,
      }
    )
    if (!fpl.getBackends().cpu.available) throw new Error(fpl.getBackends().cpu.reason)
  `
  writeFileSync(path, head + body)
  return path
}

const execute = promisify(execFile)

/** Exit code, signal and error output of a child. */
async function childExit(path: string): Promise<[number | null, NodeJS.Signals | null, string]> {
  const child = fork(path, { silent: true })
  let errors = ''
  child.stderr!.on('data', (chunk) => {
    errors += chunk
  })
  return new Promise((resolve) => child.on('close', (code, signal) => resolve([code, signal, errors])))
}

test('a process that exits in mid-call exits with its code and no signal', async () => {
  const path = script('exit', `long(); writing(); setTimeout(() => process.exit(0), 30)`)
  for (let i = 0; i < 3; i++) expect(await childExit(path)).toEqual([0, null, ''])
  const write = script('exit-writing', `writing(); setTimeout(() => process.exit(0), 40 * Math.random())`)
  for (let i = 0; i < 5; i++) expect(await childExit(write)).toEqual([0, null, ''])
  const at = script('exit-at-once', `long(); process.exit(0)`)
  expect(await childExit(at)).toEqual([0, null, ''])
  const queued = script('exit-queued', `for (let i = 0; i < 5; i++) long(); setTimeout(() => process.exit(7), 30)`)
  expect(await childExit(queued)).toEqual([7, null, ''])
})

test('a process whose only work is a call stays until it is done, and then ends', async () => {
  const path = script('stay', `long().then(({ losses }) => { console.error('loss', losses.length) })`)
  expect(await childExit(path)).toEqual([0, null, 'loss 1\n'])
  const cancelled = script(
    'cancelled',
    `const controller = new AbortController()
      long(); long({ signal: controller.signal }).catch((error) => console.error(error.message))
      setTimeout(() => controller.abort(new Error('enough')), 10)`,
  )
  expect(await childExit(cancelled)).toEqual([0, null, 'enough\n'])
})

test('an exception in mid-call is the process that reports it', async () => {
  const path = script('throw', `long(); setTimeout(() => { throw new Error('on purpose') }, 20)`)
  const [code, signal, errors] = await childExit(path)
  expect([code, signal]).toEqual([1, null])
  expect(errors).toContain('on purpose')
})

test.skipIf(process.platform !== 'linux')(
  'a system without a thread to give: an error, and the sync form',
  async () => {
    const path = script(
      'no-threads',
      `import { execFileSync } from 'node:child_process'
      // All is loaded before: nobody may read the folder of the package.
      const hasCuda = fpl.getBackends().cuda.available
      const { DeviceBuffer } = await import(${JSON.stringify(new URL('cuda/index.mjs', DIST).href)})
      execFileSync('prlimit', ['--pid', String(process.pid), '--nproc=1:1'])
      if (process.getuid() === 0) process.setuid(65534) // root has no limit
      const logits = { data: new Float32Array(2 * 4 * 20_000), shape: [2, 4, 20_000] }
      const options = { lossType: 'cpo', threads: 4 }
      let error
      try { await fpl.fusedPreferenceLoss(logits, new Int32Array(8), options) } catch (caught) { error = caught }
      const { losses } = fpl.fusedPreferenceLossSync(logits, new Int32Array(8), options)
      console.error(error instanceof Error, losses.length)
      if (!hasCuda) process.exit()
      const memory = new DeviceBuffer(4)
      await memory.copyFromAsync(new Float32Array(1)).catch((caught) => console.error(caught instanceof Error))`,
    )
    expect(await childExit(path)).toEqual([0, null, `true 1\n${CUDA.length > 0 ? 'true\n' : ''}`])
  },
)

test('arrays in use are not collected', async () => {
  const path = script(
    'collect',
    `const options = { shift: false, lossType: 'cpo', threads: 2 }
      const results = []
      function example(i) {
        const data = new Float32Array(2 * 20 * 5000).map((_, k) => (k * (i + 3)) % 11)
        const labels = new Int32Array(40).fill(i)
        return fpl.fusedPreferenceLoss({ data, shape: [2, 20, 5000] }, labels, { ...options, gradient: i % 2 ? true : 'in-place' })
      }
      for (let i = 0; i < 60; i++) { results.push(example(i)); if (i % 5 === 0) gc() }
      const timer = setInterval(() => { gc(); new Float32Array(1e6).fill(i++) }, 1)
      let i = 0
      const all = await Promise.all(results)
      clearInterval(timer)
      for (const [k, { losses, gradLogits }] of all.entries()) {
        const data = new Float32Array(2 * 20 * 5000).map((_, n) => (n * (k + 3)) % 11)
        const sync = fpl.fusedPreferenceLossSync({ data, shape: [2, 20, 5000] }, new Int32Array(40).fill(k), { ...options, gradient: true })
        if (losses[0] !== sync.losses[0]) throw new Error('loss ' + k)
        for (let n = 0; n < data.length; n++) {
          if (gradLogits.data[n] !== sync.gradLogits.data[n]) throw new Error('gradient ' + k)
        }
      }
      console.log('ok')`,
  )
  const { stdout } = await execute(process.execPath, ['--expose-gc', path])
  expect(stdout).toBe('ok\n')
})

test('what a settled call used is collected', async () => {
  const path = script(
    'release',
    `const used = []
      for (let i = 0; i < 10; i++) {
        const data = new Float32Array(2 * 10 * 5000)
        used.push(new WeakRef(data))
        const controller = new AbortController()
        const running = fpl.sequenceLogProbs({ data, shape: [2, 10, 5000] }, new Int32Array(20), { signal: controller.signal })
        if (i % 2) controller.abort()
        await running.catch(() => {})
      }
      for (let i = 0; i < 5; i++) { await new Promise((resolve) => setTimeout(resolve, 5)); gc() }
      console.log(used.filter((ref) => ref.deref() !== undefined).length)`,
  )
  const { stdout } = await execute(process.execPath, ['--expose-gc', path])
  // The last one may still be on the stack.
  expect(Number(stdout)).toBeLessThanOrEqual(1)
})

test('workers load, call and are terminated in mid-call', async () => {
  const path = script(
    'worker',
    `import { parentPort } from 'node:worker_threads'
      const { loss } = await short()
      writing(); long(); long()
      parentPort.postMessage(loss)`,
  )
  for (let i = 0; i < 20; i++) {
    const worker = new Worker(path)
    const loss = await new Promise((resolve, reject) => {
      worker.once('message', resolve)
      worker.once('error', reject)
    })
    expect(loss).toBeCloseTo(Math.log1p(Math.exp(-0.1)), 12)
    if (i % 4) await wait(i)
    expect(await worker.terminate()).toBe(1)
  }
  // And the main thread works as before.
  expect((await preferenceLoss({ chosen: [-1], rejected: [-2] }, { lossType: 'cpo' })).margin).toBeCloseTo(0.1, 12)
})

test('workers are terminated while their calls settle', async () => {
  const path = script(
    'settling-worker',
    `import { parentPort } from 'node:worker_threads'
      parentPort.postMessage('begun')
      for (;;) await Promise.all([telling(), ...Array.from({ length: 30 }, short)])`,
  )
  const parent = script(
    'terminator',
    `import { Worker } from 'node:worker_threads'
      for (let i = 0; i < 60; i++) {
        const worker = new Worker(${JSON.stringify(path)})
        await new Promise((resolve) => worker.once('message', resolve))
        await new Promise((resolve) => setTimeout(resolve, i % 4))
        await worker.terminate()
      }`,
  )
  expect(await childExit(parent)).toEqual([0, null, ''])
})

test('a process that ends while its workers call ends with its code', async () => {
  const worker = script(
    'busy-worker',
    `import { parentPort } from 'node:worker_threads'\nlong(); parentPort.postMessage(0)`,
  )
  const path = script(
    'parent',
    `import { Worker } from 'node:worker_threads'
      const workers = Array.from({ length: 3 }, () => new Worker(${JSON.stringify(worker)}))
      long()
      await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))))
      process.exit(0)`,
  )
  for (let i = 0; i < 3; i++) expect(await childExit(path)).toEqual([0, null, ''])
})

test('a worker whose call is done ends by itself', async () => {
  const path = script(
    'quiet-worker',
    `import { parentPort } from 'node:worker_threads'\nparentPort.postMessage((await long()).losses)`,
  )
  const worker = new Worker(path)
  const losses = new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  const code = new Promise((resolve) => worker.once('exit', resolve))
  expect(await losses).toHaveLength(1)
  expect(await code).toBe(0)
})
