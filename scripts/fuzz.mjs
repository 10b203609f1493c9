/**
 * Fuzzing, half of the time native/core and native/cpu by libFuzzer against the oracle, half at the JavaScript door.
 *
 *   npm run fuzz [-- --seconds N]    60 by default; needs clang
 *
 * A native find is written to build/tests/fuzz/; copy it to test/native/corpus/ with a name that says what it is.
 */
import { mkdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { buildNative, need, run } from './native-tests.mjs'

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' } } })
const seconds = Math.max(1, Math.ceil(Number(values.seconds) / 2))
need({ cmake: 'cmake', 'clang++': 'clang libclang-rt-14-dev' })

const SANITIZERS = '-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all'
const fuzz = buildNative('fuzz', 'fuzz', `-O2 -g ${SANITIZERS}`, 'clang++')
mkdirSync('build/tests/fuzz/corpus', { recursive: true })
// What is new goes to the first folder; the second is kept in the tree.
const folders = ['build/tests/fuzz/corpus', 'test/native/corpus']
const limits = [`-max_total_time=${seconds}`, '-max_len=600', '-rss_limit_mb=3000', '-timeout=60', '-verbosity=0']
run(fuzz, [...folders, ...limits, '-print_final_stats=1', '-artifact_prefix=build/tests/fuzz/'])
run(process.execPath, ['scripts/fuzz-door.mjs', String(seconds)])
