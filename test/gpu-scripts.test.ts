/**
 * The scripts that test on a machine with a GPU must not pass on a machine without one. A stub replaces Node, so that
 * none of their programs runs here.
 */
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { CUDA } from './support.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const has = (program: string) => spawnSync(program, ['--version']).status === 0

/**
 * Records its arguments, reports no GPU unless READY is set, writes the output of a benchmark, takes a minute for SLOW, and
 * fails where it is to use the library of the variant that is WRONG.
 */
const STUB = `#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
  *ready.mjs) if [ -z "$READY" ]; then echo 'CUDA is not available: none here' >&2; exit 1; fi ;;
  *--json*) printf '{"packages":"%s"}' "$PYTHONPATH" > "\${@: -1}" ;;
esac
case "$*" in *torch-eager*) echo "library \${FUSED_PREFERENCE_LOSS_CUDA_LIBRARY:-as usual}" >> "$CALLS" ;; esac
if [ -n "$SLOW" ]; then case "$*" in *$SLOW*) sleep 60 ;; esac; fi
if [ -n "$WRONG" ]; then case "$FUSED_PREFERENCE_LOSS_CUDA_LIBRARY" in *$WRONG*) exit 1 ;; esac; fi
`
const TEST = `echo "test.sh" >> "$CALLS"
exit "\${TEST_STATUS:-0}"
`
/** Of another program: records its name and its arguments. */
const RECORDS = `#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$CALLS"
`
/** Compiles nothing of a patch that is broken. */
const VARIANT = `echo "variant.sh $(basename "$1") $(basename "$2")" >> "$CALLS"
case "$1" in *broken*) exit 1 ;; esac
`

