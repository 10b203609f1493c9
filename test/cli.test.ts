/**
 * The command line, run as a user runs it.
 */
import { spawnSync } from 'node:child_process'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))
const cli = join(root, 'dist/cli/index.mjs')
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const COMMANDS = { inspect: ['--json'], plot: ['--output'], build: ['--no-cuda'], bench: ['--threads', '--vocab'] }

function run(...args: string[]) {
  return spawnSync(process.execPath, [cli, ...args], { encoding: 'utf8' })
}

describe('the command line', () => {
  it.each([['--help'], ['-h'], ['help']])('lists its commands: %s', (...args) => {
    const { status, stdout, stderr } = run(...args)
    for (const name of Object.keys(COMMANDS)) expect(stdout).toMatch(new RegExp(`^  ${name} `, 'm'))
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  })

  it.each([['--version'], ['-v']])('prints its version: %s', (...args) => {
    expect(run(...args)).toMatchObject({ status: 0, stdout: `${manifest.version}\n`, stderr: '' })
  })

  it.each(Object.entries(COMMANDS))('explains %s', (name, options) => {
    const { status, stdout, stderr } = run(name, '--help')
    expect(stdout).toMatch(new RegExp(`^Usage: fused-preference-loss ${name} `))
    for (const option of [...options, '--help']) expect(stdout).toMatch(new RegExp(`^ .*${option}\\b.* \\w`, 'm'))
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    for (const other of [
      ['help', name],
      [name, '-h'],
      [name, '--help', options[0]],
    ]) {
      expect(run(...other)).toMatchObject({ status: 0, stdout })
    }
  })

  it('is used wrongly without a command: the commands are listed, where errors go', () => {
    expect(run()).toMatchObject({ status: 2, stdout: '', stderr: run('--help').stdout })
  })

  it.each([
    [['inspct'], "'inspct' is not a command; did you mean 'inspect'?"],
    [['ins'], "'ins' is not a command; did you mean 'inspect'?"],
    [['--verison'], "'--verison' is not an option; did you mean '--version'?"],
    [['bnech'], "'bnech' is not a command; did you mean 'bench'?"],
    [['train'], "'train' is not a command; the commands are inspect, plot, build and bench"],
    [['help', 'inspct'], "'inspct' is not a command; did you mean 'inspect'?"],
    [['inspect', '--jsn'], "inspect: '--jsn' is not an option; did you mean '--json'?"],
    [['plot', '--out', 'x'], "plot: '--out' is not an option; did you mean '--output'?"],
    [['bench', '--vocabulary', '9'], "bench: '--vocabulary' is not an option; did you mean '--vocab'?"],
    [['inspect', '--frobnicate'], "inspect: '--frobnicate' is not an option; the options are --json and --help"],
    [['inspect', '-x'], "inspect: '-x' is not an option; the options are --json and --help"],
    [['inspect', 'build'], 'inspect: '],
    [['inspect', '--json=yes'], 'inspect: '],
    [['bench', '--threads'], 'bench: '],
  ])('is used wrongly: %j', (args, message) => {
    const { status, stdout, stderr } = run(...args)
    expect(stderr).toContain(message)
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
  })
})

describe('inspect', () => {
  it('prints the backends, for people and for programs', () => {
    expect(run('inspect').stdout).toMatch(/^cpu: available$/m)
    const { backends, binary, tried } = JSON.parse(run('inspect', '--json').stdout)
    expect(backends.cpu.available).toBe(true)
    expect(backends.js.available).toBe(true)
    expect(binary).toBe(backends.cpu.path)
    expect(tried).toContainEqual({ path: binary })
  })
})

describe('bench', () => {
  it.each(['0', '-1', '1025', '1.5', 'abc', '', ' 2', '1e2', '0x2', 'NaN'])('--threads %j is refused', (value) => {
    const { status, stdout, stderr } = run('bench', `--threads=${value}`)
    expect(stderr).toBe(`fused-preference-loss bench: --threads must be an integer from 1 to 1024; got '${value}'\n`)
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
  })

  it.each(['8', '999', '1000001', 'all'])('--vocab %j is refused, before anything is measured', (value) => {
    const { status, stdout, stderr } = run('bench', '--vocab', '2000', '--vocab', value)
    expect(stderr).toBe(
      `fused-preference-loss bench: --vocab must be an integer from 1000 to 1000000; got '${value}'\n`,
    )
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
  })

  it('counts threads', () => {
    expect(run('bench', '--vocab', '1000', '--threads', '1').stdout).toMatch(/, 1 thread;/)
    expect(run('bench', '--vocab', '1000', '--threads', '2').stdout).toMatch(/, 2 threads;/)
  })

  it('measures this machine', () => {
    const { results } = JSON.parse(run('bench', '--vocab', '1000', '--vocab', '2000', '--json').stdout)
    expect(results.map(({ shape }: { shape: number[] }) => shape[2])).toEqual([1000, 2000])
    for (const { forward, step } of results) {
      for (const { milliseconds, floor } of [forward, step]) {
        expect(milliseconds).toBeGreaterThan(0)
        expect(floor).toBeGreaterThan(0)
      }
    }
  })
})

// A shell script stands in for npm; on Windows only the path of the folder differs.
describe.skipIf(process.platform === 'win32')('build', () => {
  it('installs its tools without naming a folder, whose spaces a shell would cut', () => {
    const folder = mkdtempSync(join(tmpdir(), 'fused preference loss '))
    try {
      for (const name of ['dist', 'package.json']) cpSync(join(root, name), join(folder, name), { recursive: true })
      for (const name of Object.keys(manifest.dependencies)) {
        mkdirSync(join(folder, 'node_modules'), { recursive: true })
        symlinkSync(join(root, 'node_modules', name), join(folder, 'node_modules', name))
      }
      const bin = join(folder, 'bin')
      mkdirSync(bin)
      writeFileSync(join(bin, 'npm'), '#!/bin/sh\npwd -P\necho "$# $*"\nexit 7\n')
      chmodSync(join(bin, 'npm'), 0o755)
      const { status, stdout } = spawnSync(process.execPath, [join(folder, 'dist/cli/index.mjs'), 'build'], {
        encoding: 'utf8',
        env: { ...process.env, PATH: [bin, process.env.PATH].join(delimiter) },
      })
      const tools = join(folder, 'build-tools')
      expect(stdout.split('\n').slice(-3)).toEqual([tools, '3 install --no-audit --no-fund', ''])
      expect(status).toBe(1)
      const { 'cmake-js': cmakeJs, 'node-addon-api': nodeAddonApi } = manifest.devDependencies
      expect(JSON.parse(readFileSync(join(tools, 'package.json'), 'utf8'))).toEqual({
        private: true,
        dependencies: { 'cmake-js': cmakeJs, 'node-addon-api': nodeAddonApi },
      })
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
