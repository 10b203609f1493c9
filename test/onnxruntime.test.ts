/**
 * The onnxruntime adapter, on a small model built here: reference log-probs, the file that keeps them, and how the file
 * is continued after an interruption or refused.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Worker } from 'node:worker_threads'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  type ReferenceBatch,
  readReferenceLogProbs,
  referenceLogProbs,
  toLogits,
  type WriteReferenceLogProbsOptions,
  writeReferenceLogProbs,
} from '../lib/adapters/onnxruntime/index.js'
import * as inBrowser from '../lib/adapters/onnxruntime/write-reference.browser.js'
import { fusedPreferenceLossSync, sequenceLogProbsSync } from '../lib/index.js'
import { gaussian, random } from './support.js'

/** A callback that runs once, just before a file is locked. */
const atLock = vi.hoisted(() => ({ run: () => {} }))
vi.mock('../lib/adapters/onnxruntime/lock-file.js', async (original) => {
  const { lockFile } = await original<typeof import('../lib/adapters/onnxruntime/lock-file.js')>()
  const hooked: typeof lockFile = (path) => {
    atLock.run()
    atLock.run = () => {}
    return lockFile(path)
  }
  return { lockFile: hooked }
})

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

interface Batch extends ReferenceBatch {
  inputIds: Int32Array
  labels: Int32Array
  dims: number[]
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

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'reference-')))
let path: string
let files = 0
beforeAll(async () => {
  for (const type of ['float32', 'float16'] as const) sessions[type] = await InferenceSession.create(modelOf(type))
})
beforeEach(() => {
  path = join(folder, `${files++}.jsonl`)
  seen = []
})
afterEach(() => expect(readdirSync(folder).filter((name) => name.endsWith('.lock'))).toEqual([]))
afterAll(() => rmSync(folder, { recursive: true }))

/** The error thrown; the file must be unchanged. */
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

  it('takes tensors in pinned memory, which JavaScript sees too', async () => {
    const tensor = { type: 'float32', dims: [2, 3, 4], data: new Float32Array(24), location: 'cpu-pinned' }
    expect(toLogits(tensor).data).toBe(tensor.data)
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

  it('takes a tensor of a GPU once its data are here', async () => {
    const data = new Float32Array(6)
    const options = { dataType: 'float32', dims: [1, 2, 3], download: async () => data } as const
    const tensor = Tensor.fromGpuBuffer({} as never, options)
    expect(() => toLogits(tensor)).toThrow(
      expect.objectContaining({
        code: 'ERR_BACKEND_UNAVAILABLE',
        message:
          "tensor: the data are on 'gpu-buffer'; await its getData() first, or set preferredOutputLocation of the session to 'cpu'",
      }),
    )
    await tensor.getData()
    expect(toLogits(tensor).data).toBe(data)
  })

  it('sees that a tensor of onnxruntime is disposed', () => {
    const tensor = new Tensor('float32', new Float32Array(2), [1, 1, 2])
    tensor.dispose()
    expect(() => toLogits(tensor)).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }))
  })
})

