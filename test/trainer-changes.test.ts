/**
 * The lines that turn a trainer's fine-tuning into ours: docs/trainers.md shows them as differences of programs in
 * examples/. Here each difference is applied, and both programs run: they train to the same losses.
 */
import { execFile } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'

const root = new URL('..', import.meta.url)
const page = readFileSync(new URL('docs/trainers.md', root), 'utf8')
const changes = Array.from(
  page.matchAll(/^<!-- changes: (\S+) -->\n\n```diff\n(.*?)^```$/gms),
  ([, program, difference]) => ({ program, difference }),
)

/**
 * A program with a difference applied: its hunks begin with '@@' but for the first; lines that are neither '+' nor '-' are
 * there before and after. Every hunk must fit one place.
 */
function applied(program: string, difference: string): string {
  let text = program
  for (const hunk of difference.split(/^@@\n/m)) {
    const lines = hunk.trimEnd().split('\n')
    const side = (sign: '+' | '-') =>
      lines
        .filter((line) => line[0] === ' ' || line[0] === sign)
        .map((line) => line.slice(1))
        .join('\n')
    expect(text.split(side('-'))).toHaveLength(2)
    text = text.replace(side('-'), () => side('+'))
  }
  return text
}

/** The losses that a program prints, one a line. */
async function lossesOf(program: URL): Promise<number[]> {
  const { stdout } = await promisify(execFile)(process.execPath, [fileURLToPath(program)])
  return stdout.match(/^\d+\.\d+(e-\d+)?$/gm)!.map(Number)
}

it('there is one for each trainer', () => {
  expect(changes.map(({ program }) => program)).toEqual([
    'examples/sft/tensorflow.mjs',
    'examples/sft/jax.mjs',
    'examples/nanogpt/sft.mjs',
  ])
})

describe.each(changes)('$program', ({ program, difference }) => {
  it('changes at most five lines', () => {
    const count = difference.match(/^[+-]/gm)!.length
    expect(count).toBeGreaterThan(2)
    expect(count).toBeLessThanOrEqual(5)
  })

  it('trains to the same losses with this package', async () => {
    const before = new URL(program, root)
    // Beside the program, so that its imports are found.
    const after = new URL(`changed-${process.pid}.mjs`, before)
    const changed = applied(readFileSync(before, 'utf8'), difference)
    expect(changed).toContain('fused-preference-loss')
    writeFileSync(after, changed)
    try {
      const wanted = await lossesOf(before)
      const losses = await lossesOf(after)
      expect(wanted).toHaveLength(40)
      expect(wanted.at(-1)).toBeLessThan(0.7 * wanted[0])
      expect(losses).toHaveLength(40)
      for (const [i, loss] of losses.entries()) expect(Math.abs(loss / wanted[i] - 1)).toBeLessThan(1e-5)
      // Not the same computation.
      expect(losses).not.toEqual(wanted)
    } finally {
      rmSync(after)
    }
  })
})
