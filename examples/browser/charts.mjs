// The live curves, drawn by uPlot: each step as it is, the mean of the last steps, and dots for pairs held out.
import uPlot from 'uplot'

const MEAN_OF = 20
const FONT = '12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

/** @typedef {'loss' | 'margin' | 'accuracy'} Metric */

/**
 * @typedef {object} ChartSettings
 * @property {Metric} metric
 * @property {string} title
 * @property {string} text what it means
 * @property {[number, number]} range that is always seen
 * @property {boolean} [heldOut] whether it has dots
 * @property {(value: number) => string} format
 */

/** @type {ChartSettings[]} */
const CHARTS = [
  {
    metric: 'loss',
    title: 'Loss',
    text: 'What training lowers. At 0.69 it does not know which of two texts to prefer.',
    range: [0, 0.8],
    format: (value) => value.toFixed(2),
  },
  {
    metric: 'margin',
    title: 'Margin',
    text: 'How much more it prefers the book’s words than before it was tuned.',
    range: [0, 1.5],
    heldOut: true,
    format: (value) => value.toFixed(1).replace('-', '−'),
  },
  {
    metric: 'accuracy',
    title: 'Accuracy',
    text: 'In how many of the pairs it prefers the book’s words.',
    range: [0, 1],
    heldOut: true,
    format: (value) => `${Math.round(100 * value)} %`,
  },
]

/**
 * Draws empty charts of `steps` steps into an element. Points that are added are seen in the next frame.
 * @param {HTMLElement} parent
 * @param {number} steps
 */
export function createCharts(parent, steps) {
  const charts = CHARTS.map((settings) => createChart(parent, settings, steps))
  let isDue = false
  const soon = () => {
    if (isDue) return
    isDue = true
    requestAnimationFrame(() => {
      isDue = false
      for (const chart of charts) chart.draw()
    })
  }
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    for (const chart of charts) chart.create()
  })
  return {
    clear() {
      for (const chart of charts) chart.clear()
      soon()
    },
    add(/** @type {number} */ step, /** @type {Partial<Record<Metric, number>>} */ values, heldOut = false) {
      for (const chart of charts) chart.add(step, values, heldOut)
      soon()
    },
  }
}

/**
 * @param {HTMLElement} parent
 * @param {ChartSettings} settings
 * @param {number} steps
 */
function createChart(parent, settings, steps) {
  const section = parent.appendChild(document.createElement('section'))
  const latest = document.createElement('b')
  const title = document.createElement('h2')
  title.append(settings.title, latest)
  const text = document.createElement('p')
  text.textContent = settings.text
  const box = document.createElement('div')
  box.className = 'chart'
  box.role = 'img'
  box.ariaLabel = `${settings.title} by step`
  section.append(title, text, keyOf(settings), box)

  const count = steps + 1
  /** @type {(number | null)[][]} */
  let [each, means, dots] = []
  const clear = () => {
    ;[each, means, dots] = [0, 1, 2].map(() => new Array(count).fill(null))
    latest.textContent = ''
  }
  clear()
  const data = () => /** @type {uPlot.AlignedData} */ ([each.map((_, step) => step), each, means, dots])
  const size = () => ({ width: box.clientWidth, height: box.clientHeight })
  /** @type {uPlot | undefined} */
  let plot
  const create = () => {
    plot?.destroy()
    plot = new uPlot(optionsOf(settings, steps, size()), data(), box)
  }
  create()
  new ResizeObserver(() => plot?.setSize(size())).observe(box)
  return {
    create,
    clear,
    draw: () => plot?.setData(data()),
    /** @type {ReturnType<typeof createCharts>['add']} */
    add(step, { [settings.metric]: value }, heldOut) {
      if (value === undefined) return
      if (heldOut) {
        dots[step] = settings.heldOut ? value : null
        return
      }
      each[step] = value
      const last = each.slice(Math.max(1, step - MEAN_OF + 1), step + 1).map(Number)
      means[step] = last.reduce((sum, one) => sum + one, 0) / last.length
      latest.textContent = settings.format(means[step])
    },
  }
}

/** What the lines are. */
function keyOf(/** @type {ChartSettings} */ { heldOut }) {
  const key = document.createElement('p')
  key.className = 'key'
  const entries = [['line', `mean of ${MEAN_OF} steps`], ...(heldOut ? [['dot', 'pairs it never sees']] : [])]
  for (const [mark, words] of entries) {
    const entry = key.appendChild(document.createElement('span'))
    entry.className = mark
    entry.textContent = words
  }
  return key
}

/**
 * @param {ChartSettings} settings
 * @param {number} steps
 * @param {{ width: number, height: number }} size
 * @returns {uPlot.Options}
 */
function optionsOf({ range: [low, high], format }, steps, size) {
  const colour = (/** @type {string} */ name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim()
  const axis = {
    stroke: colour('--faint'),
    grid: { stroke: colour('--grid'), width: 1 },
    ticks: { show: false },
    font: FONT,
  }
  const [train, heldOut] = [colour('--series-0'), colour('--series-1')]
  return {
    ...size,
    padding: [8, 14, 0, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false, range: [0, steps] },
      y: { range: (_, min, max) => [Math.min(low, min ?? low), Math.max(high, max ?? high)] },
    },
    axes: [
      { ...axis, size: 24, space: 50, label: 'step', labelSize: 18, labelFont: FONT },
      { ...axis, size: 46, values: (_, ticks) => ticks.map(format) },
    ],
    series: [
      {},
      { stroke: `${train}40`, width: 1, points: { show: false } },
      { stroke: train, width: 2.5, points: { show: false } },
      { stroke: heldOut, width: 1.5, spanGaps: true, points: { show: true, size: 7, fill: heldOut } },
    ],
  }
}
