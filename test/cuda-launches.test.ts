/** How many kernels a call launches, in which order, and that the counters through which blocks meet are left at 0. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { cudaProcess } from './cuda-process.js'
import { TESTS_GPU } from './platform.js'
import { CUDA } from './support.js'

const onHost = CUDA.length > 0 && !TESTS_GPU

/** Runs a program on the host; what it tells, and the stages of its launches. */
function launchesOf(program: string): { told: unknown; stages: string[] } {
  const folder = mkdtempSync(join(tmpdir(), 'launches-'))
  try {
    const file = join(folder, 'launches')
    const told = cudaProcess(program, { FPL_HOST_LAUNCHES: file })
    return { told, stages: readFileSync(file, 'utf8').trim().split('\n') }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Calls on device memory; with `copies` of the four sequences, rows are not split. */
const CALLS = `
  const of = (copies) => {
    const times = (array) => Float32Array.from({ length: copies * array.length }, (_, i) => array[i % array.length])
    const each = (values) => Array.from({ length: copies * values.length }, (_, i) => values[i % values.length])
    return {
      logits: { data: there(times(host.logits)), dtype: 'float32', shape: [copies * B, T, V] },
      other: { data: there(times(host.reference)), dtype: 'float32', shape: [copies * B, T, V] },
      labels: Int32Array.from(each(host.labels)),
      mask: Uint8Array.from(each(host.mask)),
      desirable: each([true, false, true, true]),
      logProbs: { chosen: Array(2 * copies).fill(-20), rejected: Array(2 * copies).fill(-21) },
    }
  }
`

const LOSS = ['token log-probs', 'preference loss']

describe.runIf(onHost)('the launches of a call', () => {
  for (const [rows, copies] of [
    ['rows that are split', 1],
    ['rows that are not', 6],
  ] as const) {
    describe(rows, () => {
      it.each([
        ['a loss', `fusedPreferenceLossSync(c.logits, c.labels, { reference: c.logProbs })`, LOSS],
        [
          'a loss with its gradient',
          `fusedPreferenceLossSync(c.logits, c.labels, { reference: c.logProbs, gradient: true, mask: c.mask })`,
          [...LOSS, 'logits gradient'],
        ],
        [
          'a loss with the reference’s logits',
          `fusedPreferenceLossSync(c.logits, c.labels, { reference: { logits: c.other }, gradient: true })`,
          ['token log-probs', ...LOSS, 'logits gradient'],
        ],
        [
          'labels on the device',
          `fusedPreferenceLossSync(c.logits, there(c.labels), { reference: c.logProbs, gradient: true })`,
          ['targets', 'targets', ...LOSS, 'logits gradient'],
        ],
        [
          'a loss of single sequences',
          `fpl.fusedUnpairedPreferenceLossSync(c.logits, c.labels, {
            desirable: c.desirable, reference: { logProbs: Array(c.desirable.length).fill(-20) }, kl: 0.1, gradient: true,
          })`,
          ['token log-probs', 'unpaired preference loss', 'logits gradient'],
        ],
        ['log-probs', `sequenceLogProbsSync(c.logits, c.labels)`, ['token log-probs', 'sequence sums']],
        [
          'a loss of log-probs',
          `fpl.preferenceLossSync(c.logProbs, { backend: 'cuda', lossType: 'cpo' })`,
          ['preference loss'],
        ],
      ])('%s', (_, call, stages) => {
        expect(launchesOf(`${CALLS} const c = of(${copies}); ${call}; tell(0)`).stages).toEqual(stages)
      })

      it('are the same each time, prepared and in a graph, and so are their bits', () => {
        const { told, stages } = launchesOf(`${CALLS}
          const c = of(${copies})
          const out = new DeviceBuffer(c.logits.data.byteLength)
          const stream = new Stream()
          const step = prepareFusedPreferenceLoss(c.logits, c.labels, { reference: c.logProbs, gradient: out })
          const bits = () => {
            const { loss } = step.read(stream)
            return [loss, Buffer.from(read(out, new Float32Array(out.byteLength / 4)).buffer).toString('base64').slice(0, 4000)]
          }
          const results = []
          for (let i = 0; i < 3; i++) {
            step.enqueue(stream)
            results.push(bits())
          }
          const graph = stream.capture(() => { step.enqueue(stream); step.enqueue(stream) })
          graph.launch(stream)
          graph.launch(stream)
          results.push(bits())
          const direct = fusedPreferenceLossSync(c.logits, c.labels, { reference: c.logProbs, gradient: true })
          tell({ results, loss: direct.loss })
        `)
        const { results, loss } = told as { results: unknown[][]; loss: number }
        expect(loss).toBeGreaterThan(0)
        for (const result of results) expect(result).toEqual(results[0])
        expect(results[0][0]).toBe(loss)
        expect(stages).toEqual(
          Array(3 + 4 + 1)
            .fill([...LOSS, 'logits gradient'])
            .flat(),
        )
      })
    })
  }

  it('sums sequences of several blocks, whatever their lengths', () => {
    const { told, stages } = launchesOf(`
      const offsets = Int32Array.of(0, 1, 601, 1113, 1114, 1370, 1371)
      const rows = 1371
      const data = fill(rows * 9, 4, 1.7)
      const labels = Int32Array.from({ length: rows }, (_, i) => (i % 7 === 3 || (i > 300 && i < 580) ? -100 : i % 9))
      const call = (data, backend) => {
        const options = { sequenceOffsets: offsets, shift: false, backend, outputs: ['tokenLogProbs', 'tokenEntropies', 'tokenArgmax'], gradient: true }
        const reference = { logProbs: Array(6).fill(-20) }
        return fpl.fusedUnpairedPreferenceLossSync({ data, shape: [rows, 9] }, labels, {
          ...options, reference, kl: 0.1, desirable: [true, false, true, false, true, true],
        })
      }
      const onDevice = call(DeviceBuffer.from(data), 'cuda')
      const onHost = call(data, 'cpu')
      const names = ['tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'tokenCounts', 'logProbs']
      tell([onDevice, onHost].map((result) => [result.loss, ...names.map((name) => Array.from(result[name] ?? []))]))
    `)
    const [there, here] = (told as (number | number[])[][]).map((result) => result.flat())
    expect(there.length).toBe(1 + 3 * 1371 + 6 + 6)
    expect(there.length).toBe(here.length)
    // Twice the rounding of a float32.
    expect(Math.max(...there.map((x, i) => Math.abs(x - here[i]) / (1 + Math.abs(here[i]))))).toBeLessThan(2 ** -22)
    expect(stages).toEqual(['token log-probs', 'unpaired preference loss', 'logits gradient'])
  })

  it('a loss of single tokens', () => {
    const { stages } = launchesOf(`${CALLS}
      const c = of(6)
      fpl.crossEntropySync(c.logits, c.labels, { gradient: true, labelSmoothing: 0.1 })
      tell(0)
    `)
    // The gradient of a log-sum-exp makes the values of rows more work.
    expect(stages).toEqual(['token log-probs', 'token loss', 'logits gradient', 'logits gradient'])
  })

  it.each([
    [
      'a deferred scale',
      `fusedPreferenceLossSync(c.logits, c.labels, { reference: c.logProbs, gradient: true, deferredScale: true })`,
      [...LOSS.slice(1), 'logits gradient'],
    ],
    ['a cross-entropy', 'fpl.crossEntropySync(c.logits, c.labels, { gradient: true })', ['token loss']],
  ])('of rows that are read and written in one go, for %s', (_, call, others) => {
    const { stages } = launchesOf(`${CALLS} const c = of(6); ${call}; tell(0)`)
    expect(stages).toEqual(['log-probs and gradient', ...others])
  })
})
