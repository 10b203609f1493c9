// The costs of a step in each of the ways, as a table with bars, and what follows from them in words.

/**
 * @typedef {import('./events.js').Way} Way
 * @typedef {import('./events.js').Cost} Cost
 * @typedef {import('./events.js').Agreement} Agreement
 */

/** @type {Record<Way, { name: string, text: string }>} */
const WAYS = {
  package: { name: 'fused-preference-loss', text: 'both in one call' },
  fastest: { name: 'TensorFlow.js, by hand', text: 'with a gradient written for it' },
  automatic: { name: 'TensorFlow.js, automatic', text: 'with the gradient that it derives' },
}
/** How far results in float32 may be apart. */
const AGREE = 1e-5

export function createComparison(/** @type {HTMLElement} */ section) {
  const find = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (section.querySelector(selector))
  const [verdict, engines] = [find('.verdict'), find('.engines')]
  const rows = Object.fromEntries(Object.entries(WAYS).map(([way, words]) => [way, createRow(find('tbody'), words)]))
  /** @type {Partial<Record<Way, Cost>>} */
  let costs = {}
  /** @type {Agreement | undefined} */
  let agreement

  const draw = () => {
    const slowest = Math.max(...Object.values(costs).map(({ stepMs }) => stepMs))
    for (const way of /** @type {Way[]} */ (Object.keys(WAYS))) rows[way](costs[way], slowest)
    verdict.replaceChildren(...sentences(costs, agreement).map(paragraph))
  }
  draw()
  return {
    clear() {
      costs = {}
      agreement = undefined
      draw()
    },
    load(/** @type {import('./events.js').Loaded} */ loaded) {
      if ('gpu' in loaded) {
        engines.textContent = `In this tab, all of it is computed on ${loaded.gpu}, by WebGPU. The last layer and the loss are timed by themselves.`
        return
      }
      const { threads } = loaded
      const words = (/** @type {number} */ count) => (count === 1 ? 'one thread' : `${count} threads`)
      engines.textContent = `In this tab, this package computes with ${words(threads.package)} and TensorFlow.js with ${words(threads.tensorflow)}.`
    },
    agree(/** @type {Agreement} */ found) {
      agreement = found
      draw()
    },
    cost(/** @type {Cost & { way: Way }} */ { way, ...cost }) {
      costs[way] = cost
      draw()
    },
  }
}

/** Adds a row and returns a function that fills it. */
function createRow(/** @type {HTMLElement} */ body, /** @type {{ name: string, text: string }} */ { name, text }) {
  const row = body.appendChild(document.createElement('tr'))
  const cell = (tag = 'td', className = '') => {
    return row.appendChild(Object.assign(document.createElement(tag), { className }))
  }
  const header = Object.assign(cell('th'), { scope: 'row' })
  header.append(name, Object.assign(document.createElement('small'), { textContent: text }))
  const bar = cell('td', 'bars').appendChild(Object.assign(document.createElement('div'), { className: 'bar' }))
  const [part, rest] = ['part', 'rest'].map((className) => {
    return bar.appendChild(Object.assign(document.createElement('span'), { className }))
  })
  const [step, loss, memory] = ['whole step', 'last layer and loss', 'memory'].map((label, i) => {
    const value = cell('td', i === 0 ? 'step' : 'detail')
    // The name of the column, where the screen is too narrow for columns.
    value.dataset.label = label
    return value
  })
  return (/** @type {Cost | undefined} */ cost, /** @type {number} */ slowest) => {
    const width = (ms = 0) => `${(100 * ms) / slowest}%`
    part.style.width = cost ? width(cost.lossMs) : '0'
    rest.style.width = cost ? width(cost.stepMs - cost.lossMs) : '0'
    step.textContent = cost ? milliseconds(cost.stepMs) : '–'
    loss.textContent = cost ? milliseconds(cost.lossMs) : '–'
    memory.textContent = cost ? megabytes(cost.bytes) : '–'
  }
}

/** @returns {string[]} */
function sentences(/** @type {Partial<Record<Way, Cost>>} */ costs, /** @type {Agreement | undefined} */ agreement) {
  const { package: ours, fastest, automatic } = costs
  const found = []
  if (agreement) {
    const { loss, gradient } = agreement
    const same = Math.max(loss, gradient) <= AGREE
    const apart = `their losses differ by ${small(loss)}, their gradients by at most ${small(gradient)} of the largest`
    found.push(same ? `All three give the same: ${apart}.` : `They do not agree: ${apart}.`)
  }
  if (ours && fastest && automatic) {
    const times = (/** @type {Cost} */ other) => `${(other.stepMs / ours.stepMs).toFixed(1)} times`
    const memory = [ours, fastest, automatic].map(({ bytes }) => megabytes(bytes))
    found.push(
      `A step with this package is ${times(fastest)} as fast as with a gradient written by hand in TensorFlow.js, the ` +
        `fastest that we know, and ${times(automatic)} as fast as with its automatic gradient. The last layer and the loss ` +
        `take ${memory[0]}, not ${memory[1]} or ${memory[2]}. All else, the model’s other layers and the change of all ` +
        `weights, takes ${milliseconds(ours.stepMs - ours.lossMs)} of a step.`,
    )
  }
  return found
}

function paragraph(/** @type {string} */ text) {
  return Object.assign(document.createElement('p'), { textContent: text })
}

const milliseconds = (/** @type {number} */ ms) => `${ms.toFixed(0)} ms`
const megabytes = (/** @type {number} */ bytes) => `${(bytes / 1e6).toFixed(0)} MB`
/** A small number as people write it: 3·10⁻⁷. */
function small(/** @type {number} */ value) {
  if (value === 0) return '0'
  const [digits, exponent] = value.toExponential(0).split('e')
  return `${digits}·10${exponent.replace('+', '').replace(/./g, (sign) => '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'['-0123456789'.indexOf(sign)])}`
}
