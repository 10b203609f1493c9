/**
 * The page in the browser: panels of curves on a common cursor. `uPlot` is the library, in a script before this one.
 */
;(() => {
  /** What belongs in one panel, in this order; every other metric gets a panel of its own behind them. */
  const PANELS = [
    { title: 'Loss', unit: 'loss', metrics: ['loss'] },
    {
      title: 'Reward accuracy',
      unit: 'share of pairs',
      metrics: ['rewards/accuracies'],
      share: true,
      range: [0, 1.02],
    },
    { title: 'Reward margin', unit: 'chosen − rejected', metrics: ['rewards/margins'] },
    { title: 'Rewards', unit: 'reward', metrics: ['rewards/chosen', 'rewards/rejected'] },
    { title: 'Log-probs', unit: 'nats per sequence', metrics: ['logps/chosen', 'logps/rejected'] },
    { title: 'Entropy', unit: 'nats per token', metrics: ['entropy'] },
    { title: 'Token accuracy', unit: 'share of chosen tokens', metrics: ['mean_token_accuracy'], share: true },
    { title: 'Time of a step', unit: 'ms', metrics: ['ms'] },
    { title: 'Logits processed', unit: 'GB/s', metrics: ['GB/s'] },
  ]
  const COLOURS = 6
  const FEW = 60
  const FONT = '12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

  const runs = JSON.parse(document.getElementById('data').textContent)
  const known = new Set(PANELS.flatMap(({ metrics }) => metrics))
  const others = new Set(runs.flatMap(({ curves }) => Object.keys(curves)).filter((name) => !known.has(name)))
  const panels = [...PANELS, ...[...others].map((name) => ({ title: name, unit: '', metrics: [name] }))]
    .map((panel) => ({ ...panel, series: seriesOf(panel) }))
    .filter(({ series }) => series.length > 0)

  /** The panel's curves: of one run in a colour each; of several, a colour for each run and dashes for the second. */
  function seriesOf({ metrics }) {
    return runs.flatMap(({ name, curves }, run) =>
      metrics.flatMap((metric, i) => {
        if (curves[metric] === undefined) return []
        const label = metrics.length > 1 ? metric.split('/').at(-1) : ''
        return {
          ...curves[metric],
          label: [runs.length > 1 ? name : '', label].filter(Boolean).join(' '),
          colour: (runs.length > 1 ? run : i) % COLOURS,
          dashed: runs.length > 1 && i === 1,
        }
      }),
    )
  }

  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()

  function element(tag, parent, properties = {}) {
    return parent.appendChild(Object.assign(document.createElement(tag), properties))
  }

  /** Exponential moving average without a bias towards its start; nulls stay and do not count. */
  function smoothed(values, weight) {
    let average = 0
    let total = 0
    return values.map((value) => {
      if (value === null) return null
      average = weight * average + (1 - weight) * value
      total = weight * total + (1 - weight)
      return average / total
    })
  }

  /** Steps, then for every series its values as they are and smoothed; few points speak for themselves. */
  function dataOf(series, weight) {
    const weightOf = (values) => (values.length > FEW ? weight : 0)
    return uPlot.join(series.map(({ steps, values }) => [steps, values, smoothed(values, weightOf(values))]))
  }

  function format(value, share) {
    if (value == null) return '–'
    if (share) return `${(100 * value).toFixed(1)} %`
    const size = Math.abs(value)
    const digits = Math.max(4, Math.ceil(Math.log10(size + 1)) + 1)
    const text =
      size !== 0 && (size < 1e-3 || size >= 1e6)
        ? value.toExponential(2).replace(/\.?0*e/, 'e')
        : value.toLocaleString('en', { maximumSignificantDigits: digits })
    return text.replaceAll('-', '−')
  }

  /** The key shows the values at the cursor, or else the last ones; where a curve has no such step, the one before. */
  function fillKey(key, { share }, chart) {
    for (const [i, entry] of [...key.children].entries()) {
      const values = chart.data[2 * i + 2]
      let index = chart.cursor.idx ?? values.length - 1
      while (index > 0 && values[index] === undefined) index--
      entry.querySelector('b').textContent = format(values[index], share)
    }
  }

  function optionsOf(panel, size, key) {
    const [text, grid] = [variable('faint'), variable('grid')]
    const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: FONT, labelFont: FONT }
    const series = panel.series.flatMap(({ colour, dashed, steps }) => {
      const stroke = variable(`series-${colour}`)
      const line = { dash: dashed ? [6, 4] : undefined, points: { show: steps.length <= FEW, size: 5, fill: stroke } }
      return [
        { stroke: `${stroke}48`, width: 1, points: { show: false } },
        { ...line, stroke, width: 2 },
      ]
    })
    return {
      ...size,
      padding: [10, 10, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: 'step' },
        y: false,
        points: { size: 7, show: (_, i) => i % 2 === 0 },
        drag: { x: true, y: false },
      },
      scales: { x: { time: false }, y: { range: panel.range } },
      axes: [
        { ...axis, label: 'step', labelSize: 20, size: 28, space: 50 },
        {
          ...axis,
          label: panel.unit,
          labelSize: panel.unit ? 20 : 0,
          size: 54,
          values: (_, ticks) => ticks.map((tick) => (panel.share ? `${Math.round(100 * tick)} %` : format(tick))),
        },
      ],
      series: [{}, ...series],
      hooks: { setCursor: [(chart) => fillKey(key, panel, chart)], ready: [(chart) => fillKey(key, panel, chart)] },
    }
  }

  /** Draws a panel and gives functions that follow the slider, the window and the colour scheme. */
  function panelOf(panel) {
    const section = element('section', document.getElementById('panels'))
    element('h2', section, { textContent: panel.title })
    const key = element('div', section, { className: 'key' })
    for (const { label, colour, dashed } of panel.series) {
      const entry = element('span', key, { className: dashed ? 'dashed' : '' })
      const mark = element('span', entry, { className: 'mark' })
      mark.style.borderColor = `var(--series-${colour})`
      entry.append(`${label} `)
      element('b', entry)
    }
    const box = element('div', section, { className: 'chart', role: 'img', ariaLabel: `${panel.title} by step` })
    const size = () => ({ width: box.clientWidth, height: box.clientHeight })
    let chart
    const draw = (weight) => {
      chart?.destroy()
      chart = new uPlot(optionsOf(panel, size(), key), dataOf(panel.series, weight), box)
    }
    new ResizeObserver(() => chart?.setSize(size())).observe(box)
    const smooth = (weight) => {
      chart.setData(dataOf(panel.series, weight), false)
      chart.redraw()
      fillKey(key, panel, chart)
    }
    return { draw, smooth }
  }

  function listRuns() {
    for (const [i, { name, curves, notes }] of runs.entries()) {
      const item = element('li', document.getElementById('runs'))
      if (runs.length > 1) {
        element('span', item, { className: 'mark' }).style.borderColor = `var(--series-${i % COLOURS})`
      }
      element('strong', item, { textContent: name })
      const last = Math.max(...Object.values(curves).map(({ steps }) => steps.at(-1)))
      element('span', item, { textContent: ` to step ${last.toLocaleString('en')}` })
      for (const note of notes) element('li', document.getElementById('notes'), { textContent: note })
    }
    document.getElementById('notes').hidden = runs.every(({ notes }) => notes.length === 0)
  }

  listRuns()
  const slider = document.querySelector('#smoothing input')
  const shown = document.querySelector('#smoothing output')
  const views = panels.map(panelOf)
  const drawAll = () => {
    for (const view of views) view.draw(Number(slider.value))
    shown.value = Number(slider.value).toFixed(2)
  }
  drawAll()
  slider.addEventListener('input', () => {
    for (const view of views) view.smooth(Number(slider.value))
    shown.value = Number(slider.value).toFixed(2)
  })
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll)
})()
