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
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { CUDA } from './support.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const has = (program: string) => spawnSync(program, ['--version']).status === 0

/** Records its arguments, reports no GPU unless READY is set, and writes the output of a benchmark. */
const STUB = `#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
  *ready.mjs) if [ -z "$READY" ]; then echo 'CUDA is not available: none here' >&2; exit 1; fi ;;
  *--json*) echo '{}' > "\${@: -1}" ;;
esac
`
const TEST = `echo "test.sh" >> "$CALLS"
exit "\${TEST_STATUS:-0}"
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

  function run(steps: string[], environment: Record<string, string>) {
    const env = { ...process.env, CALLS: join(folder, 'calls'), ...environment }
    const { status, stdout } = spawnSync('bash', [join(folder, 'run.sh'), join(folder, 'out'), ...steps], {
      encoding: 'utf8',
      env,
    })
    const files = readdirSync(join(folder, 'out')).sort()
    const archived = spawnSync('tar', ['-tzf', join(folder, 'out/results.tgz')], { encoding: 'utf8' }).stdout
    const calls = readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n')
    return { status, stdout, files, archived: archived.trim().split('\n').sort(), calls }
  }

  it('fails without a GPU, says why, and runs nothing', () => {
    const { status, stdout, files, archived, calls } = run([], {})
    expect(status).toBe(1)
    expect(stdout).toContain('CUDA is not available: none here')
    expect(calls).toEqual(['dist/cli/index.mjs inspect', 'scripts/gpu/ready.mjs'])
    expect(files).toEqual(['results.tgz'])
    expect(archived).toEqual(['results/', 'results/gpu.log', 'results/inspect.log'])
  })

  it('fails when the tests do', () => {
    const { status, calls } = run(['check'], { READY: '1', TEST_STATUS: '1' })
    expect(status).toBe(1)
    expect(calls).toContain('test.sh')
  })

  it('leaves what it measured, and one archive with all that was said', () => {
    const { status, files, archived, calls } = run(['check', 'bench'], { READY: '1' })
    expect(status).toBe(0)
    expect(calls.slice(1).map((call) => call.split(' ')[0])).toEqual([
      'scripts/gpu/ready.mjs',
      'test.sh',
      'bench/run.mjs',
    ])
    expect(files).toEqual(['bench-cuda.json', 'results.tgz'])
    expect(archived).toEqual(
      ['', 'bench-cuda.json', 'bench.log', 'check.log', 'gpu.log', 'inspect.log'].map((name) => `results/${name}`),
    )
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