describe('referenceLogProbs', () => {
  it('gives what writeReferenceLogProbs gives, without a file', async () => {
    const batches = batchesOf(3)
    const progress: object[] = []
    const before = readdirSync(folder)
    const options = { keepBatches: true, averageLogProb: true, onProgress: (p: object) => progress.push(p) } as const
    const reference = await referenceLogProbs(batches.values(), forward, options)
    expect(readdirSync(folder)).toEqual(before)
    expect(seen).toEqual(batches)
    expect(progress).toEqual([1, 2, 3].map((n) => ({ batches: n, pairs: n * PAIRS, resumed: false })))
    expect(reference).toEqual(await writeReferenceLogProbs(path, batches, forward, { ...options, model: 'tiny' }))
    expect(reference.chosen).toHaveLength(3 * PAIRS)
    const kept: Float64Array[] = reference.batches.map((batch) => batch.reference.chosen)
    expect(kept).toEqual([0, 1, 2].map((i) => reference.chosen.subarray(i * PAIRS, (i + 1) * PAIRS)))
    expect(await referenceLogProbs(batches, forward)).not.toHaveProperty('batches')
  })

  const [batch] = batchesOf(1)
  it.each<[string, unknown[], string, RegExp]>([
    ['a single batch', [batch, forward], 'ERR_INVALID_ARG_TYPE', /^batches must be an array/],
    ['no function', [[batch], {}], 'ERR_INVALID_ARG_TYPE', /^forward must be a function of a batch/],
    [
      'what is for a file',
      [[batch], forward, { model: 'x' }],
      'ERR_INVALID_ARG_VALUE',
      /^options\.model is not an option/,
    ],
    ['wrong options', [[batch], forward, { temperature: 0 }], 'ERR_OUT_OF_RANGE', /^options\.temperature/],
    ['a wrong callback', [[batch], forward, { onProgress: 3 }], 'ERR_INVALID_ARG_TYPE', /^options\.onProgress/],
    ['a wrong flag', [[batch], forward, { keepBatches: 1 }], 'ERR_INVALID_ARG_TYPE', /^options\.keepBatches/],
    ['no batch', [[], forward], 'ERR_INVALID_ARG_VALUE', /^batches gave no batch; an iterator can be read only once/],
  ])('refuses %s before the model runs', async (_, given, code, message) => {
    const error = await referenceLogProbs(...(given as [never, never])).catch((reason) => reason)
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) })
    expect(seen).toEqual([])
  })

  it('stops between batches when it is told to', async () => {
    const controller = new AbortController()
    const onProgress = () => controller.abort(new Error('enough'))
    const { signal } = controller
    await expect(referenceLogProbs(batchesOf(2), forward, { signal, onProgress })).rejects.toThrow('enough')
    expect(seen).toHaveLength(1)
  })

  it('is what a browser, which has no files, is sent to', async () => {
    const code = 'ERR_FEATURE_UNAVAILABLE_ON_PLATFORM'
    await expect(inBrowser.writeReferenceLogProbs('a.jsonl', batchesOf(1), forward)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(/^writeReferenceLogProbs writes a file.*: referenceLogProbs keeps/),
    })
    await expect(inBrowser.readReferenceLogProbs('a.jsonl')).rejects.toMatchObject({
      code,
      message: expect.stringMatching(/^readReferenceLogProbs reads a file.*Node\.js/),
    })
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

  describe('hands on', () => {
    const ids = batchesOf(1)[0]
    const direct = async (batch: object, options: object) => {
      const logits = toLogits(await forward(ids))
      const { logProbs } = sequenceLogProbsSync(logits, ids.labels, { ...batch, ...options })
      return [...logProbs]
    }
    const written = async (batch: object, options?: object) => {
      const { chosen, rejected } = await writeReferenceLogProbs(path, [{ ...ids, ...batch }], forward, options)
      return [...chosen, ...rejected]
    }
    const mask = ids.labels.map((_, i) => (i % 5 === 3 ? 0 : 1))

    it.each<[string, object, object?]>([
      ['shift', { shift: false }],
      ['ignoreIndex', { ignoreIndex: ids.labels[3] }, { mask: ids.labels.map((label) => (label < 0 ? 0 : 1)) }],
      ['averageLogProb', { averageLogProb: true }],
      ['temperature', { temperature: 2 }],
      ['ldAlpha', { ldAlpha: 0.25 }, { mask }],
      ['backend', { backend: 'js' }],
    ])('%s, which is an option', async (name, options, batch = {}) => {
      const wanted = await direct(batch, options)
      expect(await written(batch, options)).toEqual(wanted)
      if (name !== 'backend') expect(await direct(batch, {})).not.toEqual(wanted)
      // It is a setting of the file, unless it does not affect the file's content.
      const again = await writeReferenceLogProbs(path, [{ ...ids, ...batch }], forward).catch((error) => error)
      if (name === 'backend') expect([...again.chosen, ...again.rejected]).toEqual(wanted)
      else expect(again).toMatchObject({ message: expect.stringContaining(`made with ${name}`) })
    })

    it('emptySequence', async () => {
      const empty = { mask: ids.labels.map((_, i) => (i < TIME ? 0 : 1)) }
      expect((await written(empty))[0]).toBe(0)
      path = join(folder, 'empty.jsonl')
      // The trial call before the model runs has active tokens, whatever is ignored.
      const full = { labels: ids.labels.map((label) => Math.max(1, label)) }
      await written(full, { emptySequence: 'error', ignoreIndex: 0 })
      path = join(folder, 'empty-2.jsonl')
      await expect(written(empty, { emptySequence: 'error' })).rejects.toThrow(/leave sequence 0 without active tokens/)
      await expect(written(empty, { emptySequence: 'nan' })).rejects.toMatchObject({ code: 'ERR_OUT_OF_RANGE' })
    })

    it.each<[string, object]>([
      ['a mask', { mask }],
      ['a mask of booleans', { mask: Array.from(mask, (x) => x === 1) }],
      ['token weights', { tokenWeights: Float32Array.from(mask, (x) => 0.5 + x) }],
    ])('%s of a batch', async (_, batch) => {
      const wanted = await direct(batch, {})
      expect(await written(batch)).toEqual(wanted)
      expect(await direct({}, {})).not.toEqual(wanted)
    })

    it('the pairs of a batch', async () => {
      const logProbs = await direct({}, {})
      expect(await written({ pairs: [3, 0, 1, 2] })).toEqual([3, 1, 0, 2].map((s) => logProbs[s]))
      const one = await writeReferenceLogProbs(join(folder, 'one.jsonl'), [{ ...ids, pairs: [2, 1] }], forward)
      expect([...one.chosen, ...one.rejected]).toEqual([logProbs[2], logProbs[1]])
    })

    it('tensors and 64-bit integers in place of arrays', async () => {
      const wide = (values: ArrayLike<number>) => BigInt64Array.from(values as number[], BigInt)
      const tensor = (values: ArrayLike<number>) => new Tensor('int64', wide(values), [values.length])
      const offsets = [0, 6, 12, 18, 24]
      const wanted = await direct({ mask, pairs: [1, 0, 2, 3] }, {})
      const given = { mask, pairs: [1, 0, 2, 3], sequenceOffsets: offsets }
      for (const as of [wide, tensor]) {
        path = join(folder, `${as.name}.jsonl`)
        const { labels, inputIds } = ids
        const batch = {
          labels: as(labels),
          inputIds: as(inputIds),
          mask: as(given.mask),
          pairs: as(given.pairs),
          sequenceOffsets: as(given.sequenceOffsets),
        }
        const packed = async () => {
          const logits = await forward(ids)
          return { type: logits.type, dims: [1, 24, VOCAB], data: logits.data }
        }
        const { chosen, rejected } = await writeReferenceLogProbs(path, [batch], packed)
        expect([...chosen, ...rejected]).toEqual([1, 2, 0, 3].map((s) => wanted[s]))
      }
      const disposed = tensor(mask)
      disposed.dispose()
      await expect(written({ mask: disposed })).rejects.toMatchObject({
        code: 'ERR_DISPOSED',
        message: expect.stringContaining('batches[0].mask'),
      })
    })
  })

  it('gives the batches back with their references, so that they may be shuffled', async () => {
    const batches = batchesOf(3)
    const whole = await writeReferenceLogProbs(path, batches, forward, { keepBatches: true })
    expect(await writeReferenceLogProbs(path, batches, forward)).toEqual({
      chosen: whole.chosen,
      rejected: whole.rejected,
    })
    // From a complete file, without the model, and from one that is cut short, too.
    expect(await writeReferenceLogProbs(path, batches, Promise.reject, { keepBatches: true })).toEqual(whole)
    const lines = readFileSync(path, 'utf8').split('\n')
    writeFileSync(path, `${lines.slice(0, 2).join('\n')}\n`)
    expect(await writeReferenceLogProbs(path, batches, forward, { keepBatches: true })).toEqual(whole)
    expect(seen).toHaveLength(3 + 2)
    for (const [i, batch] of [...whole.batches.entries()].reverse()) {
      const { reference, ...given } = batch
      expect(given).toEqual(batches[i])
      expect(reference.chosen).toEqual(whole.chosen.subarray(i * PAIRS, (i + 1) * PAIRS))
      expect(reference.rejected).toEqual(whole.rejected.subarray(i * PAIRS, (i + 1) * PAIRS))
      const { loss } = fusedPreferenceLossSync(toLogits(await forward(given)), batch.labels, { reference })
      expect(loss).toBeCloseTo(Math.log(2), 6)
    }
    await expect(writeReferenceLogProbs(path, batches, forward, { keepBatches: 1 as never })).rejects.toThrow(
      'options.keepBatches must be a boolean; got 1',
    )
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

    it.each<[string, object, object]>([
      ['a mask', {}, { mask: batches[0].labels.map((_, i) => i % 3) }],
      ['another mask', { mask: batches[0].labels.map(() => 1) }, { mask: batches[0].labels.map((_, i) => i % 3) }],
      ['token weights', {}, { tokenWeights: Array.from(batches[0].labels, () => 2) }],
      ['other pairs', { pairs: [0, 2, 1, 3] }, { pairs: [0, 3, 1, 2] }],
      ['pairs where there were none', {}, { pairs: [0, 2, 1, 3] }],
      ['arrays of another kind', {}, { inputIds: Uint32Array.from(batches[0].inputIds) }],
      [
        'arrays of another name',
        { mask: batches[0].labels.map(() => 1) },
        { tokenWeights: batches[0].labels.map(() => 1) },
      ],
      ['no prompts', {}, { inputIds: undefined }],
    ])('%s', async (_, first, second) => {
      const model = () => forward(batches[0])
      await writeReferenceLogProbs(path, [{ ...batches[0], ...first }], model)
      const error = await refusal(() => writeReferenceLogProbs(path, [{ ...batches[0], ...second }], model))
      expect(error).toMatchObject({ code, message: expect.stringContaining('batch 0 of the data is another') })
      await writeReferenceLogProbs(path, [{ ...batches[0], ...first }], model)
    })

    it('other offsets', async () => {
      const tensor = await forward(batches[0])
      const packed = () => ({ type: 'float32', dims: [24, VOCAB], data: tensor.data })
      await writeReferenceLogProbs(path, [{ ...batches[0], sequenceOffsets: [0, 6, 12, 18, 24] }], packed)
      const other = [{ ...batches[0], sequenceOffsets: [0, 5, 12, 18, 24] }]
      expect(await refusal(() => writeReferenceLogProbs(path, other, packed))).toMatchObject({
        message: expect.stringContaining('batch 0'),
      })
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
      const uneven = JSON.stringify({ ...JSON.parse(lines[2]), rejected: [-1] })
      writeFileSync(path, [...lines.slice(0, 2), uneven, lines[3], ''].join('\n'))
      expect(await again(batches)).toMatchObject({ code, message: expect.stringMatching(/line 3, is not a batch/) })
    })

    it('a complete file that has lost a line', async () => {
      await cut(5)
      const lines = readFileSync(path, 'utf8').split('\n')
      writeFileSync(path, [...lines.slice(0, 2), ...lines.slice(3)].join('\n'))
      const message = expect.stringMatching(/line 4, ends 6 pairs, but the file has 4/)
      expect(await again(batches)).toMatchObject({ code, message })
      await expect(readReferenceLogProbs(path)).rejects.toMatchObject({ code, message })
    })
  })

  it('refuses log-probs that are not finite', async () => {
    const broken = () => ({
      type: 'float32',
      dims: [4, TIME, VOCAB],
      data: new Float32Array(4 * TIME * VOCAB).fill(Number.NaN),
    })
    await expect(writeReferenceLogProbs(path, batchesOf(1), broken)).rejects.toMatchObject({
      code: 'ERR_OUT_OF_RANGE',
      message: expect.stringMatching(/batch 0: the log-prob of sequence 0 .*NaN/),
    })
    await expect(readReferenceLogProbs(join(folder, 'none'))).rejects.toThrow(/ENOENT/)
  })

  describe('knows the model', () => {
    const batches = batchesOf(2)
    const write = (model: WriteReferenceLogProbsOptions['model']) =>
      writeReferenceLogProbs(path, batches, forward, { model })

    it('by what it is made of, in whatever order', async () => {
      const whole = await write({ name: 'tiny', layers: [{ width: 5, kind: 'a' }, 2], revision: null })
      seen = []
      const bytes = readFileSync(path)
      // Also from a header that was cut short.
      for (const end of [bytes.length, 90]) {
        writeFileSync(path, bytes.subarray(0, end))
        const same = { revision: null, layers: [{ kind: 'a', width: 5 }, 2], name: 'tiny' }
        expect(await write(same)).toEqual(whole)
        expect(readFileSync(path).equals(bytes)).toBe(true)
      }
      expect(seen).toEqual(batches)
    })

    it.each([
      [{ name: 'tiny', revision: 2 }],
      [{ name: 'tiny' }],
      [{ name: 'tiny', revision: '1' }],
      [['tiny', 1]],
      ['tiny'],
      [null],
      [undefined],
    ])('and another by any difference: %j', async (model) => {
      await write({ name: 'tiny', revision: 1 })
      expect(await refusal(() => write(model))).toMatchObject({
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.stringMatching(/made with model {"name":"tiny","revision":1}, not /),
      })
    })

    const circle: { of?: object } = {}
    circle.of = circle
    it.each<[string, unknown]>([
      ['a Map', new Map([['name', 'tiny']])],
      ['an instance of a class', { name: new URL('file:///model.onnx') }],
      ['a function', { name: () => 'tiny' }],
      ['NaN', { step: Number.NaN }],
      ['a BigInt', 1n],
      ['bytes', new Uint8Array(3)],
      ['a circle', circle],
    ])('but not by %s, which a file cannot keep', async (_, model) => {
      await expect(write(model as never)).rejects.toMatchObject({
        code: 'ERR_INVALID_ARG_TYPE',
        message: expect.stringContaining('options.model must be a value that JSON keeps unchanged'),
      })
    })
  })

  describe('before the model runs refuses', () => {
    const stopped = AbortSignal.abort(new Error('stopped by the caller'))
    it.each<[string, object, object]>([
      [
        'an unknown option',
        { modl: 'x' },
        { code: 'ERR_INVALID_ARG_VALUE', message: expect.stringContaining("'model'") },
      ],
      ['shift', { shift: 1 }, { code: 'ERR_INVALID_ARG_TYPE', message: expect.stringContaining('options.shift') }],
      ['ignoreIndex', { ignoreIndex: 0.5 }, { code: 'ERR_OUT_OF_RANGE' }],
      ['averageLogProb', { averageLogProb: 'no' }, { code: 'ERR_INVALID_ARG_TYPE' }],
      ['temperature', { temperature: 0 }, { code: 'ERR_OUT_OF_RANGE' }],
      ['ldAlpha', { ldAlpha: 2 }, { code: 'ERR_OUT_OF_RANGE' }],
      ['emptySequence', { emptySequence: 'skip' }, { code: 'ERR_INVALID_ARG_VALUE' }],
      ['backend', { backend: 'gpu' }, { code: 'ERR_INVALID_ARG_VALUE' }],
      ['threads', { threads: 0 }, { code: 'ERR_OUT_OF_RANGE' }],
      ['instructionSet', { instructionSet: 'mmx' }, { code: 'ERR_INVALID_ARG_VALUE' }],
      ['stream', { stream: 1 }, { code: 'ERR_INVALID_ARG_VALUE', message: expect.stringContaining('options.stream') }],
      ['device', { device: 0 }, { code: 'ERR_INVALID_ARG_VALUE', message: expect.stringContaining('options.device') }],
      ['an aborted signal', { signal: stopped }, { message: 'stopped by the caller' }],
      [
        'onProgress',
        { onProgress: 3 },
        { code: 'ERR_INVALID_ARG_TYPE', message: /onProgress must be a function; got 3/ },
      ],
      ['what belongs to batches', { mask: [1] }, { code: 'ERR_INVALID_ARG_VALUE', message: /batch\.mask/ }],
      [
        'token weights of all',
        { tokenWeights: [1] },
        { code: 'ERR_INVALID_ARG_VALUE', message: /batch\.tokenWeights/ },
      ],
      ['pairs of all', { pairs: [0, 1] }, { code: 'ERR_INVALID_ARG_VALUE', message: /batch\.pairs/ }],
      [
        'offsets of all',
        { sequenceOffsets: [0, 1] },
        { code: 'ERR_INVALID_ARG_VALUE', message: /batch\.sequenceOffsets/ },
      ],
      ['outputs', { outputs: ['logSumExp'] }, { code: 'ERR_INVALID_ARG_VALUE', message: /per-token results/ }],
    ])('%s', async (_, options, { message, ...error }: { message?: unknown }) => {
      const reason = await writeReferenceLogProbs(path, batchesOf(1), forward, options).catch((reason) => reason)
      expect(reason).toMatchObject(error)
      if (message instanceof RegExp) expect(reason.message).toMatch(message)
      else if (message) expect(reason).toMatchObject({ message })
      expect(seen).toEqual([])
      expect(existsSync(path)).toBe(false)
    })

    it.each<[string, unknown[], object]>([
      ['options that are null', [batchesOf(1), forward, null], { code: 'ERR_INVALID_ARG_TYPE' }],
      ['a model that is no function', [batchesOf(1), {}], { code: 'ERR_INVALID_ARG_TYPE', message: /^forward/ }],
      [
        'a single batch',
        [batchesOf(1)[0], forward],
        { code: 'ERR_INVALID_ARG_TYPE', message: /^batches must be an array/ },
      ],
      ['text', ['ab', forward], { code: 'ERR_INVALID_ARG_TYPE', message: /^batches\[0\] must be an object/ }],
      ['a batch without labels', [[{}], forward], { code: 'ERR_INVALID_ARG_TYPE', message: /^batches\[0\]\.labels/ }],
      [
        'lists of lists',
        [[{ labels: new Int32Array(2), inputIds: [[1, 2]] }], forward],
        {
          code: 'ERR_INVALID_ARG_TYPE',
          message: /^batches\[0\]\.inputIds\[0\] must be a number, because the array must be flat/,
        },
      ],
      [
        'what is no array',
        [[{ labels: new Int32Array(2), mask: 5 }], forward],
        { code: 'ERR_INVALID_ARG_TYPE', message: /^batches\[0\]\.mask must be an array or a tensor/ },
      ],
    ])('%s', async (_, given, { message, ...error }: { message?: RegExp }) => {
      const reason = await writeReferenceLogProbs(path, ...(given as [never, never])).catch((reason) => reason)
      expect(reason).toMatchObject(error)
      if (message) expect(reason.message).toMatch(message)
      expect(seen).toEqual([])
      expect(existsSync(path)).toBe(false)
    })

    it('a folder that is not there, and a path that is no text', async () => {
      const nowhere = join(folder, 'nowhere', 'file.jsonl')
      await expect(writeReferenceLogProbs(nowhere, batchesOf(1), forward)).rejects.toMatchObject({
        code: 'ERR_INVALID_ARG_VALUE',
        message: `${nowhere} cannot be written: there is no folder '${join(folder, 'nowhere')}'`,
      })
      await expect(writeReferenceLogProbs(5 as never, batchesOf(1), forward)).rejects.toMatchObject({
        code: 'ERR_INVALID_ARG_TYPE',
      })
      expect(seen).toEqual([])
    })
  })

  it('takes plain lists of ids, and sees a difference in them', async () => {
    const [batch] = batchesOf(1)
    const as = (first: number) => [{ ...batch, inputIds: [BigInt(first), ...Array.from(batch.inputIds.subarray(1))] }]
    const model = () => forward(batch)
    await writeReferenceLogProbs(path, as(1), model)
    await writeReferenceLogProbs(path, as(1), model)
    await expect(writeReferenceLogProbs(path, as(2), model)).rejects.toThrow(/batch 0 of the data is another/)
  })

  it('refuses data without a batch, and writes nothing', async () => {
    const [batch] = batchesOf(1)
    const used = [batch].values()
    await writeReferenceLogProbs(path, used, forward)
    const bytes = readFileSync(path)
    const empty = join(folder, 'no-data.jsonl')
    for (const none of [[], used, (async function* () {})()]) {
      await expect(writeReferenceLogProbs(empty, none, forward)).rejects.toMatchObject({
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.stringMatching(/^batches gave no batch/),
      })
      expect(existsSync(empty)).toBe(false)
    }
    await expect(writeReferenceLogProbs(path, used, forward)).rejects.toThrow(/it has 1 batches, the data only 0/)
    expect(readFileSync(path).equals(bytes)).toBe(true)
  })

  it('stops between batches when it is told to, and goes on from there', async () => {
    const controller = new AbortController()
    const batches = batchesOf(3)
    const onProgress = ({ batches }: { batches: number }) => {
      if (batches === 2) controller.abort(new Error('enough for today'))
    }
    const { signal } = controller
    await expect(writeReferenceLogProbs(path, batches, forward, { signal, onProgress })).rejects.toThrow('enough')
    expect(seen).toEqual(batches.slice(0, 2))
    await writeReferenceLogProbs(path, batches, forward)
    expect(seen).toEqual(batches)
  })
})

