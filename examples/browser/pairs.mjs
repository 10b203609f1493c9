// Passages that it never trains on, and how likely it is to prefer the book's words.

export function createPairs(/** @type {HTMLElement} */ list) {
  /** @type {((chance: number) => void)[]} */
  let bars = []
  return {
    clear() {
      for (const bar of bars) bar(0.5)
    },
    list(/** @type {import('./book-data.mjs').PairTexts[]} */ pairs) {
      list.replaceChildren()
      bars = pairs.map((pair) => createPair(list, pair))
    },
    prefer(/** @type {number[]} */ chances) {
      for (const [i, chance] of chances.entries()) bars[i](chance)
    },
  }
}

/** Adds a pair and returns a function that sets its bar. */
function createPair(
  /** @type {HTMLElement} */ list,
  /** @type {import('./book-data.mjs').PairTexts} */ { prompt, chosen, rejected },
) {
  const item = list.appendChild(document.createElement('li'))
  const add = (/** @type {HTMLElement} */ parent, /** @type {string} */ tag, className = '', textContent = '') => {
    return parent.appendChild(Object.assign(document.createElement(tag), { className, textContent }))
  }
  add(item, 'p', 'prompt', `…${prompt.trimEnd()} …`)
  const meter = add(item, 'div', 'meter')
  add(meter, 'p', 'chosen', chosen)
  const bar = add(meter, 'div', 'chance')
  const filled = add(bar, 'span')
  const label = add(meter, 'b')
  add(meter, 'p', 'rejected', rejected)
  const set = (/** @type {number} */ chance) => {
    filled.style.width = `${100 * chance}%`
    label.textContent = `${Math.round(100 * chance)} %`
  }
  set(0.5)
  return set
}
