/**
 * A neighbour that leaves the thread in another floating-point environment changes no bit of a native result: here an
 * onnxruntime session that makes the thread flush subnormal numbers to zero. Each test runs in its own process, because
 * the thread keeps that setting.
 */
import { spawnSync } from 'node:child_process'
import { beforeAll, describe, expect, test } from 'vitest'
import { CUDA, DIST, NATIVE } from './support.js'

const MODEL = new URL('../scripts/onnx-model.mjs', import.meta.url)
const ORT = import.meta.resolve('onnxruntime-node')
const TARGETS = [...NATIVE, ...CUDA]

interface Seen {
  /** Whether JavaScript's own 2^-1022 / 4 is 0. */
  flushes: boolean
  /** Hashes by target and number of threads or form, and how many numbers of a gradient are subnormal. */
  hashes: Record<string, string>
  subnormal: number
}

/** The findings of a fresh process, with such a session or without one. */
function inProcess(withSession: boolean): Seen {
  const source = `
    import { createHash } from 'node:crypto'
    import { fusedPreferenceLoss, fusedPreferenceLossSync, preferenceLossSync } from ${JSON.stringify(DIST.href)}
    if (${withSession}) {
      const { InferenceSession } = (await import(${JSON.stringify(ORT)})).default
      const { onnxModel } = await import(${JSON.stringify(MODEL.href)})
      const model = onnxModel({
        inputs: { x: 'float32' },
        outputs: { y: 'float32' },
        nodes: [{ type: 'Identity', inputs: ['x'], output: 'y' }],
      })
      await InferenceSession.create(model, { extra: { session: { set_denormal_as_zero: '1' } } })
    }
    const [rows, vocab] = [24, 3000]
    let state = 1
    const next = () => (state = (state * 48271) % 2147483647) / 2147483647
    // So wide that many probabilities are subnormal numbers of float32, in gradient or logit.
    const data = Float32Array.from({ length: 2 * rows * vocab }, () => 120 * next() - 60)
    const labels = Int32Array.from({ length: 2 * rows }, () => Math.floor(next() * vocab))
    const logits = { data, shape: [2, rows, vocab] }
    // As numbers of their bits: arithmetic on subnormals is what is in question here.
    const isSubnormal = (word) => (word & 0x7fffffff) > 0 && (word & 0x7f800000) === 0
    const hash = (...arrays) => {
      const sum = createHash('sha256')
      for (const array of arrays) sum.update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
      return sum.digest('hex')
    }
    const hashes = {}
    let subnormal = 0
    const note = (name, { losses, gradLogits, chosenLogProbs }) => {
      hashes[name] = hash(losses, gradLogits.data, chosenLogProbs)
      subnormal = Math.max(subnormal, new Uint32Array(gradLogits.data.buffer).filter(isSubnormal).length)
    }
    for (const [name, run] of ${JSON.stringify(TARGETS.map(({ name, run }) => [name, run]))}) {
      const options = { ...run, shift: false, reference: { chosen: [-1], rejected: [-2] }, gradient: true }
      for (const threads of [1, 2]) note(name + ', threads: ' + threads, fusedPreferenceLossSync(logits, labels, { ...options, threads }))
      note(name + ', promise', await fusedPreferenceLoss(logits, labels, options))
      // Slopes of e^-730: subnormal numbers of float64.
      const pairs = { chosen: [-1, -2], rejected: [-7301, -7302.5], referenceChosen: [0, 0], referenceRejected: [0, 0] }
      const values = preferenceLossSync(pairs, { ...run, beta: 0.1 })
      hashes[name + ', log-probs'] = hash(values.losses, values.gradLogProbs.chosen, values.chosenRewards)
    }
    console.log(JSON.stringify({ flushes: 2 ** -1022 / 4 === 0, hashes, subnormal }))`
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', source], { encoding: 'utf8' })
  if (child.status !== 0) throw new Error(`exit ${child.status} ${child.signal}: ${child.stderr}`)
  return JSON.parse(child.stdout)
}

describe('a thread on which a neighbour flushes subnormal numbers', () => {
  let clean: Seen
  let flushed: Seen
  beforeAll(() => {
    clean = inProcess(false)
    flushed = inProcess(true)
  })

  test('is what the session leaves, and stays so', () => {
    expect([clean.flushes, flushed.flushes]).toEqual([false, true])
  })

  test('the case has subnormal numbers to lose', () => {
    expect(clean.subnormal).toBeGreaterThan(500)
  })

  test.each(
    TARGETS.flatMap(({ name }) => ['threads: 1', 'threads: 2', 'promise', 'log-probs'].map((how) => `${name}, ${how}`)),
  )('%s: the bits of another process', (name) => {
    expect(clean.hashes[name]).toMatch(/^[0-9a-f]{64}$/)
    expect(flushed.hashes[name]).toBe(clean.hashes[name])
  })
})