describe.runIf(process.platform === 'linux' && has('tar') && has('xz'))('run.sh', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'fpl-gpu-'))
    const tree = join(folder, 'tree')
    mkdirSync(join(tree, 'bin'), { recursive: true })
    mkdirSync(join(tree, 'scripts/gpu'), { recursive: true })
    writeFileSync(join(tree, 'bin/node'), STUB)
    chmodSync(join(tree, 'bin/node'), 0o755)
    writeFileSync(join(tree, 'scripts/gpu/test.sh'), TEST)
    spawnSync('tar', ['-C', tree, '-cJf', join(folder, 'tree.tar.xz'), '.'])
    copyFileSync(join(root, 'scripts/gpu/run.sh'), join(folder, 'run.sh'))
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  /** Puts a file into the tree, a program if it is in `bin`. */
  function put(path: string, text: string) {
    const tree = join(folder, 'tree')
    mkdirSync(dirname(join(tree, path)), { recursive: true })
    writeFileSync(join(tree, path), text, { mode: 0o755 })
    spawnSync('tar', ['-C', tree, '-cJf', join(folder, 'tree.tar.xz'), '.'])
  }

  function run(steps: string[], environment: Record<string, string>) {
    const env = { ...process.env, CALLS: join(folder, 'calls'), ...environment }
    const { status, stdout } = spawnSync('bash', [join(folder, 'run.sh'), join(folder, 'out'), ...steps], {
      encoding: 'utf8',
      env,
    })
    const files = readdirSync(join(folder, 'out')).sort()
    const archived = spawnSync('tar', ['-tzf', join(folder, 'out/results.tgz')], { encoding: 'utf8' }).stdout
    const calls = readFileSync(env.CALLS, 'utf8')
      .trim()
      .split('\n')
      .filter((call) => call !== '--version')
    return { status, stdout, files, archived: archived.trim().split('\n').sort(), calls }
  }

  function measured(file: string): unknown {
    return JSON.parse(readFileSync(join(folder, 'out', file), 'utf8'))
  }

  it('fails without a GPU, says why, and runs nothing', () => {
    const { status, stdout, files, archived, calls } = run([], {})
    expect(status).toBe(1)
    expect(stdout).toContain('CUDA is not available: none here')
    expect(calls).toEqual(['dist/cli/index.mjs inspect', 'scripts/gpu/ready.mjs'])
    expect(files).toEqual(['results.tgz'])
    expect(archived).toEqual(['results/', 'results/gpu.log', 'results/inspect.log', 'results/steps.log'])
  })

  it('fails when the tests do', () => {
    const { status, calls } = run(['check'], { READY: '1', TEST_STATUS: '1' })
    expect(status).toBe(1)
    expect(calls).toContain('test.sh')
  })

  it('leaves what it measured, and one archive with all that was said', () => {
    const { status, files, archived, calls } = run(['check', 'bench'], { READY: '1', PYTHONPATH: '' })
    expect(status).toBe(0)
    expect(calls.slice(1).map((call) => call.split(' ')[0])).toEqual([
      'scripts/gpu/ready.mjs',
      'test.sh',
      'bench/run.mjs',
    ])
    expect(files).toEqual(['bench-cuda.json', 'results.tgz'])
    expect(archived).toEqual(
      ['', 'bench-cuda.json', 'bench.log', 'check.log', 'gpu.log', 'inspect.log', 'steps.log'].map(
        (name) => `results/${name}`,
      ),
    )
    expect(measured('bench-cuda.json')).toEqual({ packages: '' })
  })

  it.each([
    ['', /^\/.*\/python$/],
    ['/own/packages', /^\/.*\/python:\/own\/packages$/],
  ])(
    'installs the wheels it was given, without their dependencies, where the peers find them, before %j',
    (own, path) => {
      put('wheels/liger.whl', '')
      put('wheels/trl.whl', '')
      put('bin/python3', RECORDS)
      const { status, calls } = run(['bench'], { READY: '1', PYTHONPATH: own })
      expect(status).toBe(0)
      const pip = calls.findIndex((call) => call.startsWith('python3 -m pip install --no-index --no-deps --target '))
      expect(calls[pip]).toMatch(/ wheels\/liger\.whl wheels\/trl\.whl$/)
      expect(calls.findIndex((call) => call.startsWith('bench/run.mjs'))).toBeGreaterThan(pip)
      expect(measured('bench-cuda.json')).toEqual({ packages: expect.stringMatching(path) })
    },
  )

  it('ends a command that takes too long, fails, and goes on', () => {
    const begin = Date.now()
    const { status, stdout, calls, files } = run(['bench', 'head'], { READY: '1', SLOW: 'run.mjs', STEP_SECONDS: '5' })
    expect(status).toBe(1)
    expect(stdout).toMatch(/^bench: FAILED, out of time, in \d+ s$/m)
    expect(stdout).toMatch(/^head: passed in/m)
    expect(calls.some((call) => call.startsWith('bench/cuda/head.mjs'))).toBe(true)
    expect(files).toContain('results.tgz')
    expect(Date.now() - begin).toBeLessThan(50_000)
  })

  it('keeps what there is of a run that is killed', () => {
    const script = join(folder, 'run.sh')
    const env = { ...process.env, CALLS: join(folder, 'calls'), READY: '1', SLOW: 'head.mjs', TMPDIR: folder }
    const { signal } = spawnSync('bash', [script, join(folder, 'out'), 'bench', 'head'], {
      env,
      stdio: 'ignore',
      timeout: 8000,
      killSignal: 'SIGKILL',
    })
    expect(signal).toBe('SIGKILL')
    const archived = spawnSync('tar', ['-tzf', join(folder, 'out/results.tgz')], { encoding: 'utf8' }).stdout
    expect(archived).toContain('results/bench.log')
    expect(readdirSync(join(folder, 'out'))).toEqual(['bench-cuda.json', 'results.tgz'])
  })

  it('has so much time for all commands as it is given: what is left for one, and none for what is too late', () => {
    const { status, stdout, calls, archived } = run(['bench', 'head', 'peers'], {
      READY: '1',
      SLOW: 'head.mjs',
      ALL_SECONDS: '35',
    })
    expect(status).toBe(1)
    expect(stdout).toMatch(/^bench: passed in/m)
    expect(stdout).toMatch(/^head: FAILED, out of time, in 1\d s$/m)
    expect(stdout).toMatch(/^peers: LEFT OUT, no time$/m)
    expect(calls.filter((call) => call.startsWith('bench/run.mjs'))).toHaveLength(1)
    expect(archived).toContain('results/head.log')
  })

  it('measures our own cases and those of others in two commands, the others in less than all the time of theirs', () => {
    put('bin/node', STUB.replace('case "$*" in', 'echo "$PEERS_SECONDS $*" >> "$CALLS"\ncase "$*" in'))
    const { status, calls, files } = run(['bench', 'peers'], { READY: '1', STEP_SECONDS: '100' })
    expect(status).toBe(0)
    const benches = calls.filter((call) => call.startsWith('80 bench/run.mjs --backend cuda'))
    expect(benches.map((call) => call.replace(/ --json .*/, ''))).toEqual([
      '80 bench/run.mjs --backend cuda --peer ours',
      '80 bench/run.mjs --backend cuda --quick',
    ])
    expect(files).toEqual(['bench-cuda.json', 'bench-peers.json', 'results.tgz'])
  })

  it('gives Node.js the libraries that came along where it does not start without them', () => {
    put(
      'bin/node',
      `#!/usr/bin/env bash\n[ -n "$LD_LIBRARY_PATH" ] || [ "$1" != --version ] || exit 127\necho "$LD_LIBRARY_PATH" >> "$CALLS"`,
    )
    const { calls } = run(['bench'], { READY: '1', LD_LIBRARY_PATH: '' })
    expect(calls.at(-1)).toMatch(/^\/.*\/tree\/bin\/lib$/)
  })

  it('has ncu count what a step does, where there is one', () => {
    const none = run(['profile'], { READY: '1' })
    expect([none.status, none.stdout.includes('profile: no ncu here')]).toEqual([0, true])
    put('bin/ncu', RECORDS)
    const { status, calls, archived } = run(['profile'], { READY: '1' })
    expect(status).toBe(0)
    const metrics = 'gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum,smsp__inst_executed.sum,'
    expect(calls.at(-1)).toContain(`ncu --clock-control none --csv --metrics ${metrics}`)
    expect(calls.at(-1)).toMatch(/ node bench\/cuda\/profile\.mjs$/)
    expect(archived).toContain('results/profile.log')
  })

  it('says when a command was killed that did not take too long', () => {
    put('scripts/gpu/test.sh', 'kill -KILL $$')
    const { status, stdout } = run(['check'], { READY: '1' })
    expect(status).toBe(1)
    expect(stdout).toMatch(/^check: FAILED, out of time or memory, in \d s$/m)
  })

  it('has no variants to compile where it was given none, or where there is no nvcc', () => {
    put('scripts/gpu/variant.sh', VARIANT)
    const path = 'export PATH="$work/tree/bin:$PATH"'
    const script = readFileSync(join(folder, 'run.sh'), 'utf8')
    expect(script).toContain(path)
    const none = run(['variants'], { READY: '1' })
    expect([none.status, none.calls.length]).toEqual([0, 2])
    // Not the host's own.
    writeFileSync(join(folder, 'run.sh'), script.replace(path, `${path}; command() { false; }`))
    put('variants/loads.patch', 'x')
    const { status, stdout, calls } = run(['variants'], { READY: '1' })
    expect([status, stdout.includes('variants: no nvcc here')]).toEqual([0, true])
    expect(calls.join()).not.toContain('variant.sh')
  })

  it('compiles, checks and measures variants beside the kernels as they are; none that is wrong', () => {
    put('scripts/gpu/variant.sh', VARIANT)
    put('bin/nvcc', RECORDS)
    put('variants/broken.patch', 'x')
    put('variants/loads.patch', 'x')
    put('variants/wrong.patch', 'x')
    const { status, stdout, calls, files } = run(['variants', 'cpu'], { READY: '1', WRONG: 'variant-wrong' })
    expect(status).toBe(1)
    const made = calls.slice(2).map((call) => call.replace(/ .*\/(?=[^/]*$)/, ' '))
    expect(made).toEqual([
      'variant.sh null variant-none.so',
      'scripts/gpu/calls.mjs',
      'bench/run.mjs variant-none.json',
      'variant.sh broken.patch variant-broken.so',
      'variant.sh loads.patch variant-loads.so',
      'scripts/gpu/calls.mjs',
      'bench/run.mjs variant-loads.json',
      'variant.sh wrong.patch variant-wrong.so',
      'scripts/gpu/calls.mjs',
      'bench/run.mjs bench-cpu.json',
      'library as usual',
    ])
    expect(stdout).toMatch(/^variant-broken-build: FAILED in/m)
    expect(stdout).toMatch(/^variant-wrong-calls: FAILED in/m)
    expect(files).toEqual(['bench-cpu.json', 'results.tgz', 'variant-loads.json', 'variant-none.json'])
  })
})

