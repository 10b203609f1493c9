/**
 * A vocabulary that real processes share, under every MPI of this machine: golden cases, the bits of one process where
 * ranks have whole segments, and a rank that fails.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { type LogitsSpec, logitsOf } from './golden/inputs.js'
import { MPIS, runRanks } from './mpi.js'
import { bordersOf } from './shards.js'
import { DIST, decode, goldenCases, ulp } from './support.js'

interface Golden {
  name: string
  logits: LogitsSpec
  labels: number[]
  options: { lossType?: unknown; sequenceOffsets?: number[] }
  reference?: { chosen: number[]; rejected: number[] } | { logits: LogitsSpec }
  expected: {
    loss: number
    bounds: { loss: number; chosenLogProbs: number[]; coefficients: number[] }
    chosenLogProbs: number[]
    coefficients: number[]
    gradient: { at?: number[]; values: number[] }
  }
}

const isSmall = ({ shape, strides }: LogitsSpec) => strides === undefined && shape.length === 3 && shape[2] <= 2100
const all = await goldenCases<Golden>('fused')
const CASES = all.filter((golden, i) => i % 5 === 0 && isSmall(golden.logits) && Number.isFinite(golden.expected.loss))

const folder = mkdtempSync(join(tmpdir(), 'fpl-mpi-shard-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** The cases as programs read them: elements of logits, and options. */
const path = join(folder, 'cases.json')
const tensor = (spec: LogitsSpec) => {
  const { data, shape, dtype } = logitsOf(spec)
  return { data: Array.from(data as Float32Array, (x) => (Number.isFinite(x) ? x : `${x}`)), shape, dtype }
}
const given = CASES.map(({ logits, labels, options, reference }) => ({
  ...{ logits: tensor(logits), labels, options },
  reference: reference && 'logits' in reference ? { logits: tensor(reference.logits) } : reference,
}))
writeFileSync(path, JSON.stringify(given))

const COMMON = `
  const api = await import(${JSON.stringify(DIST.href)})
  const { readFileSync, writeFileSync } = await import('node:fs')
  const { createHash } = await import('node:crypto')
  const { rank, size } = communicator
  const hash = (array) => createHash('sha256').update(array).digest('hex')
  const bordersOf = ${bordersOf}
  /** The columns of this rank, in memory of their own. */
  const columnsOf = ({ data, shape, dtype }, start, end) => {
    const vocab = shape.at(-1)
    const own = new data.constructor(data.length / vocab * (end - start))
    for (let row = 0; row < data.length / vocab; row++) {
      own.set(data.subarray(row * vocab + start, row * vocab + end), row * (end - start))
    }
    return { data: own, shape: [...shape.slice(0, -1), end - start], dtype }
  }
`

/** What rank r has found. A long line of output might be torn by another rank's. */
const foundBy = (r: number) => join(folder, `${r}.json`)

const GOLDEN = `${COMMON}
  const found = []
  const tensor = ({ data, shape, dtype }) => {
    const Kind = dtype === 'float32' ? Float32Array : Uint16Array
    return { data: Kind.from(data, Number), shape, dtype }
  }
  for (const [i, { logits, labels, options, reference }] of JSON.parse(readFileSync(${JSON.stringify(path)})).entries()) {
    const whole = tensor(logits)
    const vocab = logits.shape.at(-1)
    if (vocab < size) continue
    const borders = bordersOf(vocab, size, i % 2 === 0)
    const [start, end] = [borders[rank], borders[rank + 1]]
    const own = reference?.logits ? { logits: columnsOf(tensor(reference.logits), start, end) } : reference
    const got = await api.fusedPreferenceLoss(columnsOf(whole, start, end), Int32Array.from(labels), {
      ...options,
      reference: own,
      gradient: true,
      communicator,
      shard: { start, vocab },
      segments: i % 3 === 0 ? 'merged' : 'exact',
    })
    const { gradLogits, ...rest } = got
    const bits = Object.entries(rest).map(([name, value]) => [name, ArrayBuffer.isView(value) ? hash(value) : value])
    const { loss, chosenLogProbs, gradLogProbs } = got
    found.push({
      ...{ i, start, end, loss, bits },
      chosenLogProbs: [...chosenLogProbs],
      gradient: Buffer.from(gradLogits.data.buffer).toString('base64'),
      dtype: gradLogits.dtype,
    })
  }
  writeFileSync(${JSON.stringify(folder)} + '/' + rank + '.json', JSON.stringify(found))
`

