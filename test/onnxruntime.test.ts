/**
 * The onnxruntime adapter, on a small model built here: reference log-probs, the file they are kept in, and how it is
 * continued after an interruption or refused.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { readReferenceLogProbs, toLogits, writeReferenceLogProbs } from '../lib/adapters/onnxruntime.js'
import { sequenceLogProbsSync } from '../lib/index.js'
import { gaussian, random } from './support.js'

const { onnxModel, TYPES } = await import(new URL('../scripts/onnx-model.mjs', import.meta.url).href)
const [VOCAB, WIDTH, TIME, PAIRS] = [29, 5, 6, 2]

const next = random(3)
const normal = (length: number) => Float32Array.from({ length }, () => gaussian(next))
const table = normal(VOCAB * WIDTH)
const head = normal(WIDTH * VOCAB)

/** Logits of each token: a row of the table times the head. */
function modelOf(type: 'float32' | 'float16'): Buffer {
  return onnxModel({
    inputs: { input_ids: 'int64' },
    outputs: { logits: type },
    weights: { table: { shape: [VOCAB, WIDTH], data: table }, head: { shape: [WIDTH, VOCAB], data: head } },
    nodes: [
      { type: 'Gather', inputs: ['table', 'input_ids'], output: 'hidden' },
      { type: 'MatMul', inputs: ['hidden', 'head'], output: 'wide' },
      { type: 'Cast', inputs: ['wide'], output: 'logits', attributes: { to: TYPES[type] } },
    ],
  })
}

interface Batch {
  inputIds: Int32Array
  labels: Int32Array
  dims: number[]
  sequenceOffsets?: number[]
}

function batchesOf(count: number, seed = 7): Batch[] {
  const uniform = random(seed)
  return Array.from({ length: count }, () => {
    const inputIds = Int32Array.from({ length: 2 * PAIRS * TIME }, () => Math.floor(uniform() * VOCAB))
    const labels = inputIds.map((id, i) => (i % TIME < 2 ? -100 : id))
    return { inputIds, labels, dims: [2 * PAIRS, TIME] }
  })
}

/** The log-prob of a sequence, from the weights. */
function logProbOf({ inputIds, labels }: Batch, sequence: number): number {
  let total = 0
  for (let i = sequence * TIME; i < (sequence + 1) * TIME - 1; i++) {
    if (labels[i + 1] < 0) continue
    const row = Array.from({ length: VOCAB }, (_, v) => {
      let logit = 0
      for (let w = 0; w < WIDTH; w++) logit += table[inputIds[i] * WIDTH + w] * head[w * VOCAB + v]
      return logit
    })
    total += row[labels[i + 1]] - Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0))
  }
  return total
}

const sessions = {} as Record<'float32' | 'float16', InferenceSession>
let seen: Batch[] = []
const forwardOf = (type: 'float32' | 'float16') => async (batch: Batch) => {
  seen.push(batch)
  const ids = new Tensor('int64', BigInt64Array.from(batch.inputIds, BigInt), batch.dims)
  return (await sessions[type].run({ input_ids: ids })).logits
}
const forward = forwardOf('float32')

const folder = mkdtempSync(join(tmpdir(), 'reference-'))
let path: string
let files = 0
beforeAll(async () => {
  for (const type of ['float32', 'float16'] as const) sessions[type] = await InferenceSession.create(modelOf(type))
})
beforeEach(() => {
  path = join(folder, `${files++}.jsonl`)
  seen = []
})
afterAll(() => rmSync(folder, { recursive: true }))

/** What is thrown, and the file must be what it was. */
async function refusal(action: () => Promise<unknown>) {
  const before = readFileSync(path)
  const error = await action().catch((reason) => reason)
  expect(error).toBeInstanceOf(Error)
  expect(readFileSync(path).equals(before)).toBe(true)
  return error
}

