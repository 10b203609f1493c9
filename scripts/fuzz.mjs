/**
 * Fuzzing: half of the time, libFuzzer compares native/core and native/cpu with the oracle; the other half fuzzes the
 * checks of the JavaScript functions.
 *
 *   npm run fuzz [-- --seconds N]    60 by default; needs clang
 *   npm run fuzz -- --long           ten minutes of the first without a break, then a million calls of the second
 *
 * A native find is written to build/tests/fuzz/; copy it to test/native/corpus/ under a name that describes it.
 */
import { mkdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { buildAddressed, need, run } from './native-tests.mjs'

const { values } = parseArgs({
  options: { seconds: { type: 'string', default: '60' }, long: { type: 'boolean', default: false } },
})
const half = Math.ceil(Number(values.seconds) / 2)
if (!(half > 0)) throw new Error(`--seconds must be a number > 0; got '${values.seconds}'`)
const native = values.long ? 600 : half
const door = values.long ? ['--calls', '1000000'] : ['--seconds', String(half)]
need({ cmake: 'cmake', 'clang++': 'clang libclang-rt-<version of clang>-dev' })

const fuzz = buildAddressed('fuzz')
mkdirSync('build/tests/fuzz/corpus', { recursive: true })
// New inputs go to the first folder; the second is kept in the repository.
const folders = ['build/tests/fuzz/corpus', 'test/native/corpus']
const limits = [`-max_total_time=${native}`, '-max_len=600', '-rss_limit_mb=3000', '-timeout=60', '-verbosity=0']
run(fuzz, [...folders, ...limits, '-print_final_stats=1', '-artifact_prefix=build/tests/fuzz/'])
run(process.execPath, ['scripts/fuzz-door.mjs', ...door])
