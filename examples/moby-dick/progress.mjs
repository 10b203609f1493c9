// A progress bar in a terminal, an occasional plain line elsewhere.
import { SingleBar } from 'cli-progress'

/**
 * @param {string} name
 * @param {number} steps
 * @param {number} every so many steps there is a line
 * @param {boolean} inPlace whether a bar can be drawn
 * @returns {{ update(step: number, values: Record<string, string>): void, stop(): void }}
 */
export function createProgress(name, steps, every = 10, inPlace = process.stdout.isTTY) {
  const line = (/** @type {Record<string, string>} */ values) =>
    Object.entries(values)
      .map(([key, value]) => `${key} ${value}`)
      .join('  ')
  if (!inPlace) {
    return {
      update(step, values) {
        if (step % every === 0 || step === steps) console.log(`${name} ${step}/${steps}  ${line(values)}`)
      },
      stop() {},
    }
  }
  const bar = new SingleBar({ format: `${name} {bar} {value}/{total}  {line}`, barsize: 20, hideCursor: true, fps: 5 })
  bar.start(steps, 0, { line: '' })
  return {
    update: (step, values) => bar.update(step, { line: line(values) }),
    stop: () => bar.stop(),
  }
}
