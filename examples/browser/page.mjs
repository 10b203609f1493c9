// The page: starts and stops the worker, and shows what it tells.
import 'uplot/dist/uPlot.min.css'
import './page.css'
import { createCharts } from './charts.mjs'
import { createComparison } from './comparison-table.mjs'
import { findAdapter, isSoftware } from './gpu/adapter.mjs'
import { createReport } from './gpu/report.mjs'
import { createPairs } from './pairs.mjs'
import { SHORT, WHOLE } from './sizes.mjs'

/** @typedef {import('./events.js').Event} Event */

const find = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (document.querySelector(selector))
const run = find('#run')
const button = /** @type {HTMLButtonElement} */ (find('#run button'))
const status = find('#run [role=status]')
const progress = /** @type {HTMLProgressElement} */ (find('#run progress'))
const choice = /** @type {HTMLFieldSetElement} */ (find('#run fieldset'))

const size = new URLSearchParams(location.search).has('short') ? SHORT : WHOLE
const charts = createCharts(find('#charts'), size.steps.tune)
const comparison = createComparison(find('#comparison'))
const pairs = createPairs(find('#pairs ol'))
const book = loadBook()
book.then(({ shown }) => pairs.list(shown), fail)
createReport(find('#gpu'))
offerGpu()

/** The share of the run's time that each stage takes, about. */
const SHARES = { load: 0.04, read: 0.16, compare: 0.2, tune: 0.6 }

/** @type {Worker | undefined} */
let worker
/** The share of the run that lies before this stage, the stage's own, its steps, and those that it has done. */
let [before, share, steps, done] = [0, 0, 0, 0]
/** When the run and this stage began. */
let [started, stageStarted] = [0, 0]

button.addEventListener('click', () => (worker ? stop() : start()))

/** The file that book-data.mjs has made. */
async function loadBook() {
  const response = await fetch('book.json')
  if (!response.ok) throw new Error(`book.json: HTTP status ${response.status}`)
  return /** @type {Promise<import('./book-data.mjs').BookData>} */ (response.json())
}

/** WebGPU can be chosen where the browser shows a GPU. */
async function offerGpu() {
  const adapter = await findAdapter()
  if (adapter === undefined) return
  const webgpu = /** @type {HTMLInputElement} */ (choice.querySelector('[value=webgpu]'))
  webgpu.disabled = false
  if (isSoftware(adapter.info)) webgpu.labels?.[0].append(' (software)')
}

function start() {
  for (const part of [charts, comparison, pairs]) part.clear()
  ;[before, share, started] = [0, 0, performance.now()]
  const began = new Worker(new URL('./worker.mjs', import.meta.url), { type: 'module' })
  began.onmessage = ({ data }) => show(data)
  began.onerror = ({ message }) => fail(message || 'its program does not load')
  const engine = /** @type {import('./events.js').Engine} */ (
    /** @type {HTMLInputElement} */ (choice.querySelector(':checked')).value
  )
  book.then((data) => began.postMessage({ book: data, engine, size }), fail)
  worker = began
  run.dataset.state = 'running'
  choice.disabled = true
  button.textContent = 'Stop'
}

/** Ends the worker, and with it all that it computes and holds. */
function end(/** @type {'stopped' | 'finished' | 'failed'} */ state) {
  worker?.terminate()
  worker = undefined
  run.dataset.state = state
  choice.disabled = false
  button.textContent = 'Start again'
}

function stop() {
  end('stopped')
  status.textContent = `Stopped. ${status.textContent}`
}

function fail(/** @type {unknown} */ problem) {
  end('failed')
  status.textContent = `It failed: ${problem instanceof Error ? problem.message : problem}`
}

function show(/** @type {Event} */ event) {
  switch (event.type) {
    case 'stage':
      ;[before, share, steps, done] = [before + share, SHARES[event.stage], event.steps, 0]
      stageStarted = performance.now()
      if (event.stage === 'load') status.textContent = 'Loading TensorFlow.js, this package and the book …'
      break
    case 'loaded':
      comparison.load(event)
      break
    case 'read':
      done = event.step
      status.textContent = `1 of 3: it reads the book, step ${done} of ${steps}. The next word is to it as a choice among ${choices(event.loss)}.`
      break
    case 'agreement':
      status.textContent = '2 of 3: it takes one and the same step in three ways.'
      comparison.agree(event)
      break
    case 'cost':
      done++
      comparison.cost(event)
      break
    case 'tuned':
      done = event.step
      status.textContent = `3 of 3: it learns what to prefer, step ${done} of ${steps}.${timeLeft()}`
      charts.add(event.step, event)
      break
    case 'heldOut':
      // At step 0 no pair has a margin, and the accuracy counts ties as wrong.
      charts.add(event.step, event.step === 0 ? { margin: event.margin } : event, true)
      pairs.prefer(event.preferred)
      break
    case 'finished':
      end('finished')
      status.textContent = `Done in ${seconds(performance.now() - started)}.`
      break
    case 'failed':
      fail(event.problem)
  }
  progress.value = Math.max(0, before + (steps && (share * done) / steps))
}

/** Words for the time that the stage will still take, once it can be told. */
function timeLeft() {
  if (done < 20 || done === steps) return ''
  return ` ${seconds(((performance.now() - stageStarted) / done) * (steps - done))} left.`
}

/** The number of words among which a guess has this loss: the perplexity. */
function choices(/** @type {number} */ loss) {
  return Math.exp(loss).toLocaleString('en', { maximumSignificantDigits: 2 })
}

function seconds(/** @type {number} */ ms) {
  return `${Math.ceil(ms / 1000)} s`
}
