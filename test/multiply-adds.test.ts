/**
 * The benchmark's limit of multiply-adds is counted, not believed: the compiled loop has as many of them as the meter says it
 * has, on every instruction set of this checkout's addon and, where Clang is, in its AVX2. A compiler that sees through a
 * chain leaves it out, and the machine seems to multiply faster than it can.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { getBackends } from '../lib/index.js'

/** Sums of a micro-tile: kMicroRows · kMicroVectors. */
const CHAINS: Record<string, number> = { avx512: 24, avx2: 12, baseline: 8 }
const loopOf = (set: string) => new RegExp(`\\S*3fpl\\d*${set}\\d+\\S*multiplyAddsE\\w+`)

/** Of bfloat16 pairs, which compilers know without the CPU. */
const PAIR_CHAINS = 12
const PAIR_LOOP = /\S*pairProductsE\w+/

const output = (program: string, ...args: string[]) =>
  spawnSync(program, args, { encoding: 'utf8', maxBuffer: 2 ** 27 }).stdout ?? ''
const has = (program: string) => output(program, '--version') !== ''
const isHere = process.platform === 'linux' && process.arch === 'x64' && has('objdump') && has('nm')

const folder = mkdtempSync(join(tmpdir(), 'multiply-adds-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** Multiply-adds, or multiplications where there are none, in the innermost loop of a function. */
function countInLoop(binary: string, name: RegExp): number | undefined {
  const symbol = output('nm', binary).match(name)?.[0]
  if (symbol === undefined) return undefined
  const code = output('objdump', '--disassemble', '--no-show-raw-insn', `--disassemble=${symbol}`, binary)
  const lines = code.split('\n').flatMap((line) => {
    const match = /^\s*([0-9a-f]+):\s+(\w+)\s*(\S*)/.exec(line)
    return match ? [{ at: Number.parseInt(match[1], 16), name: match[2], operand: match[3] }] : []
  })
  const counts = lines.flatMap(({ at, name, operand }) => {
    const to = Number.parseInt(operand, 16)
    if (!/^j/.test(name) || !(to < at)) return []
    const loop = lines.filter((line) => line.at >= to && line.at < at)
    return [loop.filter((line) => /^(vfmadd|mulps|vdpbf16ps)/.test(line.name)).length]
  })
  return Math.max(0, ...counts)
}

/** A loop may do several rounds at once. */
function expectWhole(count: number | undefined, chains: number) {
  expect(count).toBeGreaterThan(0)
  expect((count as number) % chains).toBe(0)
}

describe.runIf(isHere)('the loop of multiply-adds', () => {
  const { path, instructionSets = [] } = getBackends().cpu

  test.runIf(path !== undefined)('of this checkout has every chain', () => {
    // A published binary has no symbols.
    if (path === undefined || countInLoop(path, loopOf('baseline')) === undefined)
      return expect(path).toMatch(/prebuilds/)
    const own = instructionSets.filter((set) => set in CHAINS)
    expect(own).toContain('baseline')
    for (const set of own) expectWhole(countInLoop(path, loopOf(set)), CHAINS[set])
    expectWhole(countInLoop(path, PAIR_LOOP), PAIR_CHAINS)
  })

  test.runIf(has('clang++'))(
    'compiled by Clang has every chain',
    () => {
      const [source, object] = [new URL('../native/cpu/isa_avx2.cc', import.meta.url), join(folder, 'isa.o')]
      const flags = ['-std=c++17', '-O2', '-ffp-contract=off', '-c', fileURLToPath(source), '-o', object]
      expect(spawnSync('clang++', flags, { encoding: 'utf8' })).toMatchObject({ status: 0 })
      expectWhole(countInLoop(object, loopOf('avx2')), CHAINS.avx2)
    },
    120_000,
  )
})