describe.runIf(process.platform === 'linux' && has('patch') && has('xargs'))('variant.sh', () => {
  let folder: string
  const compile = (patch: string, environment: Record<string, string> = {}) => {
    writeFileSync(join(folder, 'a.patch'), patch)
    const env = {
      ...process.env,
      PATH: `${folder}/bin:${process.env.PATH}`,
      CALLS: join(folder, 'calls'),
      ...environment,
    }
    const library = join(folder, 'library.so')
    const args = [join(folder, 'scripts/gpu/variant.sh'), join(folder, 'a.patch'), library]
    const { status } = spawnSync('bash', args, { env, encoding: 'utf8' })
    const calls = existsSync(env.CALLS) ? readFileSync(env.CALLS, 'utf8').trim().split('\n').sort() : []
    return { status, calls, library: existsSync(library) ? readFileSync(library, 'utf8') : undefined }
  }
  // Its objects are the sources, and its library is the objects.
  const NVCC = `${RECORDS}out=
while [ $# -gt 0 ]; do
  case "$1" in -o) shift; out=$1 ;; *.cu | *.o) all="$all $1" ;; esac
  shift
done
cat $all > "$out"
[ -z "$FAILS" ]`
  const PATCH = `--- a/native/cuda/tuning.cu
+++ b/native/cuda/tuning.cu
@@ -1 +1 @@
-kLoads = 4
+kLoads = 8
`
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'fpl-variant-'))
    for (const name of ['bin', 'scripts/gpu', 'native/cuda']) mkdirSync(join(folder, name), { recursive: true })
    copyFileSync(join(root, 'scripts/gpu/variant.sh'), join(folder, 'scripts/gpu/variant.sh'))
    writeFileSync(join(folder, 'native/cuda/sources.txt'), 'native/cuda/plan.cu\nnative/cuda/tuning.cu\n')
    writeFileSync(join(folder, 'native/cuda/plan.cu'), 'plan\n')
    writeFileSync(join(folder, 'native/cuda/tuning.cu'), 'kLoads = 4\n')
    writeFileSync(join(folder, 'bin/nvcc'), NVCC, { mode: 0o755 })
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  it('compiles the sources with a patch, which stay as they are, without contraction', () => {
    const { status, calls, library } = compile(PATCH)
    expect([status, library]).toEqual([0, 'plan\nkLoads = 8\n'])
    expect(calls).toHaveLength(3)
    for (const call of calls) expect(call).toMatch(/^nvcc -arch=native .*-O3 .*-fmad=false/)
    expect(readFileSync(join(folder, 'native/cuda/tuning.cu'), 'utf8')).toBe('kLoads = 4\n')
  })

  it('compiles them as they are without one, for another GPU if told to', () => {
    const { status, calls, library } = compile('', { ARCH: 'sm_90' })
    expect([status, library]).toEqual([0, 'plan\nkLoads = 4\n'])
    for (const call of calls) expect(call).toContain('-arch=sm_90 ')
  })

  it('fails where the patch does not fit, and where nvcc fails', () => {
    expect(compile(PATCH.replace('kLoads = 4', 'kLoads = 5')).status).not.toBe(0)
    expect(compile(PATCH, { FAILS: '1' }).status).not.toBe(0)
  })
})

