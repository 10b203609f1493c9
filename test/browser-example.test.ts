/**
 * The page of examples/browser, built, served and used in headless Chromium: it trains, its ways to compute a step agree,
 * it stops, and it checks and measures a GPU, which is software here. Skipped where there is no Chromium or no WebAssembly of the package, which says so; under CI a failure.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Browser, chromium, type Page } from 'playwright-core'
import { build, type PreviewServer, preview } from 'vite'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { getBackends } from '../lib/index.js'
import { CHROMIUM, LAUNCH_WEBGPU } from '../scripts/chromium.mjs'

const { mostUlps, shareOff } = await import(new URL('../examples/browser/gpu/differences.mjs', import.meta.url).href)

const lacks = [
  ...(CHROMIUM === undefined ? ['Chromium (set CHROMIUM to its path)'] : []),
  ...(getBackends().wasm.available ? [] : ['the WebAssembly of the package (npm run build:wasm)']),
]
if (lacks.length > 0)
  console.warn(`browser-example.test.ts: the page is not tested, as there is no ${lacks.join(', no ')}`)

test('the page tells a number that is off from one that is right', () => {
  const { NaN: nan, POSITIVE_INFINITY: infinite } = Number
  const right = Float32Array.of(1, -3, 0, nan, infinite, 1e-39)
  expect(mostUlps(right, right)).toBe(0)
  const apart = (i: number, x: number) => mostUlps(right.with(i, x), right)
  expect(apart(0, 1 + 2 ** -21)).toBe(4)
  expect(apart(1, -3 + 2 ** -22)).toBe(1)
  expect(apart(2, 1e-3)).toBeGreaterThan(1e6)
  expect(apart(3, 1)).toBe(infinite)
  expect(apart(4, 1)).toBe(infinite)
  // Numbers as small as that may be taken for 0.
  expect(apart(5, 0)).toBe(0)
  expect(mostUlps([1], [1, 1])).toBe(infinite)
  expect(shareOff(Float32Array.of(1, -4), Float32Array.of(1, -8))).toBe(0.5)
  expect(shareOff(Float32Array.of(nan, 1), Float32Array.of(1, 1))).toBeNaN()
  expect(shareOff(Float32Array.of(0), Float32Array.of(0))).toBeNaN()
})

describe.skipIf(lacks.length > 0 && !process.env.CI)('the page that trains in a tab', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fused-preference-loss-browser-'))
  let server: PreviewServer
  let browser: Browser
  let page: Page
  let url: string
  /** What the page says on the console, its errors, and requests to elsewhere. */
  const complaints: string[] = []

  beforeAll(async () => {
    const configFile = fileURLToPath(new URL('../examples/browser/vite.config.mjs', import.meta.url))
    await build({ configFile, logLevel: 'error', build: { outDir: folder, emptyOutDir: true } })
    server = await preview({ configFile, build: { outDir: folder }, preview: { port: 0, host: '127.0.0.1' } })
    url = server.resolvedUrls!.local[0]
    browser = await chromium.launch(LAUNCH_WEBGPU)
    page = await browser.newPage({ viewport: { width: 390, height: 800 } })
    page.on('console', (message) => complaints.push(message.text()))
    page.on('pageerror', (error) => complaints.push(String(error)))
    page.on('request', (request) => {
      if (!/^(blob:)?http:\/\/127\.0\.0\.1:/.test(request.url()) && !request.url().startsWith('data:')) {
        complaints.push(request.url())
      }
    })
    await page.goto(url)
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    await server?.close()
    rmSync(folder, { recursive: true })
  })

  const status = () => page.locator('#run [role=status]').textContent()
  const latest = async (chart: number) => Number(await page.locator('#charts h2 b').nth(chart).textContent())
  const press = () => page.locator('#run button').click()

  test('shows what it is about, and nothing is cut off on a phone', async () => {
    await expect.poll(() => page.locator('#pairs li').count(), { timeout: 10_000 }).toBe(3)
    expect(await page.locator('#charts canvas').count()).toBe(3)
    expect(await page.evaluate('crossOriginIsolated')).toBe(true)
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(390)
  })

  test('trains: the loss falls, the margin rises, and all ways agree', { timeout: 240_000 }, async () => {
    await press()
    await expect.poll(status, { timeout: 200_000, interval: 200 }).toMatch(/prefer, step ([6-9]\d|\d{3})/)
    expect(await latest(0)).toBeLessThan(0.65)
    expect(await latest(1)).toBeGreaterThan(0)
    // What it computes on is that of the next run.
    expect(await page.locator('[name=engine]:disabled').count()).toBe(2)
    const verdict = await page.locator('.verdict').textContent()
    expect(verdict).toMatch(/^All three give the same: /)
    const steps = (await page.locator('td.step').allTextContents()).map((text) => Number.parseInt(text, 10))
    expect(steps).toHaveLength(3)
    for (const ms of steps) expect(ms).toBeGreaterThan(0)
  })

  test('stops at once, and starts again from the beginning', async () => {
    await press()
    const stopped = await status()
    expect(stopped).toMatch(/^Stopped\. /)
    await page.waitForTimeout(2000)
    expect(await status()).toBe(stopped)
    await press()
    await expect.poll(status, { timeout: 20_000 }).toMatch(/reads the book, step \d/)
    expect(await page.locator('#charts h2 b').first().textContent()).toBe('')
    await press()
    expect(complaints).toEqual([])
  })

  test('checks and measures the GPU, and gives the results as a file', { timeout: 200_000 }, async () => {
    const part = page.locator('#gpu')
    await part.locator('button').first().click()
    await expect.poll(() => part.getAttribute('data-state'), { timeout: 180_000 }).toBe('finished')
    expect(await part.locator('[role=status]').textContent()).toMatch(/^Done: all \d\d checks are right\.$/)
    expect(await part.locator('.adapter').textContent()).toContain('swiftshader')
    const ratios = await part.locator('.bench td:last-child').allTextContents()
    expect(ratios.map(Number).filter((ratio) => ratio >= 1)).toHaveLength(3)
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(390)
    // Cells of a row lie side by side on a phone, too.
    const cells = part.locator('.checks tbody tr:first-child > *, .bench tbody tr:first-child > *')
    const boxes = await Promise.all((await cells.all()).map((cell) => cell.boundingBox()))
    expect(new Set(boxes.map((box) => box!.y)).size).toBe(2)
    const whole = (await part.boundingBox())!
    expect(Math.max(...boxes.map((box) => box!.x + box!.width))).toBeLessThan(whole.x + whole.width)
    const [file] = await Promise.all([page.waitForEvent('download'), part.locator('.download').click()])
    const { adapter, checks, bench } = JSON.parse(readFileSync(await file.path(), 'utf8'))
    expect(adapter).toMatchObject({ architecture: 'swiftshader', software: true, features: expect.any(Array) })
    expect(checks.filter(({ ok }: { ok: boolean }) => ok).length).toBeGreaterThan(10)
    expect(bench.seconds.step.wall).toBeGreaterThan(bench.seconds.copy.wall)
    expect(complaints).toEqual([])
  })

  test('trains on WebGPU', { timeout: 200_000 }, async () => {
    await page.goto(`${url}?short`)
    await page.locator('[value=webgpu]').check()
    await press()
    await expect.poll(status, { timeout: 180_000, interval: 200 }).toMatch(/reads the book, step 2 of 3/)
    await press()
    expect(complaints).toEqual([])
  })
})