describe('toLogits', () => {
  it.each(['float32', 'float16'] as const)(
    'gives %s outputs to the functions of the package, uncopied',
    async (type) => {
      const [batch] = batchesOf(1)
      const tensor = await forwardOf(type)(batch)
      const logits = toLogits(tensor)
      expect(logits).toEqual({ data: tensor.data, shape: [2 * PAIRS, TIME, VOCAB], dtype: type })
      expect(logits.data).toBe(tensor.data)
      const { logProbs } = sequenceLogProbsSync(logits, batch.labels)
      for (const [b, logProb] of logProbs.entries()) {
        expect(Math.abs(logProb - logProbOf(batch, b))).toBeLessThan(type === 'float32' ? 1e-4 : 2e-2)
      }
    },
  )

  it('takes whatever has the shape of a tensor, as those of transformers.js', () => {
    const data = new Float32Array(24)
    expect(toLogits({ type: 'float32', dims: [2, 3, 4], data })).toEqual({ data, shape: [2, 3, 4], dtype: 'float32' })
  })

  it.each([
    ['no tensor', undefined, 'ERR_INVALID_ARG_TYPE', /tensor/],
    ['another type', { type: 'int64', dims: [1], data: new BigInt64Array(1) }, 'ERR_INVALID_ARG_TYPE', /'int64'/],
    ['data of another type', { type: 'float16', dims: [1], data: new Float32Array(1) }, 'ERR_INVALID_ARG_TYPE', /data/],
    ['data on a GPU', { type: 'float32', dims: [1], location: 'gpu-buffer' }, 'ERR_BACKEND_UNAVAILABLE', /gpu-buffer/],
    ['a disposed tensor', { type: 'float32', dims: [1], location: 'none' }, 'ERR_DISPOSED', /disposed/],
  ])('refuses %s', (_, tensor, code, message) => {
    expect(() => toLogits(tensor as never)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    )
  })

  it('sees that a tensor of onnxruntime is disposed', () => {
    const tensor = new Tensor('float32', new Float32Array(2), [1, 1, 2])
    tensor.dispose()
    expect(() => toLogits(tensor)).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }))
  })
})

