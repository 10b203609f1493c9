/**
 * Runs the tests of the core in Chromium, on the backends wasm and js; `npm run test:browser -- test/golden.test.ts` runs
 * one file. Needs Chromium and the WebAssembly modules. Without one of them it says so and is done, but with CI=true it
 * fails.
 */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { CHROMIUM } from './chromium.mjs'
import { wasmIsCurrent } from './shipped.mjs'

const missing = [
  ...(CHROMIUM === undefined ? ['Chromium: set CHROMIUM to its path'] : []),
  ...(wasmIsCurrent() ? [] : ['the WebAssembly modules: npm run build:wasm builds them']),
]
for (const what of missing) console.log(`tests in a browser left out, as there are not ${what}`)
if (missing.length > 0) {
  const failed = process.env.CI === 'true' ? 1 : 0
  console.log(`0 passed, ${failed} failed`)
  process.exit(failed)
}

const root = fileURLToPath(new URL('..', import.meta.url))
const args = ['node_modules/vitest/vitest.mjs', 'run', '-c', 'vitest.browser.config.ts', ...process.argv.slice(2)]
process.exit(spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' }).status ?? 1)
