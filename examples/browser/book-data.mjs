// What the page needs of the book, made when it is built: tokens to train on, and pairs of other chapters with their
// texts, so that no tokenizer is needed in the tab.
import { decode, readBook } from '../moby-dick/book.mjs'
import { randomNumbers, samplePairs } from '../moby-dick/data.mjs'
import { COMPLETION, PROMPT, SEED } from '../moby-dick/settings.mjs'

const HELD_OUT = 60
const SHOWN = 3

/**
 * @typedef {Record<'prompt' | 'chosen' | 'rejected', string>} PairTexts
 * @typedef {Record<keyof PairTexts, number[]>} PairTokens
 * @typedef {{ train: number[][], heldOut: PairTokens[], shown: PairTexts[] }} BookData `shown`: the texts of the first
 *   pairs held out
 */

/** @returns {BookData} */
export function bookData() {
  const { train, heldOut } = readBook()
  const pairs = samplePairs(heldOut, HELD_OUT, PROMPT, COMPLETION, randomNumbers(SEED + 1))
  // First those that can be read: whose completions begin with a whole word.
  pairs.sort((a, b) => Number(beginsWord(b)) - Number(beginsWord(a)))
  return {
    train: train.map((tokens) => [...tokens]),
    heldOut: pairs.map((pair) => mapValues(pair, (tokens) => [...tokens])),
    shown: pairs.slice(0, SHOWN).map((pair) => mapValues(pair, (tokens) => decode([...tokens]))),
  }
}

function beginsWord(/** @type {{ chosen: Int32Array }} */ { chosen }) {
  return decode([...chosen]).startsWith(' ')
}

/**
 * @template T
 * @param {Record<keyof PairTexts, Int32Array>} pair
 * @param {(tokens: Int32Array) => T} change
 * @returns {Record<keyof PairTexts, T>}
 */
function mapValues({ prompt, chosen, rejected }, change) {
  return { prompt: change(prompt), chosen: change(chosen), rejected: change(rejected) }
}
