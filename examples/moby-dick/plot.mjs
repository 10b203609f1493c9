// Line charts as SVG text: panels side by side, on a light background of their own.

const [WIDTH, HEIGHT, GAP] = [290, 210, 24]
const MARGIN = { top: 44, right: 12, bottom: 34, left: 44 }
const COLOURS = ['#0969da', '#bc4c00', '#8250df']

/**
 * @typedef {{ name: string, points: [number, number][], dots?: boolean }} Line
 * @typedef {{ title: string, lines: Line[], range?: [number, number] }} Panel
 */

/**
 * @param {Panel[]} panels
 * @param {string} xLabel
 * @param {(tick: number) => string} xName what is written at a tick of the x-axis
 */
export function plot(panels, xLabel, xName = String) {
  const width = GAP + panels.length * (WIDTH + GAP)
  const height = HEIGHT + 2 * GAP
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"
  font-family="system-ui, sans-serif" font-size="11" fill="#1f2328">
<title>${panels.map(({ title }) => title).join(', ')} by ${xLabel}</title>
<rect width="100%" height="100%" rx="6" fill="#ffffff" stroke="#d0d7de"/>
${panels.map((panel, i) => drawPanel(panel, GAP + i * (WIDTH + GAP), GAP, xLabel, xName)).join('\n')}
</svg>
`
}

/**
 * @param {Panel} panel
 * @param {number} left
 * @param {number} top
 * @param {string} xLabel
 * @param {(tick: number) => string} xName
 */
function drawPanel({ title, lines, range }, left, top, xLabel, xName) {
  const points = lines.flatMap((line) => line.points)
  const xTicks = ticks(0, Math.max(...points.map(([x]) => x)))
  const yTicks = range
    ? ticks(...range)
    : ticks(Math.min(0, ...points.map(([, y]) => y)), Math.max(...points.map(([, y]) => y)))
  const x = scale(xTicks, MARGIN.left, WIDTH - MARGIN.right)
  const y = scale(yTicks, HEIGHT - MARGIN.bottom, MARGIN.top)
  const [first, last] = [x(xTicks[0]), x(xTicks[xTicks.length - 1])]
  const grid = yTicks.map(
    (tick) => `<path d="M${first} ${y(tick)}H${last}" stroke="#d8dee4"/>
<text x="${first - 6}" y="${y(tick) + 4}" text-anchor="end">${tick}</text>`,
  )
  const labels = xTicks.map(
    (tick) => `<text x="${x(tick)}" y="${HEIGHT - MARGIN.bottom + 16}" text-anchor="middle">${xName(tick)}</text>`,
  )
  const curves = lines.map(({ name, points, dots }, i) => {
    const path = points.map(([px, py], j) => `${j ? 'L' : 'M'}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join('')
    const key = MARGIN.left + i * 76
    const marks = dots ? points.map(([px, py]) => `<circle cx="${x(px)}" cy="${y(py)}" r="2.6"/>`).join('') : ''
    return `<path d="${path}" fill="none" stroke="${COLOURS[i]}" stroke-width="1.8" stroke-linejoin="round"/>
<g fill="${COLOURS[i]}">${marks}</g>
<path d="M${key} 26h14" stroke="${COLOURS[i]}" stroke-width="3"/><text x="${key + 19}" y="30">${name}</text>`
  })
  return `<g transform="translate(${left} ${top})">
<text x="${MARGIN.left}" y="10" font-size="13" font-weight="600">${title}</text>
${[...grid, ...labels, ...curves].join('\n')}
<text x="${(first + last) / 2}" y="${HEIGHT - 2}" text-anchor="middle" fill="#57606a">${xLabel}</text>
</g>`
}

/**
 * The place of a value between `from` and `to`, which stand for the first and the last tick.
 * @param {number[]} ticks
 * @param {number} from
 * @param {number} to
 */
function scale(ticks, from, to) {
  const [low, high] = [ticks[0], ticks[ticks.length - 1]]
  return (/** @type {number} */ value) => Math.round((from + ((value - low) / (high - low)) * (to - from)) * 10) / 10
}

/** Round numbers that enclose the range, up to a twentieth of their distance. */
function ticks(/** @type {number} */ low, /** @type {number} */ high) {
  const rough = (high - low) / 5
  const power = 10 ** Math.floor(Math.log10(rough))
  const size = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10)
  const first = Math.floor(low / size + 0.05)
  const last = Math.ceil(high / size - 0.05)
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * size).toPrecision(6)))
}
