/**
 * The benchmark harness: its arithmetic, and a short run that measures, checks and reports. No test depends on speed.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { CUDA } from './support.js'

const BENCH = fileURLToPath(new URL('../bench/', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'bench-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** The files of bench/ are JavaScript, without declarations. */
const load = (file: string) => import(new URL(`../bench/${file}`, import.meta.url).href)
const node = (file: string, ...options: string[]) =>
  spawnSync(process.execPath, [join(BENCH, file), ...options], { encoding: 'utf8' })

describe('statistics', async () => {
  const { median, quantile, summarise } = await load('statistics.mjs')

  it('interpolates between samples, in whatever order they come', () => {
    expect(median([5, 1, 3])).toBe(3)
    expect(median([4, 1, 3, 2])).toBe(2.5)
    expect(quantile([10, 0], 0.2)).toBeCloseTo(2, 12)
    expect(quantile([7], 0.8)).toBe(7)
    expect(summarise([0, 10, 20, 30, 40, 50])).toEqual({ median: 25, p20: 10, p80: 40 })
  })

  it('leaves the samples as they are, and wants at least one', () => {
    const samples = [3, 1, 2]
    median(samples)
    expect(samples).toEqual([3, 1, 2])
    expect(() => median([])).toThrow(RangeError)
  })
})

describe('roofline', async () => {
  const { bandwidths, floorSeconds, leastTraffic, sweepsFor } = await load('roofline.mjs')
  const { activeRows } = await load('inputs.mjs')
  const workload = { stage: 'step', dtype: 'float32', shape: [4, 8, 100], shift: false, masked: 0 }
  const all = 4 * 8 * 100 * 4
  const none = { read: 0, copy: 0, update: 0, fill: 0, multiply: 0 }

  it('counts the fewest bytes of each stage', () => {
    expect(leastTraffic({ ...workload, stage: 'forward' })).toEqual({ ...none, read: all })
    expect(leastTraffic(workload)).toEqual({ ...none, read: all, copy: 2 * all })
    expect(leastTraffic({ ...workload, stage: 'in-place' })).toEqual({ ...none, read: all, update: 2 * all })
    expect(leastTraffic({ ...workload, dtype: 'bfloat16' }).read).toBe(all / 2)
  })

  it('reads no row that does not count, and writes its gradient', () => {
    const shifted = { ...workload, shift: true }
    expect(leastTraffic(shifted)).toEqual({ ...none, read: (all * 7) / 8, copy: (all * 14) / 8, fill: all / 8 })
    const masked = { ...workload, stage: 'in-place', masked: 0.5 }
    const active = activeRows(masked) * 400
    expect(active).toBeGreaterThan(0)
    expect(active).toBeLessThan(all)
    expect(leastTraffic(masked)).toEqual({ ...none, read: active, update: 2 * active, fill: all - active })
    expect(leastTraffic({ ...masked, leaveMasked: true }).fill).toBe(0)
  })

  it('counts the operations of an output layer, of rows that count', () => {
    const linear = { ...workload, stage: 'linear-forward', width: 7 }
    expect(leastTraffic(linear)).toEqual({ ...none, multiply: 2 * 32 * 100 * 7 })
    expect(leastTraffic({ ...linear, stage: 'linear-step', shift: true })).toEqual({
      ...none,
      multiply: 8 * 28 * 100 * 7,
    })
    expect(sweepsFor(leastTraffic(linear))).toEqual(['multiply'])
    expect(
      floorSeconds(leastTraffic(linear), bandwidths([{ multiply: 0.5 }, { multiply: 0.25 }, { multiply: 1 }], 99)),
    ).toBe(22400)
  })

  it('takes each byte at the speed of its kind', () => {
    const traffic = { read: 100, copy: 200, update: 0, fill: 0 }
    expect(floorSeconds(traffic, { read: 50, copy: 40 })).toBe(7)
    expect(sweepsFor(traffic)).toEqual(['read', 'copy', 'copyStreaming'])
  })

  it('takes the faster way to copy, at the medians of its sweeps', () => {
    const samples = [
      { read: 2, copy: 4, copyStreaming: 3 },
      { read: 1, copy: 5, copyStreaming: 9 },
      { read: 9, copy: 4, copyStreaming: 2 },
    ]
    expect(bandwidths(samples, 12)).toEqual({ read: 6, copy: 8 })
  })
})

