/**
 * The names of runs on the page of `plot`.
 */
import { resolve, sep } from 'node:path'

/**
 * A name for each file: the file's name without its ending. Where another run has that name too, folders go before it,
 * or else the ending is kept. A file that is given twice is numbered.
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

/** The possible names of a file, the shortest first, and names without its ending before names with it. */
function choicesOf(path: string): string[] {
  const whole = resolve(path)
  return [whole.replace(/\.jsonl?$/, ''), whole].flatMap((text) => {
    const parts = text.split(sep)
    return parts.map((_, i) => parts.slice(-1 - i).join('/'))
  })
}