/** The files that those import where they begin, and so on; as far as they are of this repository. */
function imported(roots: readonly string[]): string[] {
  const found = new Set<string>()
  const visit = (path: string) => {
    if (found.has(path)) return
    found.add(path)
    const text = readFileSync(join(root, path), 'utf8')
    for (const [, name] of text.matchAll(/(?:from|^import) '(\.\.?\/[^']+\.(?:m?js|ts|wgsl))'/gm)) {
      const next = join(dirname(path), name)
      const file = [next, next.replace(/\.js$/, '.ts')].find((each) => existsSync(join(root, each)))
      if (file) visit(file)
    }
  }
  for (const path of roots) visit(path)
  return [...found]
}

describe('gpu:pack', () => {
  it('takes along whatever is imported there', async () => {
    const { PARTS } = await import(new URL('../scripts/gpu/parts.mjs', import.meta.url).href)
    const tests = readFileSync(join(root, 'scripts/gpu/test.sh'), 'utf8').match(/test\/[\w-]+\.test\.ts/g) as string[]
    const steps = readFileSync(join(root, 'scripts/gpu/run.sh'), 'utf8').match(
      /(?:bench|scripts)\/[\w/-]+\.mjs/g,
    ) as string[]
    expect(tests.length).toBeGreaterThan(5)
    expect(steps.length).toBeGreaterThan(4)
    const needed = imported(['vitest.config.ts', ...tests, ...steps])
    expect(needed.length).toBeGreaterThan(100)
    const isTaken = (path: string) => PARTS.some((part: string) => path === part || path.startsWith(`${part}/`))
    expect(needed.filter((path) => !isTaken(path))).toEqual([])
  })

  it.runIf(process.platform === 'linux' && has('ldd'))('knows what programs need of a host', async () => {
    const { librariesOf, oldestGlibc } = await import(new URL('../scripts/gpu/parts.mjs', import.meta.url).href)
    const found: string[] = librariesOf(process.execPath)
    for (const path of found) expect(existsSync(path)).toBe(true)
    const { stdout } = spawnSync('ldd', [process.execPath], { encoding: 'utf8' })
    for (const name of ['libstdc++.so', 'libgcc_s.so']) {
      expect(found.some((path) => path.includes(name))).toBe(stdout.includes(name))
    }
    const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime: string } }
    const [needed, here] = [oldestGlibc([process.execPath]), header.glibcVersionRuntime].map((version) =>
      Number(version.split('.')[1]),
    )
    expect(needed).toBeGreaterThanOrEqual(17)
    expect(needed).toBeLessThanOrEqual(here)
  })

  it.each([
    [['--wheel', '/nowhere/a.whl'], '/nowhere/a.whl is missing'],
    [['--wheel', 'package.json'], 'package.json must end in .whl'],
    [['--variant', '/nowhere/a.patch'], '/nowhere/a.patch is missing'],
    [['--weel', 'a.whl'], "Unknown option '--weel'"],
  ])('refuses %j before it packs anything', (args, reason) => {
    const { status, stderr } = spawnSync(process.execPath, ['scripts/gpu/pack.mjs', ...args], {
      cwd: root,
      encoding: 'utf8',
    })
    expect(status).toBe(1)
    expect(stderr).toContain(reason)
  })
})

