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
  expect(issue).toBeCloseTo((1e3 * LOGITS * 9.7) / (132 * 4 * 32 * 1.98e9), 12)
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
  const layer = callOf('step of an output layer of width 4096')
  expect(layer.passes.map(({ bytes }) => bytes)).toEqual([4, 6])
  const none = { ...layer, products: 0 }
  const product = (1e3 * 2 * LOGITS * 4096) / 790e12
  expect(predict(layer, H100) - predict(none, H100)).toBeCloseTo((3 * product) / 0.9, 9)
})

/** What a bench would have written where everything took so many times what is predicted. */
function measured(times: number, copy = H100.copy) {
  const gpu = { ...H100, copy, products: 800 }
  const cases = (CALLS as Call[]).map((call) => ({
    name: call.case,
    bandwidth: 1e3 * copy,
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
  const [{ device }, head] = measured(1)
  expect(run([{ device, cases: [] }, head]).status).toBe(1)
  const other = run([{ device: { name: 'NVIDIA T4', multiprocessors: 40 }, cases: [] }])
  expect([other.status, other.stderr.includes('there are no predictions for NVIDIA T4')]).toEqual([1, true])
})
