/**
 * Pages in Chromium that load the package from its tarball, made by each bundler and by none, and what they download.
 */
import assert from 'node:assert/strict'
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import * as vite from 'vite'
import { ISOLATION, serve, startBrowser } from './browser.mjs'
import { group, row } from './rows.mjs'
import { installed, manifest } from './support.mjs'
import { app, esbuild, hasTools, quick, tool, versionOf, wanted } from './web.mjs'

const load = createRequire(tool(''))

export async function pages() {
  const browser = await startBrowser()

  /**
   * One row: a page, served with and without isolation.
   * @param {string} name
   * @param {(headers: Record<string, string>) => Promise<{ url: string, close: () => unknown }>} start
   * @param {() => unknown} [prepare]
   */
  const page = (name, start, prepare) =>
    row(name, async () => {
      await prepare?.()
      for (const headers of quick ? [ISOLATION] : [{}, ISOLATION]) {
        const server = await start(headers)
        try {
          check(await browser.open(server.url), headers === ISOLATION)
        } finally {
          await server.close()
        }
      }
    })

  group('Pages in Chromium, from the installed tarball')
  const options = { root: app, configFile: /** @type {const} */ (false), logLevel: /** @type {const} */ ('error') }
  const outDir = 'out-vite'
  await page('an import map, no bundler', async (headers) => {
    const server = await serve(app, headers)
    return { ...server, url: `${server.url}import-map.html` }
  })
  await page(`Vite ${vite.version}, production build`, serveFrom(outDir), () =>
    vite.build({ ...options, build: { outDir } }),
  )
  await page(`Vite ${vite.version}, development server`, async (headers) => {
    const server = await vite.createServer({ ...options, server: { headers, port: 0 } })
    await server.listen()
    return { url: /** @type {any} */ (server.resolvedUrls).local[0], close: () => server.close() }
  })
  if (!quick && hasTools) {
    for (const name of ['webpack', '@rspack/core']) {
      const output = `out-${name.replace(/\W/g, '')}`
      await page(`${name} ${versionOf(name)}`, serveFrom(output), async () => {
        const bundle = name === 'webpack' ? load(name) : load(name).rspack
        const settings = { mode: 'production', context: app, entry: './page.mjs', output: { path: join(app, output) } }
        const stats = await promisify(bundle)({ ...settings, performance: false })
        assert(!stats.hasErrors() && !stats.hasWarnings(), stats.toString())
        copyHtml(output, 'main.js')
      })
    }
    await page(`esbuild ${versionOf('esbuild')}, modules imported, worker copied`, serveFrom('out-esbuild'), () => {
      esbuild('page-with-modules.mjs', 'out-esbuild', ['--minify', '--loader:.wasm=file'])
      const worker = 'worker.mjs'
      copyFileSync(join(installed(app), 'dist/browser/shared', worker), join(app, 'out-esbuild', worker))
      copyHtml('out-esbuild', 'page-with-modules.js')
    })
  }
  await browser.close()

  group('What a page downloads, minified by Vite, after gzip')
  await row('fusedPreferenceLoss', () =>
    download(`import { fusedPreferenceLoss } from '${manifest.name}'`, 'fusedPreferenceLoss'),
  )
  await row('stepMetrics alone', () =>
    download(`import { stepMetrics } from '${manifest.name}/metrics'`, 'stepMetrics'),
  )
  await row('the whole of the package', () => download(`import * as library from '${manifest.name}'`, 'library'))
}

/** Checks what a page has computed, and where. */
function check(/** @type {any} */ { isolated, result, answers, workers, problems }, /** @type {boolean} */ isIsolated) {
  assert.deepEqual(problems, [])
  assert.deepEqual(result, wanted.wasm)
  assert.equal(isolated, isIsolated)
  // One worker runs the jobs and answers; the other helps it.
  assert.equal(workers.length, isIsolated ? 2 : 0)
  assert.equal(answers.length > 0, isIsolated)
  assert(answers.every((/** @type {any} */ { finished }) => finished))
}

/** Serves a folder of the app. */
function serveFrom(/** @type {string} */ folder) {
  return (/** @type {Record<string, string>} */ headers) => serve(join(app, folder), headers)
}

function copyHtml(/** @type {string} */ folder, /** @type {string} */ script) {
  const html = readFileSync(join(app, 'index.html'), 'utf8')
  writeFileSync(join(app, folder, 'index.html'), html.replace('page.mjs', script))
}

/**
 * The sizes of what Vite makes of a page.
 * @param {string} statement
 * @param {string} name
 */
async function download(statement, name) {
  writeFileSync(join(app, 'entry.mjs'), `${statement}\nglobalThis.used = ${name}\n`)
  const made = await vite.build({
    ...{ root: app, configFile: false, logLevel: 'error' },
    build: { write: false, rollupOptions: { input: join(app, 'entry.mjs') } },
  })
  const { output } = /** @type {import('vite').Rollup.RollupOutput} */ (made)
  const size = (/** @type {RegExp} */ pattern) => {
    const files = output.filter(({ fileName }) => pattern.test(fileName))
    const bytes = files.map((file) => gzipSync(file.type === 'chunk' ? file.code : file.source, { level: 9 }).length)
    return `${(bytes.reduce((sum, each) => sum + each, 0) / 1000).toFixed(1)} kB`
  }
  const script = `JavaScript ${size(/entry/)}`
  if (output.length === 1) return `${script}, nothing else`
  return `${script}, WebAssembly ${size(/loss-[\w-]+\.wasm/)}; ${size(/threads|worker/)} more where threads can be used`
}
