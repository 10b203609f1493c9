/**
 * Serves this package's folder on localhost to pages that are isolated from other origins, so that they may share memory
 * between threads; and watches the memory of their processes.
 */
import { createReadStream, statSync } from 'node:fs'
import { createServer } from 'node:http'
import { extname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import { watchPeak } from '../memory.mjs'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** @type {Record<string, string>} */
const TYPES = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.json': 'application/json',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
}

const HEADERS = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-resource-policy': 'same-origin',
}

/** @returns {Promise<{ origin: string, close: () => void }>} */
export async function serveFiles() {
  /** @type {Map<string, () => number | undefined>} */
  const watched = new Map()
  const server = createServer(({ url = '/' }, response) => {
    const { pathname, search } = new URL(url, 'http://localhost')
    if (pathname === '/memory/watch') {
      watched.set(search, watchPeak(Number(search.slice(1))))
      response.writeHead(200, HEADERS).end()
      return
    }
    if (pathname === '/memory/peak') {
      response.writeHead(200, { ...HEADERS, 'content-type': 'application/json' })
      response.end(JSON.stringify({ bytes: watched.get(search)?.() }))
      return
    }
    const path = join(ROOT, normalize(decodeURIComponent(pathname)))
    if (!statSync(path, { throwIfNoEntry: false })?.isFile()) {
      response.writeHead(404, HEADERS).end()
      return
    }
    response.writeHead(200, { ...HEADERS, 'content-type': TYPES[extname(path)] ?? 'application/octet-stream' })
    createReadStream(path).pipe(response)
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)))
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
  return { origin: `http://localhost:${port}`, close: () => void server.close() }
}