describe.runIf(CUDA.length > 0 && !process.env.FPL_TEST_GPU)('a machine', () => {
  const ready = (environment: Record<string, string>) => {
    const env = { ...process.env, ...environment }
    const { status, stdout, stderr } = spawnSync(process.execPath, ['scripts/gpu/ready.mjs'], {
      cwd: root,
      encoding: 'utf8',
      env,
    })
    return { status, said: stdout + stderr }
  }

  it.each([
    ['with a GPU and cuBLASLt', {}, 0, 'host, compute capability 9.0'],
    ['without a GPU', { FPL_HOST_DEVICES: '0' }, 1, 'CUDA is not available: no NVIDIA GPU found'],
    ['without cuBLASLt', { FUSED_PREFERENCE_LOSS_CUBLASLT: '/nowhere.so' }, 1, 'cuBLASLt is not available'],
  ])('%s is told from others', (_, environment, status, said) => {
    const found = ready(environment as Record<string, string>)
    expect(found.status).toBe(status)
    expect(found.said).toContain(said)
  })

  it.runIf(existsSync('/bin/bash'))('without a GPU fails its tests', () => {
    const { status, stderr } = spawnSync('bash', [join(root, 'scripts/gpu/test.sh')], {
      encoding: 'utf8',
      env: { ...process.env, FUSED_PREFERENCE_LOSS_CUDA_LIBRARY: '/nowhere.so' },
    })
    expect(status).not.toBe(0)
    expect(stderr).toContain('FPL_TEST_GPU is set, but CUDA is not available: this build has no CUDA library')
  })
})

