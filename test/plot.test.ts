/**
 * The `plot` command on real files, and its page in headless Chromium, found through CHROMIUM or in the usual places.
 * Without Chromium, the tests of the page in a browser are skipped and say so; under CI they fail.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { appendMetrics } from '../lib/metrics/index.js'
import { CHROMIUM, LAUNCH } from '../scripts/chromium.mjs'

const cli = fileURLToPath(new URL('../dist/cli/index.mjs', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'fused-preference-loss-plot-'))
afterAll(() => rmSync(folder, { recursive: true }))

if (CHROMIUM === undefined) {
  console.warn('plot.test.ts: no Chromium here (set CHROMIUM to its path); the page is not tested in a browser')
}

const file = (name: string) => join(folder, name)
const plot = (...args: string[]) =>
  spawnSync(process.execPath, [cli, 'plot', ...args], { cwd: folder, encoding: 'utf8' })

/** The runs inside a page. */
function runsOf(page: string) {
  return JSON.parse(/id="data">(.*?)<\/script>/s.exec(readFileSync(page, 'utf8'))![1])
}

/** All metrics of a step of a made-up run. */
function metricsAt(step: number) {
  const progress = 1 - Math.exp(-step / 30)
  return {
    step,
    loss: 0.69 - 0.4 * progress,
    'rewards/chosen': -0.5 * progress,
    'rewards/rejected': -2 * progress,
    'rewards/accuracies': 0.5 + 0.4 * progress,
    'rewards/margins': 1.5 * progress,
    'logps/chosen': -150 - 50 * progress,
    'logps/rejected': -150 - 200 * progress,
    entropy: 2 - 0.5 * progress,
    mean_token_accuracy: 0.4 + 0.1 * progress,
    ms: 150 + (step % 7),
    'GB/s': 20 + (step % 5) / 5,
  }
}

const PANELS = [
  'Loss',
  'Reward accuracy',
  'Reward margin',
  'Rewards',
  'Log-probs',
  'Entropy',
  'Token accuracy',
  'Time of a step',
  'Logits processed',
]

beforeAll(() => {
  for (let step = 0; step < 100; step++) appendMetrics(file('run.jsonl'), metricsAt(step))
  for (let step = 0; step < 80; step += 2) {
    appendMetrics(file('other.jsonl'), { ...metricsAt(step + 20), step, learning_rate: 1e-5 / (step + 1) })
  }
})

