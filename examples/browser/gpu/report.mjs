// The part of the page that checks and measures the visitor's own GPU, and offers the results as a file.

/**
 * @typedef {import('../events.js').Adapter} Adapter
 * @typedef {import('../events.js').Benched} Benched
 * @typedef {import('../events.js').Checked} Checked
 * @typedef {import('../events.js').GpuEvent} GpuEvent
 */

/** What is measured, and how many times it moves the bytes of the logits; a copy reads and writes them. */
const WORK = /** @type {const} */ ({
  copy: { name: 'a copy of the logits', text: 'reads and writes them once', moves: 2 },
  forward: { name: 'log-probs and the loss', text: 'reads them once', moves: 1 },
  step: { name: 'the same with the gradient', text: 'reads them twice, and writes it', moves: 3 },
})

export function createReport(/** @type {HTMLElement} */ section) {
  const find = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (section.querySelector(selector))
  const button = /** @type {HTMLButtonElement} */ (find('button'))
  const download = find('.download')
  const status = find('[role=status]')
  /** @type {Worker | undefined} */
  let worker
  /** @type {{ adapter?: Adapter, checks: Checked[], bench?: Benched }} */
  let results = { checks: [] }
  /** How many there will be. */
  let checks = 0

  const end = (/** @type {string} */ text) => {
    worker?.terminate()
    worker = undefined
    button.textContent = 'Check and measure again'
    status.textContent = text
  }
  const fail = (/** @type {string} */ problem) => {
    end(`It failed: ${problem}`)
    section.dataset.state = 'failed'
  }
  const start = () => {
    results = { checks: [] }
    for (const part of ['.adapter', '.checks tbody', '.bench tbody']) find(part).replaceChildren()
    section.dataset.state = 'running'
    download.hidden = true
    button.textContent = 'Stop'
    status.textContent = 'Looking for a GPU …'
    worker = new Worker(new URL('./worker.mjs', import.meta.url), { type: 'module' })
    worker.onmessage = ({ data }) => show(data)
    worker.onerror = ({ message }) => fail(message || 'its program does not load')
  }
  button.addEventListener('click', () => {
    if (!worker) return start()
    end('Stopped.')
    section.dataset.state = 'stopped'
  })
  download.addEventListener('click', () => save(results))

  const show = (/** @type {GpuEvent} */ event) => {
    switch (event.type) {
      case 'adapter':
        results.adapter = event.adapter
        checks = event.checks
        find('.adapter').replaceChildren(...adapterLines(event.adapter))
        break
      case 'checked':
        results.checks.push(event.checked)
        find('.checks tbody').append(checkRow(event.checked))
        status.textContent = `Checking: ${results.checks.length} of ${checks}.`
        break
      case 'benched':
        results.bench = event.benched
        find('.bench tbody').replaceChildren(...benchRows(event.benched, results.adapter?.software === true))
        status.textContent = `Measuring: round ${event.benched.round} of ${event.benched.rounds}.`
        break
      case 'finished':
        end(verdict(results.checks))
        section.dataset.state = 'finished'
        download.hidden = false
        break
      case 'failed':
        fail(event.problem)
    }
  }
}

/** @returns {HTMLElement[]} */
function adapterLines(/** @type {Adapter} */ { name, software, features, limits }) {
  const lines = {
    Adapter: software ? `${name}; it is software` : name,
    Features: features.join(', ') || 'none of those that this package can use',
    'Largest binding': `${(limits.maxStorageBufferBindingSize / 2 ** 20).toFixed(0)} MiB`,
  }
  return Object.entries(lines).flatMap(([term, text]) => [make('dt', term), make('dd', text)])
}

function checkRow(/** @type {Checked} */ { name, ok, logProb, gradient, share, problem }) {
  const row = make('tr')
  row.className = ok ? 'right' : 'wrong'
  const differences =
    problem ??
    (share === undefined ? `${ulps(logProb)} and ${ulps(gradient)} ULP` : `${share.toExponential(0)} of the largest`)
  const header = Object.assign(make('th', name), { scope: 'row' })
  row.append(header, make('td', differences), make('td', ok ? 'right' : 'wrong'))
  return row
}

function benchRows(/** @type {Benched} */ { bytes, seconds }, /** @type {boolean} */ software) {
  const clock = Object.values(seconds).every(({ gpu }) => gpu !== undefined) ? 'gpu' : 'wall'
  const timeOf = (/** @type {keyof typeof WORK} */ name) => seconds[name][clock] ?? Number.NaN
  return /** @type {(keyof typeof WORK)[]} */ (Object.keys(WORK)).map((name) => {
    const { name: title, text, moves } = WORK[name]
    const row = make('tr')
    const header = Object.assign(make('th', title), { scope: 'row' })
    header.append(make('small', text))
    const time = timeOf(name)
    const rate = (moves * bytes) / time / 1e9
    // Of software, times say little; ratios say something.
    const shown = software ? ['–', '–'] : [`${(1000 * time).toFixed(2)} ms`, `${rate.toFixed(0)} GB/s`]
    row.append(header, ...[...shown, (time / timeOf('copy')).toFixed(2)].map((words) => make('td', words)))
    return row
  })
}

function verdict(/** @type {Checked[]} */ checks) {
  const wrong = checks.filter(({ ok }) => !ok)
  if (wrong.length === 0) return `Done: all ${checks.length} checks are right.`
  return `Done: ${wrong.length} of ${checks.length} checks are wrong: ${wrong.map(({ name }) => name).join(', ')}.`
}

/** Saves the results as a file; nothing is sent anywhere. */
function save(/** @type {object} */ results) {
  const all = { format: 1, date: new Date().toISOString(), agent: navigator.userAgent, ...results }
  // JSON has no infinities.
  const text = JSON.stringify(all, (_, value) => (value === Number.POSITIVE_INFINITY ? 'Infinity' : value), 2)
  const href = URL.createObjectURL(new Blob([text], { type: 'application/json' }))
  Object.assign(document.createElement('a'), { href, download: 'fused-preference-loss-gpu.json' }).click()
  // Some browsers read it after the click.
  setTimeout(() => URL.revokeObjectURL(href), 10_000)
}

const ulps = (/** @type {number | undefined} */ value) => (value ?? Number.NaN).toFixed(1)

function make(/** @type {string} */ tag, textContent = '') {
  return Object.assign(document.createElement(tag), { textContent })
}
