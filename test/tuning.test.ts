/** native/cuda/tuning.h: which numbers which code has, and that a bench's take their place. Compiled, not run. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

const header = fileURLToPath(new URL('../native/cuda/tuning.h', import.meta.url))
const compiler = ['g++', 'clang++'].find((name) => spawnSync(name, ['--version']).error === undefined)

/** Whether the conditions hold in a compilation with these flags, and with a bench's rows where they are given. */
function holds(conditions: string[], { flags = [], rows }: { flags?: string[]; rows?: string } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'tuning-'))
  try {
    const source = join(folder, 'conditions.cc')
    const asserted = conditions.map((condition) => `static_assert(${condition}, "");`)
    writeFileSync(source, [`#include "${header}"`, 'using namespace fpl::cuda;', ...asserted].join('\n'))
    if (rows) writeFileSync(join(folder, 'rows.h'), rows)
    const table = rows ? [`-DFPL_TUNING="${join(folder, 'rows.h')}"`] : []
    const { status, stderr } = spawnSync(
      compiler!,
      ['-std=c++17', '-Wall', '-Wextra', '-Werror', '-fsyntax-only', ...flags, ...table, source],
      { encoding: 'utf8' },
    )
    return { status, stderr }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

describe.runIf(compiler)('the tuning table', () => {
  it('has a row for each code that is compiled, and the one before for what lies between', () => {
    const rowOf = { 75: 75, 80: 80, 86: 86, 89: 86, 90: 90, 100: 100, 103: 100, 110: 100, 120: 120, 130: 120, 70: 75 }
    const conditions = Object.entries(rowOf).map(([code, row]) => `tuningFor(${code}).architecture == ${row}`)
    expect(holds(conditions)).toEqual({ status: 0, stderr: '' })
    expect(holds(['tuningFor(89).architecture == 89']).status).not.toBe(0)
  })

  it('gives kernels the row of the code that is compiled', () => {
    expect(holds(['kTuning.architecture == 86'], { flags: ['-D__CUDA_ARCH__=890'] }).status).toBe(0)
    expect(holds(['kTuning.architecture == 120'], { flags: ['-D__CUDA_ARCH__=1200'] }).status).toBe(0)
  })

  it('is a bench’s where that has one, whose rows ascend', () => {
    const rows = '{75, 3, 2, 4, 3, 2, 8, 4, 16, 1, 8},\n{90, 4, 3, 5, 4, 1, 6, 8, 32, 2, 4},\n'
    const last = ['tuningFor(100).sweepBlocks == 4', 'kTuning.gradientLoads == 8', 'kTuning.convertedElements == 4']
    expect(holds([...last, 'tuningFor(86).gradientLoads == 4'], { rows })).toEqual({ status: 0, stderr: '' })
    const descending = rows.split('\n').reverse().join('\n')
    expect(holds([], { rows: descending }).stderr).toContain('architectures ascend')
  })
})
