/**
 * Runs the native tests and the test suite under sanitizers, and a small part under valgrind.
 *
 *   npm run test:sanitize [-- --quick] [--only native|addon]
 *
 * The addon is compiled with each sanitizer and loaded into an ordinary Node, into which the sanitizer is preloaded.
 * The sanitizer sees the addon's accesses and every allocation of the process, but not V8's internal accesses.
 * AddressSanitizer also covers the CUDA backend, run on the host. These builds have the asserts of native code
 * (FPL_DEBUG).
 */
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import { parseArgs } from 'node:util'
import { ADDRESS, buildAddon, buildAddressed, buildNative, has, need, root, run } from './native-tests.mjs'

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false }, only: { type: 'string' } } })
const { quick, only } = values
/** @type {Record<string, () => void>} */
const PARTS = { native: nativeTests, addon: addonTests }
if (only !== undefined && !Object.hasOwn(PARTS, only)) throw new Error(`--only is '${only}', neither native nor addon`)
need({ cmake: 'cmake', 'g++': 'g++', valgrind: 'valgrind' })

const THREAD = '-O1 -g -DFPL_DEBUG -fsanitize=thread'
const suppressions = (/** @type {string} */ name) => `suppressions=${join(root, 'test', 'native', name)}`
const ASAN = { ASAN_OPTIONS: 'detect_leaks=1', LSAN_OPTIONS: `${suppressions('lsan.supp')}:print_suppressions=0` }
const TSAN = { TSAN_OPTIONS: `halt_on_error=1:exitcode=66:${suppressions('tsan.supp')}` }
const corpus = readdirSync(join(root, 'test/native/corpus')).map((name) => join('test/native/corpus', name))
/** @type {string[]} */
const done = []

function step(/** @type {string} */ what, /** @type {() => void} */ action) {
  const start = performance.now()
  console.log(`\n== ${what}`)
  action()
  done.push(`${what} (${((performance.now() - start) / 1000).toFixed(0)} s)`)
}

const library = (/** @type {string} */ name, compiler = 'g++') =>
  run(compiler, [`-print-file-name=${name}`], { capture: true }).trim()
// The C++ library must be loaded before the sanitizer looks up its throw function.
const preload = (/** @type {string} */ path) => ({ LD_PRELOAD: `${path} ${library('libstdc++.so')}` })

// Clang, where it and its sanitizers are there, compiles the kernels for AddressSanitizer in an eighth of GCC's time.
const runtime = has('clang++')
  ? library(`libclang_rt.asan-${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}.so`, 'clang++')
  : ''
const [compiler, asan] = isAbsolute(runtime) ? ['clang++', runtime] : ['g++', library('libasan.so')]
const SHARED = compiler === 'clang++' ? ' -shared-libsan' : ''

/** Tests of Node, the package, a browser or the speed of memory rather than of the addon. */
const ELSEWHERE = 'bench browser-example ci cli memory package package-types plot release tarball tfjs'
  .split(' ')
  .map((name) => `test/${name}.test.ts`)
const QUICK = ['hostile', 'linear', 'tokens', 'cuda', 'cuda-faults', 'cuda-lifetimes'].map(
  (name) => `test/${name}.test.ts`,
)

function suite(/** @type {Record<string, string>} */ env) {
  const files = quick ? QUICK : ELSEWHERE.flatMap((name) => ['--exclude', name])
  // Under a sanitizer the large files together would take too much memory.
  const workers = quick ? '--maxWorkers=2' : '--no-file-parallelism'
  const limits = ['--testTimeout', '900000', '--typecheck.enabled=false', workers]
  run(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', ...limits, ...files], { env })
}

for (const [part, check] of Object.entries(PARTS)) if (only === undefined || only === part) check()
console.log(`\nclean:\n  ${done.join('\n  ')}`)

/** The programs of test/native. */
function nativeTests() {
  step('native tests, AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer', () => {
    run(buildAddressed('unit', compiler), ['--examples', quick ? '150' : '5000', ...corpus], { env: ASAN })
  })
  step('exp, log, log1p and expm1, AddressSanitizer and UndefinedBehaviorSanitizer', () => {
    const count = quick ? '20000' : '500000'
    const program = buildAddressed('exact_math', compiler)
    run(program, ['--random', count, 'test/native/exact-math-cases.txt'], { env: ASAN })
  })
  step('asserts, each at a call that breaks it', () => {
    const program = buildAddressed('broken', compiler)
    const count = Number(run(program, [], { capture: true, env: ASAN }))
    if (!(count > 0)) throw new Error('no broken calls')
    for (let i = 0; i < count; i++) {
      const { signal, stderr } = spawnSync(program, [String(i)], { encoding: 'utf8' })
      if (signal !== 'SIGABRT' || !stderr.includes(' does not hold')) throw new Error(`broken call ${i}: ${stderr}`)
    }
    console.log(`${count} broken calls`)
  })
  step('the program of `npm run numerics`, AddressSanitizer and UndefinedBehaviorSanitizer', () => {
    const program = buildAddressed('numerics', compiler)
    const sets = run(program, ['sets'], { capture: true, env: ASAN }).trim().split('\n')
    for (const set of sets) run(program, ['bits', set], { capture: true, env: ASAN })
    console.log(`bits on ${sets.join(', ')}`)
  })
  step('native tests, ThreadSanitizer', () => {
    run(buildNative('tsan', 'unit', THREAD, compiler), ['--examples', quick ? '100' : '2000'], { env: TSAN })
  })
  if (!quick) {
    step('native tests, valgrind', () => {
      const checks = ['--quiet', '--error-exitcode=9', '--leak-check=full', '--fair-sched=yes']
      const program = buildNative('valgrind', 'unit', '-O1 -g -DFPL_DEBUG')
      run('valgrind', [...checks, program, '--examples', '20', '--memory-only'])
    })
  }
}

/** The addon in Node.js. */
function addonTests() {
  // The kernels of the CUDA backend too, run on the host.
  const addressed = { ...buildAddon('addon-asan', ADDRESS + SHARED, { host: true, compiler }), ...preload(asan) }
  step('every function of the addon, LeakSanitizer at exit', () => {
    run(process.execPath, ['scripts/leak-check.mjs'], { env: { ...addressed, ...ASAN } })
  })
  step(`${quick ? QUICK.join(', ') : 'the test suite'}, AddressSanitizer and UndefinedBehaviorSanitizer`, () => {
    suite({ ...addressed, ASAN_OPTIONS: 'detect_leaks=0' })
  })
  if (!quick) {
    const threaded = { ...buildAddon('addon-tsan', THREAD), ...TSAN }
    const { LD_PRELOAD } = preload(library('libtsan.so'))
    step('every function of the addon, ThreadSanitizer', () => {
      run(process.execPath, ['scripts/leak-check.mjs'], { env: { ...threaded, LD_PRELOAD } })
    })
    const asRoot = { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' }
    const ranks = ['env', `LD_PRELOAD=${LD_PRELOAD}`, process.execPath, 'scripts/ranks-check.mjs']
    for (const [mpirun, ...options] of [['mpirun.openmpi', '--oversubscribe', '--bind-to', 'none'], ['mpirun.mpich']]) {
      if (!has(mpirun)) console.log(`left out, as there is no ${mpirun}`)
      else {
        step(`two processes of ${mpirun}, ThreadSanitizer`, () => {
          run(mpirun, [...options, '-n', '2', ...ranks], { env: { ...threaded, ...asRoot } })
        })
      }
    }
  }
}
