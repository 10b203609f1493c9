// Windows of the book, and preference pairs made from it: a prompt, its true continuation (chosen), and the
// same tokens in random order (rejected). Both have the same length and the same words, so that only a model of word
// order can tell them apart. (A continuation from elsewhere in the book is too subtle for a model this small: after 300
// steps, held-out accuracy was still that of a coin toss.)

/**
 * A generator of uniform numbers in [0, 1): mulberry32.
 * @param {number} seed
 */
export function randomNumbers(seed) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/**
 * Windows of consecutive tokens from random places, `[count, length]` flat.
 * @param {Int32Array[]} book
 * @param {number} count
 * @param {number} length
 * @param {() => number} random
 */
export function sampleWindows(book, count, length, random) {
  const windows = new Int32Array(count * length)
  for (let i = 0; i < count; i++) windows.set(sampleWindow(book, length, random), i * length)
  return windows
}

/**
 * Preference pairs from random places.
 * @param {Int32Array[]} book
 * @param {number} count
 * @param {number} promptLength
 * @param {number} completionLength
 * @param {() => number} random
 * @returns {{ prompt: Int32Array, chosen: Int32Array, rejected: Int32Array }[]}
 */
export function samplePairs(book, count, promptLength, completionLength, random) {
  return Array.from({ length: count }, () => {
    const window = sampleWindow(book, promptLength + completionLength, random)
    const chosen = window.subarray(promptLength)
    return { prompt: window.subarray(0, promptLength), chosen, rejected: shuffle(chosen, random) }
  })
}

/** A copy in random order, by Fisher and Yates. */
function shuffle(/** @type {Int32Array} */ tokens, /** @type {() => number} */ random) {
  const shuffled = tokens.slice()
  for (let i = shuffled.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    ;[shuffled[i], shuffled[j]] = [shuffled[j], shuffled[i]]
  }
  return shuffled
}

/**
 * A window, with each place in the book equally likely.
 * @param {Int32Array[]} book
 * @param {number} length
 * @param {() => number} random
 */
function sampleWindow(book, length, random) {
  const places = book.reduce((sum, chapter) => sum + Math.max(0, chapter.length - length), 0)
  let place = Math.floor(random() * places)
  for (const chapter of book) {
    const here = Math.max(0, chapter.length - length)
    if (place < here) return chapter.subarray(place, place + length)
    place -= here
  }
  throw new RangeError(`no chapter has more than ${length} tokens`)
}
