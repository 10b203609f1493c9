/**
 * Pages in headless Chromium, and a server of files whose pages may be isolated from other origins.
 */
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { extname, join } from 'node:path'
import { chromium } from 'playwright-core'
import { LAUNCH } from '../../scripts/chromium.mjs'

/** With these a page may share memory with its workers. */
export const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
}

/** As strict as the package can take it: WebAssembly and nothing else is compiled. */
const POLICY =
  "default-src 'none'; connect-src 'self'; img-src data:; script-src 'self' 'wasm-unsafe-eval' 'nonce-page'"

/** @type {Record<string, string>} */
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript', '.wasm': 'application/wasm' }

/**
 * Serves a folder under a strict Content-Security-Policy.
 * @param {string} folder
 * @param {Record<string, string>} headers
 * @returns {Promise<{ url: string, close: () => unknown }>}
 */
export function serve(folder, headers) {
  const server = createServer(({ url = '' }, response) => {
    const { pathname } = new URL(url, 'http://localhost')
    const file = join(folder, pathname.endsWith('/') ? `${pathname}index.html` : pathname)
    const type = TYPES[extname(file)] ?? 'application/octet-stream'
    response.writeHead(existsSync(file) ? 200 : 404, {
      'Content-Type': type,
      'Content-Security-Policy': POLICY,
      ...headers,
    })
    response.end(existsSync(file) ? readFileSync(file) : undefined)
  })
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
      resolve({ url: `http://localhost:${port}/`, close: () => server.close() })
    })
  })
}

/** Remembers what workers answer. */
const LISTEN_TO_WORKERS = `
  globalThis.answers = []
  globalThis.Worker = class extends Worker {
    constructor(...args) {
      super(...args)
      this.addEventListener('message', ({ data }) => answers.push(data))
    }
  }`

/** What a page says. */
const SEEN = `
  Promise.race([
    outcome,
    new Promise((_, reject) => setTimeout(reject, 20_000, new Error('no result in 20 seconds')))
  ]).then((result) => ({ result, answers, isolated: crossOriginIsolated }))`

/** Opens pages: `open(url)` gives what the page has put in `outcome`, and what was seen meanwhile. */
export async function startBrowser() {
  const browser = await chromium.launch(LAUNCH)
  return {
    close: () => browser.close(),
    async open(/** @type {string} */ url) {
      const page = await browser.newPage()
      /** @type {string[]} */
      const problems = []
      /** @type {string[]} */
      const workers = []
      page.on('pageerror', ({ message }) => problems.push(message))
      page.on('console', (message) => {
        if (['error', 'warning'].includes(message.type())) problems.push(message.text())
      })
      page.on('worker', (worker) => workers.push(worker.url()))
      await page.addInitScript(LISTEN_TO_WORKERS)
      try {
        // Its load event comes after its modules have run.
        await page.goto(url)
        const seen = await page.evaluate(SEEN)
        return { .../** @type {any} */ (seen), workers, problems }
      } catch (error) {
        throw new Error([error, ...problems].join('\n'))
      } finally {
        await page.close()
      }
    },
  }
}