describe('the command', () => {
  test('a run becomes one file', () => {
    const { status, stdout, stderr } = plot('run.jsonl', '-o', 'curves.html')
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: 'curves.html\n', stderr: '' })
    const [run] = runsOf(file('curves.html'))
    expect(run.name).toBe('run')
    const { step: _, ...metrics } = metricsAt(99)
    expect(Object.keys(run.curves)).toEqual(Object.keys(metrics))
    for (const [name, value] of Object.entries(metrics)) {
      expect(run.curves[name].steps.at(-1)).toBe(99)
      expect(run.curves[name].values).toHaveLength(100)
      expect(run.curves[name].values.at(-1)).toBeCloseTo(value, 3)
    }
    expect(readFileSync(file('curves.html'), 'utf8')).not.toMatch(/<(script|link|img)[^>]* (src|href)=/)
  })

  test('without -o the page lies beside the first run', () => {
    expect(plot('run.jsonl', 'other.jsonl').stdout).toBe('run.html\n')
    expect(runsOf(file('run.html')).map(({ name }: { name: string }) => name)).toEqual(['run', 'other'])
  })

  test('runs of one base name are told apart by as much of their paths as it takes', () => {
    for (const path of [
      'a/x/log.jsonl',
      'a/y/log.jsonl',
      'b/y/log.jsonl',
      'b/y/log.json',
      'b/log.jsonl',
      'b/alone.jsonl',
    ]) {
      mkdirSync(dirname(file(path)), { recursive: true })
      writeFileSync(file(path), '{"loss":1}\n')
    }
    const names = (...paths: string[]) => {
      expect(plot(...paths, '-o', 'names.html')).toMatchObject({ status: 0, stderr: '' })
      return runsOf(file('names.html')).map(({ name }: { name: string }) => name)
    }
    expect(names('a/x/log.jsonl', 'a/y/log.jsonl')).toEqual(['x/log', 'y/log'])
    expect(names('a/x/log.jsonl', 'b/alone.jsonl', './a/y/log.jsonl', 'b/y/log.jsonl')).toEqual([
      'x/log',
      'alone',
      'a/y/log',
      'b/y/log',
    ])
    expect(names('b/y/log.jsonl', 'b/y/log.json')).toEqual(['log.jsonl', 'log.json'])
    expect(names('b/y/log.jsonl', 'b/y/log.json', 'a/y/log.jsonl')).toEqual(['b/y/log.jsonl', 'log.json', 'a/y/log'])
    expect(names('b/y/log.jsonl', 'b/y/log.json', 'b/log.jsonl')).toEqual(['y/log.jsonl', 'log.json', 'b/log'])
    expect(names('b/alone.jsonl', 'a/x/log.jsonl', './b/alone.jsonl')).toEqual(['alone', 'log', 'alone (2)'])
  })

  test('a last line that is still being written is left out with a note', () => {
    writeFileSync(file('cut.jsonl'), '{"step":1,"loss":2}\n{"step":2,"lo')
    const { status, stderr } = plot('cut.jsonl')
    expect(stderr).toMatch(/^cut\.jsonl:2 is not complete.*left out\n$/)
    expect(status).toBe(0)
    const [{ curves, notes }] = runsOf(file('cut.html'))
    expect(curves).toEqual({ loss: { steps: [1], values: [2] } })
    expect(notes).toEqual([stderr.trim()])
  })

  test('a broken line in the middle is named, and the others drawn', () => {
    writeFileSync(file('broken.jsonl'), '{"step":1,"loss":2}\n{"step":2,"lo\n\n[1]\n{"step":3,"loss":1}\n')
    const { status, stderr } = plot('broken.jsonl')
    expect(stderr).toMatch(/^broken\.jsonl:2 is not valid JSON.*; left out\nbroken\.jsonl:4 must be an object.*\n$/)
    expect(status).toBe(0)
    expect(runsOf(file('broken.html'))[0].curves.loss).toEqual({ steps: [1, 3], values: [2, 1] })
  })

  test('steps that come twice, none at all, and numbers that are not finite', () => {
    const lines = [
      '{"loss":5}',
      '{"loss":"NaN"}',
      '{"step":7,"loss":3}',
      '{"step":1,"loss":4,"eval_loss":6}',
      '{"loss":null}',
    ]
    writeFileSync(file('odd.jsonl'), `${lines.join('\n')}\n`)
    expect(plot('odd.jsonl').status).toBe(0)
    expect(runsOf(file('odd.html'))[0].curves).toEqual({
      loss: { steps: [0, 1, 2, 7], values: [5, 4, null, 3] },
      eval_loss: { steps: [1], values: [6] },
    })
  })

  test('wrong use', () => {
    writeFileSync(file('empty.jsonl'), '\n')
    writeFileSync(file('prose.jsonl'), 'Call me Ishmael.\n')
    expect(plot()).toMatchObject({ status: 2, stderr: expect.stringContaining('which run') })
    expect(plot('--ouput', 'x')).toMatchObject({ status: 2 })
    expect(plot('none.jsonl')).toMatchObject({ status: 1, stderr: expect.stringContaining('none.jsonl') })
    expect(plot('empty.jsonl')).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('empty.jsonl has no metrics'),
    })
    expect(plot('prose.jsonl')).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('prose.jsonl:1 is not valid'),
    })
    const before = readFileSync(file('run.jsonl'))
    expect(plot('run.jsonl', '-o', './run.jsonl')).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('would overwrite'),
    })
    expect(readFileSync(file('run.jsonl'))).toEqual(before)
    expect(existsSync(file('empty.html'))).toBe(false)
  })
})