describe('agreement', async () => {
  const { compare } = await load('agreement.mjs')
  const ours = { logProbs: [-100, -50], loss: 0.5, gradient: [0, 0.25] }

  it('finds the largest difference', () => {
    expect(compare(ours, ours, 'float32')).toMatchObject({ agrees: true, error: 0 })
    const off = { ...ours, loss: 0.6 }
    expect(compare(ours, off, 'float32')).toMatchObject({ agrees: false, of: 'loss', error: expect.closeTo(0.2, 10) })
  })

  it('takes NaN and missing values for a disagreement', () => {
    expect(compare(ours, { ...ours, gradient: [0, Number.NaN] }, 'bfloat16').agrees).toBe(false)
    expect(compare(ours, { ...ours, logProbs: [-100] }, 'bfloat16').agrees).toBe(false)
    expect(compare(ours, { loss: 0.5 }, 'bfloat16').agrees).toBe(false)
  })
})

describe('inputs', async () => {
  const { makeLogits, valueAt } = await load('inputs.mjs')
  const workload = { stage: 'forward', shape: [2, 4, 1000], shift: false, masked: 0 }

  it.each(['float32', 'bfloat16', 'float16'])('are normal in %s, without zeros', (dtype) => {
    const logits = makeLogits({ ...workload, dtype })
    const values = Array.from(logits, (_, i) => valueAt(logits, i, dtype) as number)
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length
    const variance = values.reduce((sum, x) => sum + x * x, 0) / values.length
    expect(Math.abs(mean)).toBeLessThan(0.05)
    expect(Math.abs(variance - 1)).toBeLessThan(0.05)
    expect(values.filter((x) => x === 0)).toEqual([])
    const exact = makeLogits({ ...workload, dtype: 'float32' })
    const precision = { float32: 0, bfloat16: 2 ** -8, float16: 2 ** -11 }[dtype] as number
    for (const [i, x] of values.entries()) expect(Math.abs(x - exact[i])).toBeLessThanOrEqual(precision * Math.abs(x))
  })
})

