/**
 * The benchmark harness: its arithmetic, and a short run that measures, checks and reports. No test depends on speed.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it, vi } from 'vitest'
import { CHROMIUM } from '../scripts/chromium.mjs'
import { CUDA, WASM } from './support.js'

const BENCH = fileURLToPath(new URL('../bench/', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'bench-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** The files of bench/ are JavaScript, without declarations. */
const load = (file: string) => import(new URL(`../bench/${file}`, import.meta.url).href)
const node = (file: string, ...options: string[]) =>
  spawnSync(process.execPath, [join(BENCH, file), ...options], { encoding: 'utf8' })
/** A batch, and a cache, whose sweeps take no time. */
const SMALL = ['--megabytes', '1', '--cache-megabytes', '4']

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

describe('the load of repetitions', async () => {
  const { busyThreads, undisturbed } = await load('load.mjs')
  const { droppedLines } = await load('table.mjs')

  it('is of the threads that a contender keeps busy', () => {
    expect(busyThreads([1.9, 1.1, 1.8], 2)).toBe(2)
    expect(busyThreads([1, 1.02, 0.98], 2)).toBe(1)
    // The collector's own threads, once.
    expect(busyThreads([1, 1.9, 1], 2)).toBe(1)
    expect(busyThreads([2.1, 2.2], 1)).toBe(1)
    expect(busyThreads([0.3, 0.2], 2)).toBe(1)
    expect(busyThreads([1.9], 2)).toBe(2)
  })

  it('drops those that shared their processors, never all', () => {
    expect(undisturbed([1.9, 1, 2, 1.59, 1.61], 2)).toEqual([true, false, true, false, true])
    expect(undisturbed([1, 0.79, 0.81, 1], 2)).toEqual([true, false, true, true])
    expect(undisturbed([0.5, 0.4, 0.6], 2)).toEqual([true, true, true])
    // The figures of one are not told from chance.
    expect(undisturbed([1.9, 1.5, 1.5], 2)).toEqual([true, true, true])
    expect(undisturbed([undefined, undefined], 2)).toEqual([true, true])
    expect(undisturbed([], 2)).toEqual([])
  })

  it('is told where it dropped some', () => {
    const samples = [1, 2]
    const entries = [
      { title: 'ours', dropped: 3, samples },
      { title: '  a peer', dropped: 0, samples },
    ]
    const rooflines = [{ meter: 'memory', threads: 2, dropped: 1, samples }]
    expect(droppedLines({ entries, rooflines })).toEqual([
      'repetitions dropped, with less than 0.8 of the processor time of its threads: ours 3 of 5; memory, 2 threads 1 of 3',
    ])
    expect(droppedLines({ entries: entries.slice(1), rooflines: [] })).toEqual([])
  })
})

describe.runIf(process.platform === 'linux')('contenders', () => {
  const stateOf = (pid: number) => readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1][0]
  const ended = (pid: number) => !existsSync(`/proc/${pid}`) || stateOf(pid) === 'Z'

  it('stand still while another is measured, and end with the benchmark even so', async () => {
    const program = `
      import { startProcess } from ${JSON.stringify(new URL('../bench/contender.mjs', import.meta.url).href)}
      const [one, other] = [startProcess('plain-js', 60), startProcess('plain-js', 60)]
      for (const contender of [one, other]) contender.pause()
      other.resume()
      console.log(JSON.stringify([one.child.pid, other.child.pid]))
      setInterval(() => {}, 1000)`
    const bench = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: ['ignore', 'pipe', 2] })
    const [line] = await once(bench.stdout!, 'data')
    const [one, other] = JSON.parse(String(line))
    try {
      await vi.waitFor(() => expect(stateOf(one)).toBe('T'), 10_000)
      expect(stateOf(other)).not.toBe('T')
    } finally {
      bench.kill('SIGTERM')
    }
    expect(await once(bench, 'exit')).toEqual([143, null])
    await vi.waitFor(() => expect([one, other].map(ended)).toEqual([true, true]), 10_000)
  }, 30_000)
})

