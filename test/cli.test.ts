/**
 * The command line, run as a user runs it.
 */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

const cli = fileURLToPath(new URL('../dist/cli/index.mjs', import.meta.url))

function run(...args: string[]) {
  return spawnSync(process.execPath, [cli, ...args], { encoding: 'utf8' })
}

describe('the command line', () => {
  it('lists its commands', () => {
    const { status, stdout } = run('--help')
    expect(stdout).toContain('inspect')
    expect(status).toBe(0)
  })

  it('is used wrongly without a command, with an unknown one, or with an unknown option', () => {
    expect(run().status).toBe(2)
    const unknown = run('inspct')
    expect(unknown.stderr).toContain("did you mean 'inspect'")
    expect(unknown.status).toBe(2)
    expect(run('inspect', '--jason').status).toBe(2)
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