describe('writeReferenceLogProbs', () => {
  it('writes the log-probs of all pairs, in order, and tells how far it is', async () => {
    const batches = batchesOf(3)
    const progress: object[] = []
    const reference = await writeReferenceLogProbs(path, batches, forward, { onProgress: (p) => progress.push(p) })
    expect(reference.chosen).toHaveLength(3 * PAIRS)
    for (const [b, batch] of batches.entries()) {
      for (let p = 0; p < PAIRS; p++) {
        expect(reference.chosen[b * PAIRS + p]).toBeCloseTo(logProbOf(batch, p), 4)
        expect(reference.rejected[b * PAIRS + p]).toBeCloseTo(logProbOf(batch, PAIRS + p), 4)
      }
    }
    expect(progress).toEqual([1, 2, 3].map((n) => ({ batches: n, pairs: n * PAIRS, resumed: false })))
    expect(await readReferenceLogProbs(path)).toEqual(reference)
    const lines = readFileSync(path, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(lines).toHaveLength(5)
    expect(lines.at(-1)).toEqual({ complete: true, pairs: 3 * PAIRS })
  })

  it('takes packed sequences, of logits [1, tokens, vocab], and streams of batches', async () => {
    const batches = batchesOf(2)
    async function* packed() {
      for (const { inputIds, labels } of batches) {
        yield { inputIds, labels, dims: [1, inputIds.length], sequenceOffsets: [0, 6, 12, 18, 24] }
      }
    }
    const padded = await writeReferenceLogProbs(join(folder, 'padded.jsonl'), batches, forward)
    expect(await writeReferenceLogProbs(path, packed(), forward)).toEqual(padded)
  })

  it('goes on after an interruption, line cut short or not, and gives the same file', async () => {
    const batches = batchesOf(4)
    const whole = await writeReferenceLogProbs(path, batches, forward, { model: 'tiny' })
    const bytes = readFileSync(path)
    const ends = [...bytes.entries()].filter(([, byte]) => byte === 10).map(([i]) => i + 1)
    expect(ends).toHaveLength(6)
    for (const [cut, known] of [
      [0, 0],
      [10, 0],
      [ends[0], 0],
      [ends[2], 2],
      [ends[2] + 7, 2],
      [ends[4], 4],
    ]) {
      writeFileSync(path, bytes.subarray(0, cut))
      seen = []
      const resumed: boolean[] = []
      const onProgress = (p: { resumed: boolean }) => resumed.push(p.resumed)
      expect(await writeReferenceLogProbs(path, batches, forward, { model: 'tiny', onProgress })).toEqual(whole)
      expect(seen).toEqual(batches.slice(known))
      expect(resumed).toEqual(batches.map((_, i) => i < known))
      expect(readFileSync(path).equals(bytes)).toBe(true)
    }
  })

  it('keeps what it has when the model fails', async () => {
    const batches = batchesOf(3)
    const failing = (batch: Batch) => {
      if (batch === batches[2]) throw new Error('out of memory')
      return forward(batch)
    }
    await expect(writeReferenceLogProbs(path, batches, failing)).rejects.toThrow('out of memory')
    await expect(readReferenceLogProbs(path)).rejects.toThrow(
      expect.objectContaining({
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.stringMatching(/not complete.* 2 batches/),
      }),
    )
    seen = []
    const { chosen } = await writeReferenceLogProbs(path, batches, forward)
    expect(seen).toEqual([batches[2]])
    expect(chosen).toHaveLength(3 * PAIRS)
  })

  it('does nothing when all is there', async () => {
    const batches = batchesOf(2)
    const reference = await writeReferenceLogProbs(path, batches, forward)
    const bytes = readFileSync(path)
    seen = []
    expect(await writeReferenceLogProbs(path, batches, forward)).toEqual(reference)
    expect(seen).toEqual([])
    expect(readFileSync(path).equals(bytes)).toBe(true)
  })

  describe('refuses, and leaves the file alone,', () => {
    const code = 'ERR_INVALID_ARG_VALUE'
    const batches = batchesOf(3)
    const cut = async (lines: number) => {
      await writeReferenceLogProbs(path, batches, forward, { model: 'a' })
      writeFileSync(
        path,
        readFileSync(path, 'utf8')
          .split('\n')
          .slice(0, lines)
          .map((line) => `${line}\n`)
          .join(''),
      )
    }
    const again = (data: Batch[], options: object = {}) =>
      refusal(() => writeReferenceLogProbs(path, data, forward, { model: 'a', ...options }))

    it('other labels, or other prompts', async () => {
      await cut(3)
      const labels = [batches[0], { ...batches[1], labels: batches[1].labels.with(5, 3) }, batches[2]]
      expect(await again(labels)).toMatchObject({
        code,
        message: expect.stringMatching(/jsonl cannot be continued: batch 1/),
      })
      const prompts = [{ ...batches[0], inputIds: batches[0].inputIds.with(0, (batches[0].inputIds[0] + 1) % VOCAB) }]
      expect(await again(prompts)).toMatchObject({ code, message: expect.stringContaining('batch 0') })
    })

    it('less data, or more than a complete file has', async () => {
      await cut(3)
      expect(await again(batches.slice(0, 1))).toMatchObject({ code, message: expect.stringContaining('only 1') })
      await cut(5)
      expect(await again(batchesOf(4))).toMatchObject({ code, message: expect.stringContaining('batch 3') })
    })

    it('another model or other options', async () => {
      await cut(3)
      expect(await again(batches, { model: 'b' })).toMatchObject({
        code,
        message: expect.stringContaining('model "a", not "b"'),
      })
      expect(await again(batches, { averageLogProb: true })).toMatchObject({
        code,
        message: expect.stringContaining('averageLogProb false, not true'),
      })
    })

    it('files of another kind', async () => {
      writeFileSync(path, 'precious')
      expect(await again(batches)).toMatchObject({ code, message: expect.stringContaining('is not a file') })
      writeFileSync(path, '{"prompt":"a"}\n{"prompt":"b"}\n')
      expect(await again(batches)).toMatchObject({ code, message: expect.stringContaining('is not a file') })
      await expect(readReferenceLogProbs(path)).rejects.toMatchObject({ code })
    })

    it('damaged lines, by their numbers', async () => {
      await cut(4)
      const lines = readFileSync(path, 'utf8').split('\n')
      writeFileSync(path, [...lines.slice(0, 2), lines[2].slice(0, 20), lines[3], ''].join('\n'))
      expect(await again(batches)).toMatchObject({ code, message: expect.stringMatching(/line 3, is not JSON/) })
      writeFileSync(path, [...lines.slice(0, 2), '{"fingerprint":"x","chosen":[1],"rejected":[null]}', ''].join('\n'))
      expect(await again(batches)).toMatchObject({ code, message: expect.stringMatching(/line 3, is not a batch/) })
    })
  })

  it('refuses log-probs that are not finite, and unknown options', async () => {
    const broken = () => ({
      type: 'float32',
      dims: [4, TIME, VOCAB],
      data: new Float32Array(4 * TIME * VOCAB).fill(Number.NaN),
    })
    await expect(writeReferenceLogProbs(path, batchesOf(1), broken)).rejects.toMatchObject({
      code: 'ERR_OUT_OF_RANGE',
      message: expect.stringMatching(/batch 0: the log-prob of sequence 0 .*NaN/),
    })
    await expect(writeReferenceLogProbs(path, [], forward, { modle: 'x' } as object)).rejects.toThrow(/'model'/)
    await expect(readReferenceLogProbs(join(folder, 'none'))).rejects.toThrow(/ENOENT/)
  })
})
