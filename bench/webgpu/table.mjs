/**
 * The results of WebGPU as text: on a GPU times and their ratios to ours, in software the ratios alone.
 */
import { median } from '../statistics.mjs'

/** @param {Awaited<ReturnType<typeof import('./measure.mjs').measure>>} results */
export function webgpuText({ adapter, cases }) {
  const names = [adapter.vendor, adapter.architecture, adapter.description].filter((name) => name)
  const lines = [`adapter: ${names.join(', ')}${adapter.isSoftware ? ' (software: ratios alone)' : ''}`]
  for (const { name, shape, results } of cases) {
    const own = median(results[0].seconds)
    const ownOfDevice = results[0].ofDevice.length > 0 ? median(results[0].ofDevice) : Number.NaN
    lines.push('', `${name}, logits [${shape.join(', ')}] float32`)
    for (const { title, seconds, ofDevice, absent } of results) {
      if (absent !== undefined) {
        lines.push(`  ${title.padEnd(36)} absent: ${absent}`)
        continue
      }
      const shown = (/** @type {number} */ time, /** @type {number} */ ours) =>
        `${adapter.isSoftware ? '' : `${(1000 * time).toFixed(2)} ms  `}${(time / ours).toFixed(2)}x`
      const device = ofDevice.length > 0 ? `, by its timestamps ${shown(median(ofDevice), ownOfDevice)}` : ''
      lines.push(`  ${title.padEnd(36)} ${shown(median(seconds), own)}${device}`)
    }
  }
  return lines.join('\n')
}
