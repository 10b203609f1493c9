/**
 * The file that keeps the metrics of a run, and its lines.
 */
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { runInNewContext } from 'node:vm'
import { afterAll, describe, expect, test } from 'vitest'
import * as inBrowser from '../lib/metrics/append-metrics.browser.js'
import { appendMetrics, metricsLine } from '../lib/metrics/index.js'

const folder = mkdtempSync(join(tmpdir(), 'fused-preference-loss-metrics-'))
afterAll(() => rmSync(folder, { recursive: true }))

describe('appendMetrics', () => {
  const lines = (file: string) => readFileSync(file, 'utf8').split('\n')

  test('a line per call, in files old and new', () => {
    const file = join(folder, 'run.jsonl')
    const metrics = { step: 1, loss: Math.LN2, 'rewards/margins': -0.25 }
    appendMetrics(file, metrics)
    appendMetrics(pathToFileURL(file), { ...metrics, step: 2, learning_rate: 1e-6, note: 'warm-up\n' })
    const [first, second, end] = lines(file)
    expect(JSON.parse(first)).toEqual(metrics)
    expect(JSON.parse(second)).toEqual({ ...metrics, step: 2, learning_rate: 1e-6, note: 'warm-up\n' })
    expect(end).toBe('')
  })

  test('a line cut off by the end of an earlier run stays apart', () => {
    const file = join(folder, 'cut.jsonl')
    appendFileSync(file, '{"step":1}\n{"st')
    appendMetrics(file, { step: 2 })
    expect(lines(file)).toEqual(['{"step":1}', '{"st', '{"step":2}', ''])
  })

  test('an object without a prototype, or of another realm, is as plain as any', () => {
    const file = join(folder, 'plain.jsonl')
    appendMetrics(file, Object.assign(Object.create(null), { step: 1 }))
    appendMetrics(file, runInNewContext('({ step: 2 })'))
    expect(lines(file)).toEqual(['{"step":1}', '{"step":2}', ''])
  })

  test('numbers that JSON has no word for are kept', () => {
    const file = join(folder, 'nan.jsonl')
    appendMetrics(file, { step: 1, loss: Number.NaN, entropy: Number.POSITIVE_INFINITY })
    expect(lines(file)[0]).toBe('{"step":1,"loss":"NaN","entropy":"Infinity"}')
  })

  test('what cannot be kept is refused, and nothing written', () => {
    const file = join(folder, 'refused.jsonl')
    appendMetrics(file, { step: 1 })
    class Metrics {
      loss = 1
      get accuracy() {
        return 2
      }
    }
    const map = new Map([['loss', 1]])
    const bads = [undefined, null, 5, [1], map, new Date(), new Metrics(), Float64Array.of(1), { losses: [1, 2] }]
    for (const bad of [...bads, { loss: 1n }, { toJSON: () => 'x' }]) {
      expect(() => appendMetrics(file, bad as Record<string, unknown>)).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^ERR_INVALID_ARG/) }),
      )
    }
    expect(lines(file)).toEqual(['{"step":1}', ''])
  })
})

describe('metricsLine', () => {
  test('is the line that appendMetrics writes', () => {
    const file = join(folder, 'line.jsonl')
    const metrics = { step: 1, loss: Number.NaN, entropy: Number.NEGATIVE_INFINITY, note: 'a\nb', left: undefined }
    const line = metricsLine(metrics)
    expect(line).toBe('{"step":1,"loss":"NaN","entropy":"-Infinity","note":"a\\nb"}\n')
    appendMetrics(file, metrics)
    expect(readFileSync(file, 'utf8')).toBe(line)
    expect(() => metricsLine(new Map() as never)).toThrow('metrics must be a plain object; got an instance of Map')
  })

  test('is what a browser, which has no files, is sent to', () => {
    expect(() => inBrowser.appendMetrics('run.jsonl', { step: 1 })).toThrow(
      expect.objectContaining({
        code: 'ERR_FEATURE_UNAVAILABLE_ON_PLATFORM',
        message: expect.stringMatching(/^appendMetrics writes a file, which a browser cannot: .*metricsLine/),
      }),
    )
  })
})