describe.skipIf(CHROMIUM === undefined && !process.env.CI)('the page in Chromium', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await chromium.launch(LAUNCH)
  })
  afterAll(() => browser.close())

  /** Opens a page; any message of the page or request to the network is an error. */
  async function open(name: string, colorScheme: 'light' | 'dark', width = 1400): Promise<Page> {
    const page = await browser.newPage({ colorScheme, viewport: { width, height: 900 } })
    const complaints: string[] = []
    page.on('pageerror', (error) => complaints.push(String(error)))
    page.on('console', (message) => complaints.push(message.text()))
    page.on('request', (request) => {
      if (request.url() !== pathToFileURL(file(name)).href) complaints.push(request.url())
    })
    await page.goto(pathToFileURL(file(name)).href)
    expect(complaints).toEqual([])
    return page
  }

  /** Counts pixels of a panel's canvas in (almost) the colours of its series; a text, because it runs in the page. */
  const painted = (page: Page, panel: number): Promise<number[]> =>
    page.evaluate(`(() => {
      const section = document.querySelectorAll('section')[${panel}]
      const canvas = section.querySelector('canvas')
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
      return [...section.querySelectorAll('.mark')].map((mark) => {
        const wanted = getComputedStyle(mark).borderTopColor.match(/\\d+/g).map(Number)
        let count = 0
        for (let i = 0; i < data.length; i += 4) {
          if (data[i + 3] > 200 && wanted.every((value, k) => Math.abs(data[i + k] - value) < 12)) count++
        }
        return count
      })
    })()`)

  test('one run: every panel has its curves, in light and dark', async () => {
    plot('run.jsonl', '-o', 'one.html')
    const shots: Buffer[] = []
    for (const scheme of ['light', 'dark'] as const) {
      const page = await open('one.html', scheme)
      expect(await page.locator('h2').allTextContents()).toEqual(PANELS)
      for (const panel of PANELS.keys()) {
        const counts = await painted(page, panel)
        expect(counts).toHaveLength(['Rewards', 'Log-probs'].includes(PANELS[panel]) ? 2 : 1)
        for (const count of counts) expect([PANELS[panel], count > 100]).toEqual([PANELS[panel], true])
      }
      shots.push(await page.screenshot({ path: file(`${scheme}.png`), fullPage: true }))
      await page.close()
    }
    for (const shot of shots) expect(shot.subarray(1, 4).toString()).toBe('PNG')
    expect(shots[0].equals(shots[1])).toBe(false)
  })

  test('several runs: a colour each, and what only one of them has', async () => {
    plot('run.jsonl', 'other.jsonl', '-o', 'two.html')
    const page = await open('two.html', 'light')
    expect(await page.locator('#runs strong').allTextContents()).toEqual(['run', 'other'])
    expect(await page.locator('h2').allTextContents()).toEqual([...PANELS, 'learning_rate'])
    expect(await page.locator('section').nth(4).locator('.key > span').count()).toBe(4)
    const [run, other] = await painted(page, 0)
    expect(Math.min(run, other)).toBeGreaterThan(100)
    await page.close()
  })

  test('the key follows the cursor in all panels, and the slider smooths', async () => {
    writeFileSync(
      file('zigzag.jsonl'),
      Array.from({ length: 200 }, (_, i) => `{"loss":${i % 2},"entropy":${i}}\n`).join(''),
    )
    plot('zigzag.jsonl')
    const page = await open('zigzag.html', 'light')
    const values = () => page.locator('.key b').allTextContents()
    await page.locator('#smoothing input').fill('0')
    await page.mouse.move(0, 0)
    expect(await values()).toEqual(['1', '199'])
    await page
      .locator('.u-over')
      .first()
      .hover({ position: { x: 1, y: 50 } })
    await expect.poll(values).toEqual(['0', '0'])
    await page.mouse.move(0, 0)
    await page.locator('#smoothing input').fill('0.9')
    await expect.poll(async () => Number((await values())[0])).toBeCloseTo(0.5, 1)
    await page.close()
  })

  test('on a narrow screen nothing is cut off', async () => {
    plot('run.jsonl', '-o', 'narrow.html')
    const page = await open('narrow.html', 'light', 380)
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBeLessThanOrEqual(380)
    await page.close()
  })

  test('names and notes are text, whatever is in them', async () => {
    const name = `<img src=x onerror=alert(1)> id="data"> </script>$&.jsonl`.replace('/', '')
    writeFileSync(file(name), '{"loss":1,"</script><b>":2}\n{"loss":"</script>"\n')
    expect(plot(name, '-o', 'nasty.html').status).toBe(0)
    const page = await open('nasty.html', 'light')
    expect(await page.title()).toBe(name.replace('.jsonl', ''))
    expect(await page.locator('h2').allTextContents()).toEqual(['Loss', '</script><b>'])
    expect(await page.locator('#notes li').textContent()).toContain(`${name}:2 is not valid JSON`)
    await page.close()
  })
})
