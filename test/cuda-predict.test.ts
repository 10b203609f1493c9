/**
 * The predicted times on GPUs: that they follow from bytes and instructions, that the docs have them, and that measurements
 * prove or break them.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it, onTestFinished } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))
const script = (name: string) => import(new URL(`../scripts/${name}`, import.meta.url).href)
const { CALLS, judge, limitsOf, predict, table } = await script('cuda-predict.mjs')
const { MOST_INSTRUCTIONS } = await script('cuda-counts.mjs')

interface Call {
  name: string
  case: string
  stage: string
  passes: { logits: number; bytes: number; instructions: number }[]
}

const LOGITS = 8192 * 128256
const H100 = { name: 'H100', multiprocessors: 132, clock: 1.98, copy: 3, products: 790 }
const callOf = (name: string) => (CALLS as Call[]).find((call) => call.name === name) as Call

it('the docs have the table that the command prints', () => {
  const docs = readFileSync(join(root, 'docs/performance.md'), 'utf8')
  expect(docs).toContain(table().join('\n'))
  const { status, stdout } = spawnSync(process.execPath, ['scripts/cuda-predict.mjs'], { cwd: root, encoding: 'utf8' })
  expect([status, stdout.trimEnd()]).toEqual([0, table().join('\n')])
})

it('a kernel that memory holds back takes its bytes at the speed of a copy', () => {
  const [sweep] = callOf('forward').passes
  expect(sweep).toEqual({ logits: LOGITS, bytes: 2, instructions: MOST_INSTRUCTIONS['sweepKernel<bf16>'] })
  const { memory, issue } = limitsOf(sweep, H100)
  expect(memory).toBeCloseTo((1e3 * 2 * LOGITS) / 3e12, 12)
  // Four warps of 32 threads a clock and multiprocessor.
  expect(issue).toBeCloseTo((1e3 * LOGITS * 6.2) / (132 * 4 * 32 * 1.98e9), 12)
  expect(predict(callOf('forward'), H100)).toBeCloseTo(memory / 0.95 + 0.005, 12)
})

it('a kernel that instructions hold back takes them at four fifths of what is issued', () => {
  const fast = { ...H100, copy: 30 }
  const [sweep, gradient] = callOf('step').passes
  const wanted = (limitsOf(sweep, fast).issue + limitsOf(gradient, fast).issue) / 0.8 + 0.01
  expect(predict(callOf('step'), fast)).toBeCloseTo(wanted, 12)
})

it('a step reads twice and writes once, rows that predict nothing cost nothing, and an output layer is its products besides', () => {
  const bytes = (name: string) => callOf(name).passes.map((pass) => pass.logits * pass.bytes)
  expect(bytes('step')).toEqual([2 * LOGITS, 4 * LOGITS])
  expect(bytes('step, half masked, those rows left alone')).toEqual([LOGITS, 2 * LOGITS])
  expect(bytes('step, float32')).toEqual([4 * LOGITS, 8 * LOGITS])
  expect(bytes('step with a deferred scale')).toEqual([4 * LOGITS])
  expect(bytes('step with a deferred scale, float32')).toEqual([8 * LOGITS])
  const layer = callOf('step of an output layer of width 4096')
  expect(layer.passes.map(({ bytes }) => bytes)).toEqual([4, 6])
  const none = { ...layer, products: 0 }
  const product = (1e3 * 2 * LOGITS * 4096) / 790e12
  expect(predict(layer, H100) - predict(none, H100)).toBeCloseTo((3 * product) / 0.9, 9)
})

it('rows that are read and written in one go have the instructions of both, in three launches', () => {
  const fast = { ...H100, copy: 30 }
  const both = MOST_INSTRUCTIONS['sweepKernel<bf16>'] + MOST_INSTRUCTIONS['rowKernel<bf16>']
  const wanted = (1e3 * LOGITS * both) / (132 * 4 * 32 * 1.98e9) / 0.8 + 0.01
  for (const name of ['step with a deferred scale', 'cross-entropy with its gradient']) {
    expect(predict(callOf(name), fast)).toBeCloseTo(wanted, 12)
  }
})

it('the benches measure every stage that is predicted', () => {
  const sources = ['run', 'head'].map((name) => readFileSync(join(root, `bench/cuda/${name}.mjs`), 'utf8'))
  for (const { stage, case: name } of CALLS as Call[]) {
    const source = sources[name === 'head' ? 1 : 0]
    const [measured, inGraph] = stage.split(/(?= in a graph$)/)
    expect(source).toMatch(new RegExp(`add\\(\\s*'${measured}'`))
    if (inGraph) expect(source).toContain(`tell(\`\${stage}${inGraph}\``)
  }
})

/** What a bench would have written where everything took so many times what is predicted. */
function measured(times: number, copy = H100.copy, bandwidthInGraph = 1e3 * copy) {
  const gpu = { ...H100, copy, products: 800 }
  const cases = (CALLS as Call[]).map((call) => ({
    name: call.case,
    bandwidth: 1e3 * copy,
    bandwidthInGraph,
    results: [
      { peer: 'torch eager', case: call.case, stage: call.stage, ms: 99 },
      { peer: 'ours', case: call.case, stage: call.stage, ms: times * predict(call, gpu) },
    ],
  }))
  return [
    { device: { name: 'NVIDIA H100 80GB HBM3', multiprocessors: 132 }, cases },
    { results: [{ peer: 'cublas', teraflops: 800 }] },
  ]
}