describe('roofline', async () => {
  const { bandwidths, floorSeconds, leastTraffic, sweepsFor } = await load('roofline.mjs')
  const { activeRows } = await load('inputs.mjs')
  const workload = { stage: 'step', dtype: 'float32', shape: [4, 8, 100], shift: false, masked: 0 }
  const all = 4 * 8 * 100 * 4
  const none = { read: 0, copy: 0, update: 0, fill: 0, multiply: 0, multiplyPairs: 0 }

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
      multiply: 6 * 28 * 100 * 7,
    })
    const pairs = leastTraffic({ ...linear, dtype: 'bfloat16' })
    expect(pairs).toEqual({ ...none, multiplyPairs: 2 * 32 * 100 * 7 })
    expect(sweepsFor(pairs)).toEqual(['multiplyPairs'])
    expect(floorSeconds(pairs, bandwidths([{ multiplyPairs: 0.5 }], 99))).toBe(22400)
    expect(sweepsFor(leastTraffic(linear))).toEqual(['multiply'])
    expect(
      floorSeconds(leastTraffic(linear), bandwidths([{ multiply: 0.5 }, { multiply: 0.25 }, { multiply: 1 }], 99)),
    ).toBe(22400)
  })

  it('takes each byte at the speed of its kind', () => {
    const traffic = { read: 100, copy: 200, update: 0, fill: 0 }
    expect(floorSeconds(traffic, { read: 50, copy: 40 })).toBe(7)
    expect(sweepsFor(traffic)).toEqual(['read', 'readAhead', 'copy', 'copyStreaming', 'copyAhead'])
  })

  it('takes the faster way to copy, at the medians of its sweeps', () => {
    const samples = [
      { read: 2, readAhead: 4, copy: 4, copyStreaming: 3, copyAhead: 5 },
      { read: 1, readAhead: 3, copy: 5, copyStreaming: 9, copyAhead: 5 },
      { read: 9, readAhead: 5, copy: 4, copyStreaming: 2, copyAhead: 5 },
    ]
    expect(bandwidths(samples, 12)).toEqual({ read: 6, copy: 8 })
    expect(bandwidths([{ read: 3, readAhead: 2, update: 4, updateAhead: 3 }], 12)).toEqual({ read: 6, update: 8 })
  })
})

describe('the limits of WebAssembly', async () => {
  const { multiplyAdds, passThrough, ROUND_OPERATIONS, wasmLimits } = await load('peers/wasm-limits.mjs')

  it('multiply and add as often as is counted', () => {
    expect(multiplyAdds()(1000)).toBeCloseTo(2 * 12, 5)
    // With a factor of 1 each step adds 1 to each sum.
    const run = multiplyAdds(1)
    expect((run(1001) - run(1)) * 4 * 2).toBe(1000 * ROUND_OPERATIONS)
  })

  it('copy every byte, in chunks', () => {
    const source = Uint8Array.from({ length: 1000 }, (_, i) => i % 251)
    const target = new Uint8Array(1000)
    const memory = new Uint8Array(64)
    passThrough(memory, source, target)
    expect(target).toEqual(source)
    expect([...memory.subarray(0, 40)]).toEqual([...source.subarray(960)])
  })

  it('measure the sweeps that are wanted and no others', () => {
    for (const wanted of [['read'], ['copy', 'copyStreaming'], ['update', 'fill', 'fillStreaming'], ['multiply']]) {
      wasmLimits.prepare({}, {}, { bytes: 2 ** 21, sweeps: wanted })
      const seconds = wasmLimits.run()
      expect(Object.keys(seconds)).toEqual(wanted.filter((sweep) => !sweep.endsWith('Streaming')))
      for (const value of Object.values(seconds)) expect(value).toBeGreaterThan(0)
    }
  })
})

