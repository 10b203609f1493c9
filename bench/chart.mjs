/**
 * Horizontal bars as SVG, in panels one below the other, each with a line for the limit. Knows nothing of what is shown.
 *
 * @typedef {object} Panel
 * @property {string} title
 * @property {{ label: string, value: number }} [limit]
 * @property {{ label: string, value: number, ours?: boolean }[]} bars
 */

const THEMES = {
  light: { text: '#1f2328', faint: '#59636e', ours: '#0969da', other: '#afb8c1', line: '#cf222e' },
  dark: { text: '#f0f6fc', faint: '#9198a1', ours: '#4493f8', other: '#3d444d', line: '#f85149' },
}
const WIDTH = 760
const LABELS = 290
const VALUES = 60
const BAR = 18
const STEP = 25

const escapeText = (/** @type {string} */ text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')

/** @param {Record<string, string | number>} attributes */
const element = (/** @type {string} */ name, attributes, content = '') =>
  `<${name} ${Object.entries(attributes)
    .map(([key, value]) => `${key}="${value}"`)
    .join(' ')}>${content}</${name}>`

/**
 * @param {{ title: string, unit: string, panels: Panel[] }} chart
 * @param {keyof typeof THEMES} theme
 * @returns {string} an SVG document
 */
export function barChart({ title, unit, panels }, theme) {
  const color = THEMES[theme]
  /** @type {string[]} */
  const parts = []
  const text = (/** @type {number} */ x, /** @type {number} */ y, /** @type {string} */ words, more = {}) =>
    parts.push(element('text', { x, y, fill: color.text, ...more }, escapeText(words)))

  text(0, 18, title, { 'font-size': 17, 'font-weight': 600 })
  text(0, 38, unit, { fill: color.faint })
  let y = 58
  for (const panel of panels) {
    const largest = Math.max(panel.limit?.value ?? 0, ...panel.bars.map((bar) => bar.value))
    const scale = (WIDTH - LABELS - VALUES) / largest
    text(0, y + 14, panel.title, { 'font-weight': 600 })
    y += 26
    const top = y
    for (const { label, value, ours } of panel.bars) {
      text(LABELS - 8, y + 13, label, { 'text-anchor': 'end', ...(ours && { 'font-weight': 600 }) })
      const width = Math.max(1, value * scale).toFixed(1)
      parts.push(element('rect', { x: LABELS, y, width, height: BAR, rx: 2, fill: ours ? color.ours : color.other }))
      text(LABELS + Number(width) + 6, y + 13, value.toPrecision(value < 0.1 ? 1 : 2))
      y += STEP
    }
    if (panel.limit) {
      const x = (LABELS + panel.limit.value * scale).toFixed(1)
      const stroke = { stroke: color.line, 'stroke-width': 1.5, 'stroke-dasharray': '4 3' }
      parts.push(element('line', { x1: x, x2: x, y1: top - 4, y2: y - 3, ...stroke }))
      const label = `${panel.limit.label} ${panel.limit.value.toPrecision(3)}`
      text(Number(x) - 6, y - STEP + 13, label, { 'text-anchor': 'end', fill: color.line })
    }
    y += 16
  }
  const font = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13"'
  const size = `width="${WIDTH}" height="${y}" viewBox="0 0 ${WIDTH} ${y}"`
  const lines = parts.map((part) => `  ${part}\n`).join('')
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} ${font} role="img">\n  <title>${escapeText(title)}</title>\n${lines}</svg>\n`
}