describe('writers of one file', () => {
  const code = 'ERR_INVALID_ARG_VALUE'
  const lock = () => `${path}.lock`

  it('are one at a time, by whatever way it is reached', async () => {
    const batches = batchesOf(3)
    const link = join(folder, 'link.jsonl')
    await writeReferenceLogProbs(path, batches, (batch) => {
      if (batch === batches[1]) throw new Error('interrupted')
      return forward(batch)
    }).catch(() => {})
    symlinkSync(path, link)
    const others: Promise<unknown>[] = []
    const reference = await writeReferenceLogProbs(path, batches, async (batch) => {
      for (const way of [path, link]) {
        const other = writeReferenceLogProbs(way, batchesOf(2, 1), forward).catch((error) => error)
        // It has other data, but the error about the lock comes first.
        expect(await other).toMatchObject({
          code,
          message: `${way} is being written by another call of this process: wait for it, or write another file; if that process has ended, delete ${lock()}`,
        })
        others.push(other)
      }
      return forward(batch)
    })
    expect(others).toHaveLength(4)
    expect(await readReferenceLogProbs(path)).toEqual(reference)
    // A complete file is only read.
    const both = [path, link].map((way) => writeReferenceLogProbs(way, batches, forward))
    expect(await Promise.all(both)).toEqual([reference, reference])
  })

  it('see what another has written before they got the lock', async () => {
    const batches = batchesOf(2)
    const reference = await writeReferenceLogProbs(path, batches, forward)
    const bytes = readFileSync(path)
    writeFileSync(path, bytes.subarray(0, bytes.indexOf(10) + 1))
    seen = []
    atLock.run = () => writeFileSync(path, bytes)
    expect(await writeReferenceLogProbs(path, batches, forward)).toEqual(reference)
    expect(seen).toEqual([])
    expect(readFileSync(path).equals(bytes)).toBe(true)
  })

  it('started together: the file is whole, and one of them is refused', async () => {
    const batches = batchesOf(4)
    const both = await Promise.allSettled([1, 2].map(() => writeReferenceLogProbs(path, batches, forward)))
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
    expect(both.find(({ status }) => status === 'rejected')).toMatchObject({ reason: { code } })
    expect((await readReferenceLogProbs(path)).chosen).toHaveLength(4 * PAIRS)
  })

  /** A program that writes the file, a batch at a time, each when a line comes in. */
  const program = `
    import { createInterface } from 'node:readline'
    import { writeReferenceLogProbs } from ${JSON.stringify(new URL('../dist/adapters/onnxruntime/index.mjs', import.meta.url).href)}
    const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
    const batches = Array.from({ length: 3 }, (_, i) => ({ labels: Int32Array.of(0, i, 1, 0) }))
    const forward = async ({ labels }) => {
      console.log('forward ' + labels[1])
      await lines.next()
      return { type: 'float32', dims: [2, 2, 3], data: Float32Array.from({ length: 12 }, (_, i) => Math.sin(i * labels[1])) }
    }
    const result = await writeReferenceLogProbs(process.argv[2], batches, forward).catch((error) => error)
    console.log(result instanceof Error ? result.code + ' ' + result.message : 'wrote ' + result.chosen.length)
    process.exit()
  `
  function start() {
    const file = join(folder, 'writer.mjs')
    writeFileSync(file, program)
    const child = spawn(process.execPath, [file, path], { stdio: ['pipe', 'pipe', 'inherit'] })
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const line = async (): Promise<string> => (await lines.next()).value
    return { child, line, go: () => child.stdin.write('\n') }
  }

  it('are one at a time across processes; what a killed one leaves is gone on with', async () => {
    const first = start()
    expect(await first.line()).toBe('forward 0')
    const second = start()
    expect(await second.line()).toMatch(
      new RegExp(`^${code} .* is being written by process ${first.child.pid} on '.*delete .*\\.jsonl\\.lock`),
    )
    first.go()
    expect(await first.line()).toBe('forward 1')
    first.child.kill('SIGKILL')
    await once(first.child, 'close')
    expect(existsSync(lock())).toBe(true)
    await expect(readReferenceLogProbs(path)).rejects.toThrow(/is not complete: it ends after 1 batches/)

    const third = start()
    for (const i of [1, 2]) {
      expect(await third.line()).toBe(`forward ${i}`)
      third.go()
    }
    expect(await third.line()).toBe('wrote 3')
    expect((await readReferenceLogProbs(path)).chosen).toHaveLength(3)
  })

  it('of several processes started together write one whole file', async () => {
    const all = [start(), start(), start()]
    const ends = await Promise.all(
      all.map(async ({ line, go }) => {
        for (let said = await line(); ; said = await line()) {
          if (!said.startsWith('forward')) return said
          // The others come while this one waits.
          await new Promise((resolve) => setTimeout(resolve, 100))
          go()
        }
      }),
    )
    // One that starts when another has ended finds a complete file.
    expect(ends.filter((said) => said === 'wrote 3').length).toBeGreaterThan(0)
    for (const said of ends) expect(said).toMatch(/^wrote 3$|is being written by process/)
    expect((await readReferenceLogProbs(path)).chosen).toHaveLength(3)
  })

  it('in threads of one process are one at a time too', async () => {
    const batches = batchesOf(2)
    const answers: string[] = []
    await writeReferenceLogProbs(path, batches, async (batch) => {
      const adapter = new URL('../dist/adapters/onnxruntime/index.mjs', import.meta.url).href
      const source = `
        const { parentPort, workerData } = require('node:worker_threads')
        import(workerData.adapter)
          .then(({ writeReferenceLogProbs }) => writeReferenceLogProbs(workerData.path, [], () => {}))
          .catch((error) => parentPort.postMessage(error.message))
      `
      const worker = new Worker(source, { eval: true, workerData: { adapter, path } })
      answers.push((await once(worker, 'message'))[0])
      await worker.terminate()
      return forward(batch)
    })
    expect(answers).toEqual(
      batches.map(() => expect.stringMatching(/is being written by another call of this process/)),
    )
  })

  const owner = { pid: process.pid, host: hostname(), started: Date.now() - 1000 * process.uptime(), id: 'x' }
  it('waits for the owner of a lock that has just been created', async () => {
    writeFileSync(lock(), '')
    const answer = writeReferenceLogProbs(path, batchesOf(1), forward).catch((reason) => reason)
    await new Promise((resolve) => setTimeout(resolve, 100))
    writeFileSync(lock(), JSON.stringify({ ...owner, host: 'elsewhere', pid: 12 }))
    expect((await answer).message).toMatch(/by process 12 on 'elsewhere'/)
    rmSync(lock())
  })

  it.each<[string, string, RegExp]>([
    [
      'a process of another machine',
      JSON.stringify({ ...owner, host: 'elsewhere', pid: 12 }),
      /by process 12 on 'elsewhere'.*delete/,
    ],
    [
      'a process that lives',
      JSON.stringify({ ...owner, pid: process.ppid }),
      /by process \d+ on '.*if that process has ended, delete/,
    ],
    ['this process', JSON.stringify(owner), /another call of this process/],
    ['nobody', '', /is locked by .*\.lock, which does not name its owner; if nothing writes to it, delete that file/],
    ['null', 'null', /does not name its owner/],
    ['no process', JSON.stringify({ ...owner, pid: 0 }), /does not name its owner/],
    ['no machine', JSON.stringify({ ...owner, host: 5 }), /does not name its owner/],
  ])('are refused while the lock is that of %s', async (_, text, message) => {
    writeFileSync(lock(), text)
    const error = await writeReferenceLogProbs(path, batchesOf(1), forward).catch((reason) => reason)
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) })
    expect(readFileSync(lock(), 'utf8')).toBe(text)
    expect([seen, existsSync(path)]).toEqual([[], false])
    rmSync(lock())
    await writeReferenceLogProbs(path, batchesOf(1), forward)
  })

  it('take over the lock of a process that has ended', async () => {
    const child = spawn(process.execPath, ['--version'], { stdio: 'ignore' })
    await once(child, 'close')
    writeFileSync(lock(), JSON.stringify({ ...owner, pid: child.pid }))
    await writeReferenceLogProbs(path, batchesOf(1), forward)
    expect(await readReferenceLogProbs(path)).toMatchObject({ chosen: { length: PAIRS } })
  })

  it('take over the lock of an earlier process of the same number', async () => {
    writeFileSync(lock(), JSON.stringify({ ...owner, started: owner.started - 5000 }))
    await writeReferenceLogProbs(path, batchesOf(1), forward)
    expect(await readReferenceLogProbs(path)).toMatchObject({ chosen: { length: PAIRS } })
  })

  it.each([
    ['deleted', () => rmSync(lock())],
    ['replaced', () => writeFileSync(lock(), JSON.stringify({ ...owner, id: 'another' }))],
  ])('stop when their lock is %s, and leave file and lock alone', async (what, take) => {
    const batches = batchesOf(3)
    let bytes: Buffer | undefined
    const error = await writeReferenceLogProbs(path, batches, (batch) => {
      if (batch === batches[1]) {
        bytes = readFileSync(path)
        take()
      }
      return forward(batch)
    }).catch((reason) => reason)
    expect(error).toMatchObject({
      code,
      message: expect.stringMatching(/no longer written.*deleted or replaced/),
    })
    expect(readFileSync(path)).toEqual(bytes)
    expect(existsSync(lock())).toBe(what === 'replaced')
    rmSync(lock(), { force: true })
    await writeReferenceLogProbs(path, batches, forward)
  })
})