describe('errors of output layers', async () => {
  const { accuracyOf, errors, problem } = await load('accuracy.mjs')
  const { wantedAccuracy } = await load('measure.mjs')
  const { findPeer } = await load('peers/index.mjs')
  const like = { stage: 'linear-step', shape: [16, 1, 2048], width: 40, shift: false, masked: 0 }

  it.each(['float32', 'bfloat16'])('of %s are those of float32 arithmetic for ours', async (dtype) => {
    const { unlikely, sure } = await accuracyOf(findPeer('ours-js').another(), { ...like, dtype }, { threads: 1 })
    for (const { logProb, hidden, weight } of [unlikely, sure]) {
      expect(logProb).toBeLessThan(1e-6)
      for (const error of [hidden, weight]) {
        expect(error).toBeGreaterThan(1e-9)
        expect(error).toBeLessThan(2e-5)
      }
    }
  })

  it('are of labels that are unlikely, and of those that are nearly certain', () => {
    const least = (sure: boolean) => Math.min(...problem({ ...like, dtype: 'float32' }, sure).wanted.logProbs)
    const most = (sure: boolean) => Math.max(...problem({ ...like, dtype: 'float32' }, sure).wanted.logProbs)
    expect(least(true)).toBeGreaterThan(-0.05)
    expect(most(true)).toBeLessThan(-1e-4)
    expect(most(false)).toBeLessThan(-3)
  })

  it('are relative to the norms of the gradients', () => {
    const wanted = { logProbs: [-1, -2], hidden: [3, 4], weight: [1, 0] }
    expect(errors(wanted, { logProbs: [-1, -2.5], gradient: [3, 4.5, 1, 0.25] })).toEqual({
      logProb: 0.5,
      hidden: 0.1,
      weight: 0.25,
    })
    expect(errors(wanted, {}).hidden).toBeNaN()
  })

  it('are measured once for each peer, type, width and way of ours', () => {
    const known = new Set()
    const wanted = (peer: object, workload: object, settings: object = {}, index = 0) =>
      wantedAccuracy({ peer, workload: { ...like, dtype: 'bfloat16', ...workload }, settings, index }, known)
    const asked = (...of: Parameters<typeof wanted>) => {
      const key = wanted(...of)
      if (key) known.add(key)
      return key !== undefined
    }
    const [one, other] = [{ name: 'one' }, { name: 'other' }]
    const head = { gradientPrecision: 'bfloat16' }
    expect(asked(one, { stage: 'linear-forward' })).toBe(false)
    // One that was wanted in vain is wanted again.
    expect(wanted(one, {})).toBeTypeOf('string')
    expect(asked(one, {})).toBe(true)
    expect(asked(one, { shape: [8, 64, 32000] })).toBe(false)
    expect([asked(other, {}), asked(one, { dtype: 'float32' }), asked(one, { width: 64 })]).toEqual([true, true, true])
    expect(asked({ name: 'third', compiles: true }, {})).toBe(false)
    expect([asked(one, {}, { threads: 1 }, 1), asked(one, { width: 8 }, { threads: 1 }, 1)]).toEqual([false, false])
    expect([asked(one, {}, { head }, 2), asked(one, {}, { head }, 2)]).toEqual([true, false])
  })
})

describe('copies of the inputs', async () => {
  const { copiesFor } = await load('measure.mjs')

  it('outgrow the caches where these matter', () => {
    expect(copiesFor({ calls: 1 }, {}, 7)).toBe(7)
    expect(copiesFor({ calls: 99 }, {}, 1)).toBe(2)
    expect([copiesFor({ calls: 100 }, {}, 7), copiesFor({ calls: 1 }, { slowness: 1 }, 7)]).toEqual([2, 2])
    expect(copiesFor({ calls: 1, width: 64 }, {}, 7)).toBe(2)
  })
})