const BITS = `${COMMON}
  let state = 7
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32 - 0.5
  }
  const random = (length) => Float32Array.from({ length }, () => 8 * next())
  const labels = Int32Array.of(3, 32_000, 11_008, 7, 22_015, 22_016, 1, -100, 9, 4, 5, 17_000)
  const same = []
  const reference = { chosen: [-20, -31], rejected: [-24, -30] }
  const outputs = ['tokenEntropies', 'tokenArgmax', 'tokenMeanLogits', 'sumSquaredProbs']

  // Logits: whole segments of 11 008 columns.
  const vocab = 33_000
  const logits = { data: random(12 * vocab), shape: [4, 3, vocab], dtype: 'float32' }
  const borders = size === 2 ? [0, 22_016, vocab] : [0, 11_008, 22_016, vocab]
  const isIn = rank < borders.length - 1
  const compare = (a, b) => {
    for (const [name, x] of Object.entries(a)) {
      if (name !== 'gradLogits') same.push([name, ArrayBuffer.isView(x) ? hash(x) === hash(b[name]) : true])
    }
    same.push(['loss', a.loss === b.loss])
  }
  const [start, end] = [borders[rank], borders[rank + 1]]
  const options = { reference, outputs, gradient: true }
  const wanted = await api.fusedPreferenceLoss(logits, labels, options)
  const shared = { ...options, communicator, shard: { start, vocab } }
  const own = columnsOf(logits, start, end)
  for (const got of [await api.fusedPreferenceLoss(own, labels, shared), api.fusedPreferenceLossSync(own, labels, shared)]) {
    compare(got, wanted)
    same.push(['gradLogits', hash(got.gradLogits.data) === hash(columnsOf(wanted.gradLogits, start, end).data)])
  }

  // An output layer: whole segments of 384 words, and the gradient through results of tokens.
  const [words, width] = [2000, 8]
  const hidden = { data: random(12 * width), shape: [4, 3, width] }
  const weight = { data: random(words * width), shape: [words, width] }
  const bias = random(words)
  const ids = labels.map((label) => label < 0 ? label : label % words)
  const cut = size === 2 ? [0, 768, words] : [0, 384, 1536, words]
  const [first, last] = [cut[rank], cut[rank + 1]]
  const part = { data: weight.data.subarray(first * width, last * width), shape: [last - first, width] }
  const gradients = { logProbs: [1, -1, 0.5, 2], tokenEntropies: [1, 2, 3, 4, 5, 6, 7, 8] }
  const one = await api.linearSequenceLogProbs(hidden, weight, ids, { bias, outputs })
  const all = await api.linearSequenceLogProbs(hidden, part, ids, {
    ...{ bias: bias.subarray(first, last), outputs },
    ...{ communicator, shard: { start: first, vocab: words } },
  })
  compare(all, one)
  const [a, b] = [await all.backward(gradients), await one.backward(gradients)]
  same.push(['gradWeight', hash(a.gradWeight.data) === hash(b.gradWeight.data.subarray(first * width, last * width))])
  same.push(['gradBias', hash(a.gradBias) === hash(b.gradBias.subarray(first, last))])
  const largest = Math.max(...b.gradHidden.data.map(Math.abs))
  same.push(['gradHidden', a.gradHidden.data.every((x, i) => Math.abs(x - b.gradHidden.data[i]) <= 2e-6 * largest)])

  // Two chunks of rows of the gradient, the first of which is added up while the job works on the second.
  const tokens = 1500
  const many = { data: random(tokens * width), shape: [1, tokens, width] }
  const manyIds = Int32Array.from({ length: tokens }, (_, i) => (i * 397) % words)
  const sums = []
  const counted = {
    ...{ rank, size },
    allGather: (send, receive) => communicator.allGather(send, receive),
    allReduceSum: (data) => (sums.push(data.length / width), communicator.allReduceSum(data)),
    barrier: () => communicator.barrier(),
    abort: () => communicator.abort(),
  }
  const head = { shard: { start: first, vocab: words }, gradient: true }
  const c = await api.linearCrossEntropy(many, part, manyIds, { ...head, communicator: counted })
  const d = api.linearCrossEntropySync(many, part, manyIds, { ...head, communicator })
  for (const name of ['gradHidden', 'gradWeight']) same.push([name, hash(c[name].data) === hash(d[name].data)])
  tell({ same, sums, hidden: hash(a.gradHidden.data) + hash(c.gradHidden.data) })

  // A rank whose labels are bad.
  const bad = rank === 1 ? labels.with(1, vocab) : labels
  const before = performance.now()
  tell(await told(api.fusedPreferenceLoss(own, bad, shared)))
  tell(performance.now() - before)
`