/** The layer as bench/cuda/head.mjs has measured it. */
const HEAD = { results: [{ peer: 'ours', case: 'head', stage: 'step', ms: 40 }] }

it.each([
  [1, true],
  [1.09, true],
  [0.92, true],
  [1.11, false],
  [0.89, false],
])('medians of %d times their predictions hold: %s', (times, holds) => {
  for (const copy of [2.8, 3.2]) {
    const found = judge(measured(times, copy))
    expect(found.map((one: { holds: boolean }) => one.holds)).toEqual(Array(CALLS.length).fill(holds))
  }
})

it('takes the speed that was measured, in a graph that of a graph, for a layer the best one', () => {
  const of = (found: { name: string; predicted: number }[], name: string) =>
    found.find((one) => one.name === name)?.predicted
  const [inGraph, layer] = ['step of 64 rows, in a graph', 'step of an output layer of width 4096']
  const [bench, head] = measured(1, 2, 2500) as [{ cases: { name: string }[] }, object]
  const found = judge([{ ...bench, cases: bench.cases.filter(({ name }) => name !== 'head') }, head, HEAD])
  const gpu = { ...H100, products: 800 }
  expect(of(found, inGraph)).toBeCloseTo(predict(callOf(inGraph), { ...gpu, copy: 2.5 }), 12)
  expect(of(found, layer)).toBeCloseTo(predict(callOf(layer), { ...gpu, copy: 2 }), 9)
})

it('tells what holds and what is broken, fails for the latter, and knows no other GPU', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fpl-predict-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const run = (files: object[]) => {
    const paths = files.map((file, i) => {
      writeFileSync(join(folder, `${i}.json`), JSON.stringify(file))
      return join(folder, `${i}.json`)
    })
    return spawnSync(process.execPath, ['scripts/cuda-predict.mjs', ...paths], { cwd: root, encoding: 'utf8' })
  }
  const good = run(measured(1))
  expect([good.status, good.stdout.match(/: holds$/gm)?.length]).toEqual([0, CALLS.length])
  const bad = run(measured(1.2))
  expect([bad.status, bad.stdout.match(/off by {2}20 %: BROKEN$/gm)?.length]).toEqual([1, CALLS.length])
  // Calls of a file that are not in it have not held; those of the file that is not given are not asked for.
  const [bench, head] = measured(1) as [{ device: object; cases: { name: string }[] }, object]
  const missing = run([{ ...bench, cases: bench.cases.slice(1) }, head])
  expect([missing.status, missing.stdout.match(/not measured$/gm)?.length]).toEqual([1, 1])
  const alone = run([bench])
  expect([alone.status, alone.stdout.includes('not measured')]).toEqual([0, false])
  const other = run([{ device: { name: 'NVIDIA T4', multiprocessors: 40 }, cases: [] }])
  expect([other.status, other.stderr.includes('there are no predictions for NVIDIA T4')]).toEqual([1, true])
})
