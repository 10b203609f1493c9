/**
 * Tests the packed tarball where no addon loads: pages in Chromium, made by each bundler and by none, and an edge runtime;
 * and in the runtimes beside Node.js. Results must have the bits of the wasm backend in Node.js. Writes its part of
 * docs/platforms.md.
 *
 *   npm run test:bundles -- --quick    without webpack, Rspack, esbuild and pages that are not isolated; writes nothing
 *
 * What is not there, Chromium or a package that cannot be installed, is named and left out, which is a failure under
 * CI=true.
 */
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import * as vite from 'vite'
import { chromiumPath, ISOLATION, serve, startBrowser } from './browser.mjs'
import { closingLine, group, row, writeDocument } from './rows.mjs'
import {
  cleanUp,
  installed,
  manifest,
  npm,
  ONLINE,
  pack,
  project,
  root,
  run,
  runReadmeProgram,
  scratch,
  stage,
} from './support.mjs'

const { quick } = parseArgs({ options: { quick: { type: 'boolean', default: false } } }).values
const web = fileURLToPath(new URL('web', import.meta.url))
const load = createRequire(join(web, 'package.json'))
const tool = (/** @type {string} */ path) => join(web, 'node_modules', path)
const versionOf = (/** @type {string} */ name) => JSON.parse(readFileSync(tool(`${name}/package.json`), 'utf8')).version

/** @type {string[]} */
const leftOut = []
if (chromiumPath === undefined) leftOut.push('pages, as there is no Chromium (set CHROMIUM to its path)')
const hasTools = installTools()
if (!hasTools) leftOut.push('other runtimes and bundlers, which npm could not install')
for (const what of leftOut) console.log(`left out: ${what}`)

const app = project('app', { type: 'module', dependencies: { [manifest.name]: `file:${pack(stage()).tarball}` } })
run([...npm, 'install'], app, ONLINE)
for (const name of readdirSync(web).filter((name) => /\.(mjs|html)$/.test(name))) {
  copyFileSync(join(web, name), join(app, name))
}
/** But for those whose ε TRL holds in float32. */
const golden = {
  peers: cases('peers')
    .filter(({ options }) => options.lossType !== 'exo_pair')
    .slice(0, 20),
  heads: cases('fused-head').slice(0, 10),
}
writeFileSync(join(app, 'cases.json'), JSON.stringify(golden))

/** Of Node.js, on this machine: by backend. */
const wanted = JSON.parse(run([process.execPath, 'runtime.mjs'], app)).results
assert(wanted.wasm, 'prebuilds/wasm is missing: npm run build:wasm')

if (chromiumPath !== undefined) await pages()
if (hasTools) await runtimes()
if (!quick) writeDocument()
cleanUp()
closingLine()
if (process.env.CI === 'true' && leftOut.length > 0) process.exitCode = 1

/** Returns whether the tools are there. */
function installTools() {
  const wants = quick ? 'esbuild' : 'webpack'
  if (existsSync(tool(wants))) return true
  console.log('Installing bundlers and runtimes')
  try {
    const options = ['--no-audit', '--no-fund', '--ignore-scripts', ...(quick ? ['--omit=dev'] : [])]
    execFileSync('npm', ['ci', ...options], { cwd: web, stdio: ['ignore', 'ignore', 'inherit'] })
    return true
  } catch {
    return false
  }
}

/** The cases of a file of golden/. */
function cases(/** @type {string} */ name) {
  const lines = readFileSync(join(root, `test/golden/${name}.jsonl`), 'utf8')
    .trimEnd()
    .split('\n')
  return lines.map((line) => JSON.parse(line))
}

async function pages() {
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
      const worker = 'worker.browser.mjs'
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

async function runtimes() {
  group('Runtimes beside Node.js')
  const withoutBinary = join(scratch, 'without-binary')
  cpSync(app, withoutBinary, { recursive: true })
  for (const file of readdirSync(join(installed(withoutBinary), 'prebuilds'))) {
    if (file !== 'wasm') rmSync(join(installed(withoutBinary), 'prebuilds', file), { recursive: true })
  }
  for (const [name, version, command] of /** @type {const} */ ([
    ['Bun', versionOf('@oven/bun-linux-x64-baseline'), [tool('@oven/bun-linux-x64-baseline/bin/bun')]],
    ['Deno', versionOf('@deno/linux-x64-glibc'), [tool('@deno/linux-x64-glibc/deno'), 'run', '--allow-all']],
  ])) {
    await row(`${name} ${version}`, () => {
      assert.doesNotMatch(runReadmeProgram([...command], app), /Warning/)
      const { backends, results, answers } = JSON.parse(run([...command, 'runtime.mjs'], app))
      assert(backends.cpu.available, backends.cpu.reason)
      assert.deepEqual(results, wanted)
      assert(answers > 0, 'no worker thread has answered')
      return `${Object.keys(results).join(', ')}; wasm on worker threads`
    })
    await row(`${name} ${version} without the binary`, () => {
      const warnings = runReadmeProgram([...command], withoutBinary).match(/Warning: .*/g)
      assert.equal(warnings?.length, 1)
      assert.match(warnings[0], /in WebAssembly, a few times slower/)
      return 'wasm, with one warning'
    })
  }
  await row(`workerd ${versionOf('@cloudflare/workerd-linux-64')}`, edge)
}

/** The worker of edge.mjs, bundled as wrangler does it. */
async function edge() {
  esbuild('edge.mjs', 'out-edge', [
    '--conditions=workerd,worker,browser',
    '--loader:.wasm=copy',
    '--asset-names=[name]',
  ])
  copyFileSync(join(web, 'edge.capnp'), join(app, 'out-edge/edge.capnp'))
  const workerd = tool('@cloudflare/workerd-linux-64/bin/workerd')
  // It writes the port that it has been given.
  const server = spawn(workerd, ['serve', 'edge.capnp', '--control-fd=1'], {
    cwd: join(app, 'out-edge'),
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  try {
    for await (const line of createInterface(server.stdout)) {
      const { port } = JSON.parse(line)
      const response = await fetch(`http://127.0.0.1:${port}/`, { method: 'POST', body: JSON.stringify(golden) })
      const text = await response.text()
      assert(response.ok, text)
      const { without, wasm, result } = JSON.parse(text)
      assert.match(without, /no URL by which fused-preference-loss.wasm could be found: pass it to loadWasm/)
      assert.equal(wasm.threads, 1)
      assert.deepEqual(result, wanted.wasm)
      return 'wasm on one thread, its module imported; js'
    }
    assert.fail('workerd has ended')
  } finally {
    server.kill()
  }
}

/**
 * Bundles a program of the app by esbuild.
 * @param {string} entry
 * @param {string} folder
 * @param {string[]} flags
 */
function esbuild(entry, folder, flags) {
  const program = [process.execPath, tool('esbuild/bin/esbuild'), entry, `--outdir=${folder}`]
  run([...program, '--bundle', '--format=esm', '--log-level=error', ...flags], app)
}
