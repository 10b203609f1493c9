/**
 * What runs are called on the page of `plot`.
 */
import { resolve, sep } from 'node:path'

/**
 * A name for each file: its own without the ending; with the folders before it, or else with its ending, where that alone
 * is another run's too. A file that is given twice is numbered.
 */
export function namesOf(paths: readonly string[]): string[] {
  const choices = paths.map(choicesOf)
  const seen = new Map<string, number>()
  return choices.map((mine, i) => {
    const name = mine.find((choice) => choices.every((other, j) => j === i || !other.includes(choice))) ?? mine[0]
    const times = (seen.get(name) ?? 0) + 1
    seen.set(name, times)
    return times === 1 ? name : `${name} (${times})`
  })
}

/** The names a file may get, the shortest first, those without its ending before those with it. */
function choicesOf(path: string): string[] {
  const whole = resolve(path)
  return [whole.replace(/\.jsonl?$/, ''), whole].flatMap((text) => {
    const parts = text.split(sep)
    return parts.map((_, i) => parts.slice(-1 - i).join('/'))
  })
}
