/**
 * Runs the tests for crashes, wrong numbers and memory leaks on the binary that the package ships for this machine,
 * instead of the one compiled here: it has another compiler, another C++ library and other flags.
 *
 *   npm run test:prebuilt [-- --quick]   --quick: the short form of the stress tests
 *
 * Builds the binary first, which takes seconds when its sources have not changed. Needs Linux x64, as the cross
 * compiler does.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const node = (/** @type {string[]} */ ...args) => execFileSync(process.execPath, args, { cwd: root, stdio: 'inherit' })

node('scripts/prebuild.mjs', 'linux-x64-glibc')

// All processes below inherit this: they look neither for a binary compiled here nor for one from elsewhere.
process.env.PREBUILDS_ONLY = '1'
delete process.env.FUSED_PREFERENCE_LOSS_PREBUILD
const { getBackends } = await import('../dist/index.mjs')
const { path, reason } = getBackends().cpu
if (!path?.startsWith(join(root, 'prebuilds'))) throw new Error(reason ?? `${path} is not a prebuilt binary`)

// A machine without AMX cannot run its products; that they are there shows in what the binary would say of it.
if (readFileSync(path).includes('compiled without AMX')) throw new Error(`${path} was compiled without AMX`)

node('test/stress/run.mjs', ...process.argv.slice(2))
const TESTS = [
  'edges',
  'golden',
  'promises',
  'promise-lifetimes',
  'lent-arrays',
  'copies',
  'settings',
  'amx',
  'amx-golden',
].map((name) => `test/${name}.test.ts`)
node('node_modules/vitest/vitest.mjs', 'run', ...TESTS)