describe.runIf(CUDA.length > 0 && !process.env.FPL_TEST_GPU)('times of the cuda bench', () => {
  /** The order in which work has been enqueued, and what came of it. */
  const timed = (program: string) => {
    const prelude = `
      import { DeviceBuffer, Stream } from 'fused-preference-loss/cuda'
      import { setsBeyond, timeCalls } from './bench/cuda/time.mjs'
      const stream = new Stream()
      const order = []
      const copies = (count) => Array.from({ length: count }, (_, i) => {
        const [from, to] = [new DeviceBuffer(1 << 20), new DeviceBuffer(1 << 20)]
        return () => { order.push(i); to.copyFrom(from, { stream }) }
      })`
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', `${prelude}\n${program}`], {
      cwd: root,
      encoding: 'utf8',
    })
    expect(stderr).toBe('')
    return JSON.parse(stdout)
  }

  it('are of several calls between two events, on sets that take turns', () => {
    const { order, ms, p20, p80 } = timed(
      'console.log(JSON.stringify({ ...timeCalls(stream, copies(3), { rounds: 2 }), order }))',
    )
    // Two rounds of one pass, one round more of several, and the two that are timed.
    const passes = (order.length / 3 - 2) / 3
    expect(Number.isInteger(passes)).toBe(true)
    expect(3 * passes).toBeGreaterThanOrEqual(4)
    expect(order).toEqual(Array.from({ length: order.length }, (_, i) => i % 3))
    expect(ms).toBeGreaterThan(0)
    expect(p20).toBeLessThanOrEqual(ms)
    expect(ms).toBeLessThanOrEqual(p80)
  })

  it('make each call once after what comes before a round', () => {
    const { order } = timed(
      `timeCalls(stream, copies(5), { rounds: 3, before: () => order.push('before') })
      console.log(JSON.stringify({ order }))`,
    )
    expect(order).toEqual(Array(6).fill(['before', 0, 1, 2, 3, 4]).flat())
  })

  it('enqueue the calls of a graph once', () => {
    const [plain, graph] = timed(
      `const before = () => {}
      timeCalls(stream, copies(2), { rounds: 9, before })
      const plain = order.length
      timeCalls(stream, copies(2), { rounds: 9, before, inGraph: true })
      console.log(JSON.stringify([plain, order.length - plain]))`,
    )
    // Three rounds that are not timed and nine that are; two of them, and the capture.
    expect([plain, graph]).toEqual([2 * (3 + 9), 2 * (2 + 1)])
  })

  it('take sets of some times the second-level cache, and one of what is larger', () => {
    expect(
      timed('console.log(JSON.stringify([setsBeyond(60, 16), setsBeyond(60, 240), setsBeyond(60, 1e9)]))'),
    ).toEqual([15, 1, 1])
  })
})