describe('tables of the pages', async () => {
  const { headline, layerErrors, layers, withRegion, withTable, withTables } = await load('pages.mjs')
  const runOf = (name: string) => JSON.parse(readFileSync(join(BENCH, 'results', name), 'utf8'))
  const runs = readdirSync(join(BENCH, 'results')).map(runOf)
  const page = (path: string) => readFileSync(join(BENCH, '..', path), 'utf8')

  it("has README's figures from a run that is kept", () => {
    expect(runs.some((run) => page('README.md').includes(headline(run)))).toBe(true)
  })

  const errors = (x: number) => ({ logProb: x, hidden: 2 * x, weight: 3 * x })
  const layer = (stage: string, dtype: string) => ({
    name: `linear-${stage}-16x64-32000-${dtype}`,
    group: `linear-${stage}-${dtype}`,
    dtype,
    shape: [8, 2, 32000],
    entries: [
      {
        peer: 'ours',
        title: 'ours',
        median: 0.002,
        share: 0.5,
        ratio: 1,
        accuracy: { unlikely: errors(1e-7), sure: errors(1e-6) },
      },
      { peer: 'ours', title: '1 thread', median: 0.003, share: 0.75, ratio: 1.5 },
      ...(dtype === 'bfloat16' && stage === 'step'
        ? [
            {
              ...{ peer: 'ours', title: 'one rounding', median: 0.001, share: 1, ratio: 0.5 },
              accuracy: { unlikely: errors(1e-5), sure: errors(1e-5) },
            },
            { peer: 'ours', title: 'AMX', median: 0.0008, ratio: 0.4 },
            { peer: 'torch-without-amx', title: 'PyTorch without', median: 0.007, ratio: 3.5 },
          ]
        : []),
      { peer: 'torch-eager', title: 'PyTorch', median: 0.006, ratio: 3 },
      { peer: 'trl', title: 'TRL', median: 0.005, ratio: 2.5, accuracy: { unlikely: errors(1e-3), sure: errors(0.5) } },
    ],
  })
  const dtypes = ['float32', 'bfloat16']
  const cases = ['forward', 'step'].flatMap((stage) => dtypes.map((dtype) => layer(stage, dtype)))
  const run = { name: 'A machine', date: '2026-11-26T00', machine: { threads: 2 }, versions: {}, cases }

  it('shows output layers and their errors', () => {
    expect(layers(run, 'float32').split('\n')).toEqual([
      "| output layer, float32: rows × width | ours | share | share, 1 thread | PyTorch ÷ ours | TRL's head ÷ ours |",
      '| --- | --: | --: | --: | --: | --: |',
      '| forward, 16 × 64 | 2.00 ms | 50.0 % | 75.0 % | 3.0 | 2.5 |',
      '| step, 16 × 64 | 2.00 ms | 50.0 % | 75.0 % | 3.0 | 2.5 |',
    ])
    const beside = ['one rounding', 'AMX', 'PyTorch', 'PyTorch without AMX', "TRL's head"]
    const head = beside.map((title) => `${title} ÷ ours`).join(' | ')
    expect(layers(run, 'bfloat16').split('\n')).toEqual([
      `| output layer, bfloat16: rows × width | ours | share | share, 1 thread | ${head} |`,
      '| --- | --: | --: | --: | --: | --: | --: | --: | --: |',
      '| forward, 16 × 64 | 2.00 ms | 50.0 % | 75.0 % |  |  | 3.0 |  | 2.5 |',
      '| step, 16 × 64 | 2.00 ms | 50.0 % | 75.0 % | 0.50 | 0.40 | 3.0 | 3.5 | 2.5 |',
    ])
    expect(layerErrors(run).split('\n').slice(2)).toEqual([
      '| float32: ours | 1e-7 | 2e-7 | 3e-7 | 1e-6 | 2e-6 | 3e-6 |',
      '| float32: TRL | 1e-3 | 2e-3 | 3e-3 | 5e-1 | 1e+0 | 2e+0 |',
      '| bfloat16: ours | 1e-7 | 2e-7 | 3e-7 | 1e-6 | 2e-6 | 3e-6 |',
      '| bfloat16: ours, one rounding | 1e-5 | 2e-5 | 3e-5 | 1e-5 | 2e-5 | 3e-5 |',
      '| bfloat16: TRL | 1e-3 | 2e-3 | 3e-3 | 5e-1 | 1e+0 | 2e+0 |',
    ])
  })

  it('replaces a table or a region, and nothing else', () => {
    expect(withTable('a\n\n| x | y |\n|---|\n| 1 |\n\nb', /^\| x/, '| z |')).toBe('a\n\n| z |\n\nb')
    expect(() => withTable('a', /^\| x/, '')).toThrow(RangeError)
    expect(withRegion('a\n<!-- n -->\nold\n<!-- end of n -->\nb', 'n', 'new')).toBe(
      'a\n<!-- n -->\nnew\n<!-- end of n -->\nb',
    )
    expect(() => withRegion('a', 'n', '')).toThrow(RangeError)
    const pages = { readme: page('README.md'), performance: page('docs/performance.md') }
    const { readme, performance } = withTables(pages, run)
    expect(readme).toBe(pages.readme)
    expect(performance).toContain('A machine, 2026-11-26, 2 threads.\n\n| output layer, float32')
    expect(performance.replace(/<!-- output layers -->.*<!-- end/s, '')).toBe(
      pages.performance.replace(/<!-- output layers -->.*<!-- end/s, ''),
    )
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
  const { makeLogits, sharedCopy, valueAt } = await load('inputs.mjs')
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

  it.each(['float32', 'bfloat16'])('can lie in memory that threads share, in %s', (dtype) => {
    const logits = makeLogits({ ...workload, dtype })
    const copy = sharedCopy(logits)
    expect(copy.buffer).toBeInstanceOf(SharedArrayBuffer)
    expect(copy).toEqual(logits)
  })
})

describe('npm run bench', async () => {
  const { plan, readOptions } = await load('options.mjs')

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
      expect(entry.samples.length + entry.dropped).toBeGreaterThanOrEqual(3)
      expect(entry.samples.length).toBeGreaterThanOrEqual(2)
      expect(entry.load).toBeGreaterThan(0)
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
    // A case that is no longer there.
    results.cases.push({ ...results.cases[0], name: 'pairs-in-cache', group: 'pairs-in-cache' })
    writeFileSync(json, JSON.stringify(results))
    expect(node('report.mjs', json, '--out', folder).status).toBe(0)
    expect(readFileSync(join(folder, 'benchmarks.md'), 'utf8')).toBe(page)
  }, 60_000)

  it('holds a stage against the memory', () => {
    const json = join(folder, 'stages.json')
    const options = ['--quick', ...SMALL, '--case', 'masked-50-in-place', '--peer', 'plain-js']
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
    const run = node('run.mjs', '--quick', ...SMALL, '--case', 'in-a-trainer', ...peers, '--json', json)
    expect(run.status).toBe(0)
    const [{ entries, skipped }] = JSON.parse(readFileSync(json, 'utf8')).cases
    expect(skipped).toEqual([])
    expect(entries.map((entry: { peer: string }) => entry.peer)).toEqual(['ours', ...names])
    for (const { agreement } of entries) expect(agreement).toMatchObject({ agrees: true })
  }, 60_000)

  const withWasm = it.runIf(WASM.length > 0)

  withWasm(
    'compares the wasm backend with peers, float64 arithmetic and its own limits',
    () => {
      const json = join(folder, 'wasm.json')
      const options = ['--backend', 'wasm', '--quick', ...SMALL, '--case', 'step-32000-float32']
      const peers = ['ours', 'plain-js', 'tfjs-wasm-custom', 'jax-js']
      const run = node('run.mjs', ...options, ...peers.flatMap((name) => ['--peer', name]), '--json', json)
      expect(run.status).toBe(0)
      expect(run.stdout).toMatch(/error +memory\n─+\nthe copies alone .* 100 %/)
      const [{ entries, rooflines, skipped }] = JSON.parse(readFileSync(json, 'utf8')).cases
      expect(skipped).toEqual([])
      expect(entries.map((entry: { peer: string }) => entry.peer)).toEqual(['ours-wasm', ...peers])
      for (const { settings, agreement } of entries) {
        expect(settings).toEqual({ threads: 1 })
        expect(agreement).toMatchObject({ agrees: true, exact: true })
      }
      // Plain loops are float64, too.
      expect(entries[2].agreement.error).toBeLessThan(2 ** -48)
      // Float32 results of float64 sums.
      expect(entries[0].agreement.error).toBeLessThan(2 ** -24)
      expect(rooflines).toMatchObject([{ meter: 'WebAssembly', threads: 1 }])
      expect(Object.keys(rooflines[0].bandwidth)).toEqual(['read', 'copy'])
      const [{ floor, logits, median, share }] = entries
      const { read, copy } = rooflines[0].bandwidth
      expect(floor).toBeCloseTo((4 * logits) / read + (2 * 4 * logits) / copy, 12)
      expect(share).toBeCloseTo(floor / median, 12)

      const report = node('report.mjs', json, '--out', folder)
      expect(report.status).toBe(0)
      expect(readFileSync(join(folder, 'benchmarks.md'), 'utf8')).toMatch(
        /^- through the memory of WebAssembly with 1 thread/m,
      )
    },
    60_000,
  )

  withWasm(
    'measures logits in shared memory, with as many threads as there are',
    () => {
      const json = join(folder, 'shared.json')
      const options = ['--backend', 'wasm', '--quick', ...SMALL, '--case', 'shared-memory']
      expect(node('run.mjs', ...options, '--json', json).status).toBe(0)
      for (const { entries } of JSON.parse(readFileSync(json, 'utf8')).cases) {
        expect(entries[0]).toMatchObject({ title: 'fused-preference-loss, wasm backend', settings: { threads: 1 } })
        const titles = entries.map((entry: { title: string }) => entry.title.trim())
        expect(titles).toContain('1 thread, an ordinary array')
        if (availableParallelism() > 1) expect(titles).toContain(`${availableParallelism()} threads, shared memory`)
        // The bits are the same, wherever the logits are.
        const errors = entries.map((entry: { agreement: { error: number } }) => entry.agreement.error)
        expect(new Set(errors).size).toBe(1)
      }
    },
    60_000,
  )

  withWasm(
    'runs onnxruntime-web, or says what installs it',
    () => {
      const json = join(folder, 'onnxruntime-web.json')
      const options = ['--backend', 'wasm', '--quick', ...SMALL, '--case', 'forward-32000-float32']
      expect(node('run.mjs', ...options, '--peer', 'onnxruntime-web', '--json', json).status).toBe(0)
      const [{ entries, skipped }] = JSON.parse(readFileSync(json, 'utf8')).cases
      if (existsSync(join(BENCH, 'peers/web/node_modules/onnxruntime-web'))) {
        expect(entries[1]).toMatchObject({ peer: 'onnxruntime-web', agreement: { agrees: true } })
      } else {
        expect(skipped).toMatchObject([{ reason: 'no onnxruntime-web; npm run bench:peers installs it' }])
      }
    },
    60_000,
  )

  it.runIf(WASM.length > 0 && (CHROMIUM !== undefined || process.env.CI))(
    'measures the same in Chromium',
    () => {
      const json = join(folder, 'chromium.json')
      const peers = ['tfjs-wasm', 'tfjs-wasm-ours', 'jax-js', 'jax-js-ours']
      const options = ['--quick', ...SMALL, '--case', 'in-a-trainer', '--case', 'shared-memory-forward']
      const run = node('run.mjs', '--browser', ...options, ...peers.flatMap((name) => ['--peer', name]), '--json', json)
      expect(run.status).toBe(0)
      const { versions, cases } = JSON.parse(readFileSync(json, 'utf8'))
      expect(versions.chromium).toMatch(/^\d+\./)
      const [shared, trainer] = cases
      expect(shared.skipped).toEqual([])
      expect(shared.entries.length).toBe(availableParallelism() > 1 ? 4 : 2)
      expect(trainer.skipped).toEqual([])
      expect(trainer.entries.map((entry: { peer: string }) => entry.peer)).toEqual(['ours-wasm', ...peers])
      for (const { agreement, peakBytes } of [...shared.entries, ...trainer.entries]) {
        expect(agreement).toMatchObject({ agrees: true, exact: true })
        if (process.platform === 'linux') expect(peakBytes).toBeGreaterThanOrEqual(0)
      }
      expect(trainer.entries[0].agreement.error).toBeLessThan(2 ** -24)
      expect(trainer.rooflines[0].meter).toBe('WebAssembly')
    },
    120_000,
  )

  it.each([
    [['--browser', '--backend', 'cpu'], /'cpu' in a browser\nbackends: wasm, js$/m],
    [['--browser', '--backend', 'cuda'], /'cuda' in a browser\nbackends: wasm, js$/m],
    [['--browser', '--peer', 'torch-eager'], /no peer is called 'torch-eager'\npeers: ours-wasm, (?!.*torch)/],
    [['--backend', 'cpu', '--case', 'shared-memory'], /no case or group of cases is called 'shared-memory'/],
    [['--backend', 'wasm', '--case', 'in-cache', '--dtype', 'float16'], /no case is left/],
    [['--case', 'backwards'], /no case .* 'backwards'[\s\S]*small-call-fused/],
    [['--peer', 'abacus'], /no peer .* 'abacus'[\s\S]*plain-js/],
    [['--dtype', 'int8'], /'int8'[\s\S]*bfloat16/],
    [['--backend', 'abacus'], /'abacus'[\s\S]*cuda/],
    [['--threads', 'many'], /whole number/],
  ])('says what is wrong with %j', (given, message) => {
    expect(() => plan(readOptions(given))).toThrow(message)
    expect(() => plan(readOptions(given))).toThrow(RangeError)
  })

  it('takes the size of the cache from the machine, or as it is given', () => {
    const sizeOf = (...given: string[]) => plan(readOptions(given)).measuring.lastLevelCache
    expect(sizeOf('--cache-megabytes', '3')).toBe(3 * 2 ** 20)
    expect(sizeOf()).toBe(plan(readOptions([])).machine.lastLevelCache ?? 32 * 2 ** 20)
    expect(() => sizeOf('--cache-megabytes', 'all')).toThrow(RangeError)
  })

  it('measures what is named, and many sizes of output layers with --full', () => {
    const namesOf = (...given: string[]) => plan(readOptions(given)).cases.map(({ name }: { name: string }) => name)
    const grid = namesOf('--full').filter((name: string) => /-\d+x\d+-/.test(name))
    expect(grid).toHaveLength(2 * 2 * 3 * 5)
    expect(new Set(grid).size).toBe(grid.length)
    expect(namesOf().filter((name: string) => /-\d+x\d+-/.test(name))).toHaveLength(2 * 2 * 2)
    expect(namesOf('--quick', '--case', 'linear-step-bfloat16')).toHaveLength(15)
    expect(namesOf('--quick').length).toBeLessThan(10)
  })

  it.each([
    ['--case', 'backwards', /no case .* 'backwards'/],
    ['--frobnicate', '', /frobnicate/],
  ])('ends with a message alone after %s %s', (option, value, message) => {
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
    const run = node(
      'run.mjs',
      '--backend',
      'cuda',
      '--megabytes',
      '1',
      '--case',
      'bfloat16-v32000-rows16-masked50',
      '--json',
      file,
    )
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