describe('npm run bench', () => {
  it('checks a peer, times it and writes what it found', () => {
    const json = join(folder, 'results.json')
    const run = node('run.mjs', '--quick', '--case', 'small-call-loss', '--peer', 'plain-js', '--json', json)
    expect(run.stderr).toContain('small-call-loss')
    expect(run.status).toBe(0)
    expect(run.stdout).toContain('plain JavaScript loops')

    const results = JSON.parse(readFileSync(json, 'utf8'))
    expect(results).toMatchObject({
      format: 1,
      machine: { threads: expect.any(Number) },
      versions: { node: process.versions.node },
    })
    expect(Date.parse(results.date)).toBeGreaterThan(Date.parse('2020-01-01'))
    expect(results.cases).toHaveLength(1)
    const [{ name, entries, skipped }] = results.cases
    expect(name).toBe('small-call-loss')
    expect(skipped).toEqual([])
    expect(entries.map((entry: { peer: string }) => entry.peer)).toEqual(['ours', 'plain-js'])
    for (const entry of entries) {
      expect(entry.agreement.agrees).toBe(true)
      expect(entry.samples.length).toBeGreaterThanOrEqual(3)
      expect(entry.p20).toBeLessThanOrEqual(entry.median)
      expect(entry.median).toBeLessThanOrEqual(entry.p80)
      expect(entry.median).toBeGreaterThan(0)
    }
    expect(entries[0].ratio).toBe(1)

    const report = node('report.mjs', json, '--out', folder)
    expect(report.status).toBe(0)
    const page = readFileSync(join(folder, 'benchmarks.md'), 'utf8')
    const ratio = entries[1].ratio
    expect(page).toContain('| case | ours | roofline | plain loops | others |')
    expect(page).toMatch(/^\| small-call-loss \[16, 1, 1\] float32 \| [\d.]+ µs \| {2}\| [\d.]+× \| {2}\|$/m)
    expect(Number(page.match(/\| ([\d.]+)× \| {2}\|$/m)?.[1]) / ratio).toBeCloseTo(1, 2)
  }, 60_000)

  it('holds a stage against the memory', () => {
    const json = join(folder, 'stages.json')
    const options = ['--quick', '--megabytes', '1', '--case', 'masked-50-in-place', '--peer', 'plain-js']
    expect(node('run.mjs', ...options, '--json', json).status).toBe(0)
    const [{ entries, rooflines }] = JSON.parse(readFileSync(json, 'utf8')).cases
    expect(Object.keys(rooflines[0].bandwidth)).toEqual(['read', 'update'])
    expect(entries).toHaveLength(3)
    for (const entry of entries) {
      expect(entry.agreement).toMatchObject({ agrees: true })
      expect(entry.share).toBeCloseTo(entry.floor / entry.median, 12)
    }
  }, 60_000)

  it('compares our ops inside trainers with their own', () => {
    const json = join(folder, 'trainers.json')
    const names = ['tfjs-wasm', 'tfjs-wasm-ours', 'jax-js', 'jax-js-ours']
    const peers = names.flatMap((name) => ['--peer', name])
    const run = node('run.mjs', '--quick', '--megabytes', '1', '--case', 'in-a-trainer', ...peers, '--json', json)
    expect(run.status).toBe(0)
    const [{ entries, skipped }] = JSON.parse(readFileSync(json, 'utf8')).cases
    expect(skipped).toEqual([])
    expect(entries.map((entry: { peer: string }) => entry.peer)).toEqual(['ours', ...names])
    for (const { agreement } of entries) expect(agreement).toMatchObject({ agrees: true })
  }, 60_000)

  it.each([
    ['--case', 'backwards', /no case .* 'backwards'[\s\S]*small-call-fused/],
    ['--peer', 'abacus', /no peer .* 'abacus'[\s\S]*plain-js/],
    ['--dtype', 'int8', /'int8'[\s\S]*bfloat16/],
    ['--backend', 'abacus', /'abacus'[\s\S]*cuda/],
    ['--threads', 'many', /whole number/],
    ['--frobnicate', '', /frobnicate/],
  ])('says what is wrong with %s %s', (option, value, message) => {
    const run = node('run.mjs', option, value)
    expect(run.stderr).toMatch(message)
    expect(run.stderr).not.toContain('    at ')
    expect(run.status).toBe(2)
  })

  it('says why there is no CUDA backend', () => {
    process.env.FPL_HOST_DEVICES = '0'
    const run = node('run.mjs', '--backend', 'cuda')
    delete process.env.FPL_HOST_DEVICES
    expect(run.stderr).toContain('no NVIDIA GPU found')
    expect(run.status).toBe(1)
  })

  it.runIf(CUDA.length > 0)('measures the cuda backend', () => {
    const file = join(folder, 'cuda.json')
    const run = node('run.mjs', '--backend', 'cuda', '--megabytes', '1', '--case', 'bfloat16-v32000', '--json', file)
    expect(run.stderr).toBe('')
    const { device, cases } = JSON.parse(readFileSync(file, 'utf8'))
    expect(device.multiprocessors).toBeGreaterThan(0)
    for (const { rows, bandwidth, results } of cases) {
      expect(bandwidth).toBeGreaterThan(0)
      expect(results.map(({ stage }: { stage: string }) => stage)).toEqual(['forward', 'step', 'in-place'])
      for (const { ms, workspaceBytes } of results) {
        expect(ms).toBeGreaterThan(0)
        expect(workspaceBytes).toBeLessThan(2 ** 20 + 32 * rows)
      }
    }
  })
})
