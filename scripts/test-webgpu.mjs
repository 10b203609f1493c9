/**
 * Runs the tests of WebGPU on both of its implementations at once: in Chromium, on SwiftShader, and in Deno, on a driver for
 * Vulkan such as Mesa's lavapipe. `npm run test:webgpu -- test/golden.test.ts` runs one file, `-- --only deno` or
 * `-- --only chromium` in one of them, `-- --quick` those files that run for every change. What is missing it names and leaves
 * out; with CI=true that is a failure.
 */
import { spawn, spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { fileURLToPath } from 'node:url'
import { CHROMIUM } from './chromium.mjs'
import { findDeno } from './install-deno.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
// All else is Vitest's.
const ofVitest = process.argv.slice(2)
const at = ofVitest.indexOf('--only')
const [, only] = at < 0 ? [] : ofVitest.splice(at, 2)
const quickAt = ofVitest.indexOf('--quick')
const isQuick = quickAt >= 0
if (isQuick) ofVitest.splice(quickAt, 1)

// What SwiftShader takes longest for and depends least on it runs in Deno alone.
const inDenoAlone = /^(determinism|memory|random)\./
const ofWebGpu = readdirSync(`${root}test/webgpu`).filter((name) => name.endsWith('.test.ts'))
const QUICK = {
  chromium: ofWebGpu.filter((name) => !inDenoAlone.test(name)).map((name) => `test/webgpu/${name}`),
  deno: ['test/webgpu', 'test/edges.test.ts', 'test/golden.test.ts'],
}

// The loader of OpenGL complains where there is no display.
const env = { XDG_RUNTIME_DIR: tmpdir(), ...process.env }
const deno = findDeno()
const inDeno = [deno ?? '', 'run', '--allow-all', '--unstable-webgpu']
const askForAdapter = 'Deno.exit(await navigator.gpu.requestAdapter() ? 0 : 1)'

const hasAdapter = () =>
  spawnSync(deno ?? '', ['eval', '--unstable-webgpu', askForAdapter], { env, stdio: 'ignore' }).status === 0

const places = [
  {
    name: /** @type {const} */ ('chromium'),
    command: [process.execPath],
    missing: CHROMIUM === undefined ? 'there is no Chromium: set CHROMIUM to its path' : '',
  },
  {
    name: /** @type {const} */ ('deno'),
    command: inDeno,
    missing:
      deno === undefined
        ? 'there is no Deno: scripts/install-deno.mjs installs it'
        : hasAdapter()
          ? ''
          : 'Deno finds no GPU: mesa-vulkan-drivers has one in software',
  },
].filter(({ name }) => only === undefined || only === name)

/** Whether the tests pass there. What places at once have to say comes in one piece each, at their ends. */
function pass(/** @type {(typeof places)[number]} */ { name, command }) {
  const [program, ...args] = [...command, 'node_modules/vitest/vitest.mjs', 'run', '-c', 'vitest.webgpu.config.ts']
  const files = isQuick ? QUICK[name] : []
  const stdio = places.length === 1 ? 'inherit' : 'pipe'
  const running = spawn(program, [...args, ...ofVitest, ...files], { cwd: root, env, stdio })
  /** @type {Buffer[]} */
  const said = []
  for (const stream of [running.stdout, running.stderr]) stream?.on('data', (chunk) => said.push(chunk))
  return new Promise((resolve) => {
    running.on('close', (status) => {
      process.stdout.write(Buffer.concat(said))
      resolve(status === 0)
    })
  })
}

const left = places.filter(({ missing }) => missing !== '')
for (const { name, missing } of left) console.log(`WebGPU in ${name} left out, as ${missing}`)
const passed = await Promise.all(places.filter((place) => !left.includes(place)).map(pass))
const isIncomplete = places.length === 0 || (left.length > 0 && process.env.CI === 'true')
process.exitCode = isIncomplete || passed.includes(false) ? 1 : 0
