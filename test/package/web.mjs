/**
 * A project with the installed tarball and the programs of web/, what these must compute, and the tools that make pages
 * of them or run them. What cannot be had here is in `leftOut`.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { CHROMIUM } from '../../scripts/chromium.mjs'
import { manifest, npm, ONLINE, pack, project, root, run, stage } from './support.mjs'

export const { quick } = parseArgs({ options: { quick: { type: 'boolean', default: false } } }).values
export const web = fileURLToPath(new URL('web', import.meta.url))
export const tool = (/** @type {string} */ path) => join(web, 'node_modules', path)
export const versionOf = (/** @type {string} */ name) =>
  JSON.parse(readFileSync(tool(`${name}/package.json`), 'utf8')).version

/** @type {string[]} */
export const leftOut = []
if (CHROMIUM === undefined) leftOut.push('pages, as there is no Chromium (set CHROMIUM to its path)')

/** Whether the tools of web/package.json are there. */
export const hasTools = succeeds('bundlers and runtimes, which npm does not install here', () => {
  if (existsSync(tool(quick ? 'esbuild' : 'webpack'))) return
  console.log('Installing bundlers and runtimes')
  const flags = ['--no-audit', '--no-fund', '--ignore-scripts', ...(quick ? ['--omit=dev'] : [])]
  execFileSync('npm', ['ci', ...flags], { cwd: web, stdio: ['ignore', 'ignore', 'inherit'] })
})

export const app = project('app', {
  type: 'module',
  dependencies: { [manifest.name]: `file:${pack(stage()).tarball}` },
})

/** Whether the package is there. */
export const hasPackage = succeeds('the package, as npm does not install its dependency here', () => {
  run([...npm, 'install'], app, ONLINE)
})
for (const name of readdirSync(web).filter((name) => /\.(mjs|html)$/.test(name))) {
  copyFileSync(join(web, name), join(app, name))
}

/** Some golden cases, but none of exo_pair, whose ε TRL holds in float32. */
export const golden = {
  peers: cases('peers')
    .filter(({ options }) => options.lossType !== 'exo_pair')
    .slice(0, 20),
  heads: cases('fused-head').slice(0, 10),
}
writeFileSync(join(app, 'cases.json'), JSON.stringify(golden))

/** What Node.js computes on this machine, by backend. */
export const wanted = hasPackage ? JSON.parse(run([process.execPath, 'runtime.mjs'], app)).results : {}

/**
 * Whether an action succeeds; if not, `what` is left out.
 * @param {string} what
 * @param {() => void} action
 */
function succeeds(what, action) {
  try {
    action()
    return true
  } catch {
    leftOut.push(what)
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

/**
 * Bundles a program of the app by esbuild.
 * @param {string} entry
 * @param {string} folder
 * @param {string[]} flags
 */
export function esbuild(entry, folder, flags) {
  const program = [process.execPath, tool('esbuild/bin/esbuild'), entry, `--outdir=${folder}`]
  run([...program, '--bundle', '--format=esm', '--log-level=error', ...flags], app)
}
