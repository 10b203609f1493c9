/**
 * Runs the tests of WebGPU on both of its implementations: in Chromium, on SwiftShader, and in Deno, on a driver for Vulkan
 * such as Mesa's lavapipe. `npm run test:webgpu -- test/webgpu/golden.test.ts` runs one file, `-- --only deno` or
 * `-- --only chromium` in one of them. What is missing it names and leaves out; with CI=true that is a failure.
 */
import { spawnSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { fileURLToPath } from 'node:url'
import { CHROMIUM } from './chromium.mjs'
import { findDeno } from './install-deno.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
// All else is Vitest's.
const ofVitest = process.argv.slice(2)
const at = ofVitest.indexOf('--only')
const [, only] = at < 0 ? [] : ofVitest.splice(at, 2)

// The loader of OpenGL complains where there is no display.
const env = { XDG_RUNTIME_DIR: tmpdir(), ...process.env }
const deno = findDeno()
const inDeno = [deno ?? '', 'run', '--allow-all', '--unstable-webgpu']
const askForAdapter = 'Deno.exit(await navigator.gpu.requestAdapter() ? 0 : 1)'

const hasAdapter = () =>
  spawnSync(deno ?? '', ['eval', '--unstable-webgpu', askForAdapter], { env, stdio: 'ignore' }).status === 0

const places = [
  {
    name: 'chromium',
    command: [process.execPath],
    missing: CHROMIUM === undefined ? 'there is no Chromium: set CHROMIUM to its path' : '',
  },
  {
    name: 'deno',
    command: inDeno,
    missing:
      deno === undefined
        ? 'there is no Deno: scripts/install-deno.mjs installs it'
        : hasAdapter()
          ? ''
          : 'Deno finds no GPU: mesa-vulkan-drivers has one in software',
  },
].filter(({ name }) => only === undefined || only === name)

let failed = places.length === 0
for (const { name, command, missing } of places) {
  if (missing !== '') {
    console.log(`WebGPU in ${name} left out, as ${missing}`)
    if (process.env.CI === 'true') failed = true
    continue
  }
  const [program, ...args] = [...command, 'node_modules/vitest/vitest.mjs', 'run', '-c', 'vitest.webgpu.config.ts']
  const { status } = spawnSync(program, [...args, ...ofVitest], { cwd: root, env, stdio: 'inherit' })
  if (status !== 0) failed = true
}
process.exit(failed ? 1 : 0)
