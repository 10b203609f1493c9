/** What the check of the kernels' machine code says of what ptxas has reported. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'

const path = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url))
const SHIPPED = [75, 80, 86, 89, 90, 100, 120]

/** What ptxas says of a kernel. */
const report = (architecture: number, spilled = 0) =>
  [
    `ptxas info    : Compiling entry function '_ZN3fpl4cuda11sweepKernelIfEEv' for 'sm_${architecture}'`,
    'ptxas info    : Function properties for _ZN3fpl4cuda11sweepKernelIfEEv',
    `    8 bytes stack frame, ${spilled} bytes spill stores, ${spilled} bytes spill loads`,
    'ptxas info    : Used 64 registers, used 1 barriers, 1024 bytes smem',
  ].join('\n')

function check(reports: readonly string[], ...flags: string[]) {
  const folder = mkdtempSync(join(tmpdir(), 'fpl-resources-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  if (reports.length > 0) mkdirSync(join(folder, 'build/ptxas'), { recursive: true })
  for (const [i, text] of reports.entries()) writeFileSync(join(folder, `build/ptxas/${i}.log`), text)
  const { CI: _, ...env } = process.env
  const { status, stdout, stderr } = spawnSync(process.execPath, [path('scripts/cuda-resources.mjs'), ...flags], {
    cwd: folder,
    encoding: 'utf8',
    env,
  })
  return { status, said: stdout + stderr }
}

describe('cuda:resources', () => {
  it('lists the registers of a kernel for each architecture', () => {
    const { status, said } = check([report(120), report(90)])
    expect(status).toBe(0)
    expect(said).toMatch(/sweepKernel<f32> +1024 B shared {2}registers 90: 64 {2}120: 64/)
  })

  it.each(SHIPPED)('fails where a kernel spills on sm_%i', (spilling) => {
    const { status, said } = check(SHIPPED.map((each) => report(each, each === spilling ? 16 : 0)))
    expect(status).toBe(1)
    expect(said).toContain(`${spilling}: 64 (spills 32)`)
    expect(said).toContain('1 of 7 kernels spill registers')
  })

  it.each(SHIPPED)('fails with --all, and without it not, where nothing was compiled for sm_%i', (missing) => {
    const reports = SHIPPED.filter((each) => each !== missing).map((each) => report(each))
    expect(check(reports).status).toBe(0)
    const { status, said } = check(reports, '--all')
    expect([status, said.includes(`1 of 1 kernels were not compiled for sm_${missing}`)]).toEqual([1, true])
  })

  it('passes with --all for all of them, and has nothing to check without nvcc', () => {
    const reports = SHIPPED.map((each) => report(each))
    expect(check(reports, '--all').status).toBe(0)
    expect(check([], '--all')).toEqual({ status: 0, said: expect.stringContaining('no CUDA library was compiled') })
  })
})