describe.each(MPIS)('$name', (mpi) => {
  test.each([2, 4])('golden cases on %i ranks', async (size) => {
    const { status, stderr } = await runRanks(mpi, { size, javaScript: GOLDEN })
    expect(status, stderr).toBe(0)
    // biome-ignore lint/suspicious/noExplicitAny: what the program has found
    const told: any[][] = Array.from({ length: size }, (_, r) => JSON.parse(readFileSync(foundBy(r), 'utf8')))
    for (let r = 0; r < size; r++) rmSync(foundBy(r))
    expect(told[0].length).toBeGreaterThan(20)
    for (const [k, { i, loss, chosenLogProbs, bits, dtype }] of told[0].entries()) {
      const { name, expected, logits } = CASES[i]
      for (const other of told) expect(other[k].bits, name).toEqual(bits)
      expect(Math.abs(loss - expected.loss), name).toBeLessThanOrEqual(expected.bounds.loss)
      for (const [s, x] of expected.chosenLogProbs.entries()) {
        expect(Math.abs(chosenLogProbs[s] - x), name).toBeLessThanOrEqual(expected.bounds.chosenLogProbs[s])
      }
      const [, time, vocab] = logits.shape
      const parts = told.map((of) => {
        const buffer = Uint8Array.from(Buffer.from(of[k].gradient, 'base64')).buffer
        return dtype === 'float32' ? new Float32Array(buffer) : new Uint16Array(buffer)
      })
      for (const [at, value] of expected.gradient.values.map(Number).entries()) {
        const index = expected.gradient.at?.[at] ?? at
        const [row, column] = [Math.floor(index / vocab), index % vocab]
        const r = told.findIndex((of) => column < of[k].end)
        const { start, end } = told[r][k]
        const got = decode[dtype as 'float32'](parts[r][row * (end - start) + column - start])
        const { coefficients, bounds } = expected
        const sequence = Math.floor(row / time)
        const own = coefficients[sequence] === 0 ? 0 : bounds.coefficients[sequence] / Math.abs(coefficients[sequence])
        const relative = own + { float32: 0, float16: 2 ** -11, bfloat16: 2 ** -8 }[dtype as 'float32']
        const smallest = dtype === 'float16' ? 2 ** -25 : 1e-38
        const bound = 4 * ulp(value) + Math.abs(value) * relative + smallest
        if (!(Math.abs(got - value) <= bound))
          expect.unreachable(`${name}[${index}] is ${got}, not ${value} ± ${bound}`)
      }
    }
  })

  test.each([2, 3])('whole segments on %i ranks have the bits of one process; a failure is told', async (size) => {
    const { status, values, stderr } = await runRanks(mpi, { size, javaScript: BITS })
    expect(status, stderr).toBe(0)
    const told = values as [{ same: [string, boolean][]; sums: number[]; hidden: string }, string, number][]
    expect(told).toHaveLength(size)
    for (const [r, [{ same, sums, hidden }, problem, milliseconds]] of told.entries()) {
      expect(same.length).toBeGreaterThan(20)
      expect(same.filter(([, isSame]) => !isSame)).toEqual([])
      expect(sums).toEqual([1056, 443])
      expect(hidden).toBe(told[0][0].hidden)
      expect(problem).toMatch(
        r === 1 ? /^ERR_LABEL_OUT_OF_RANGE: / : /^ERR_RANK_FAILED: rank 1 of \d has failed: ERR_LA/,
      )
      expect(milliseconds).toBeLessThan(5000)
    }
  })
})
