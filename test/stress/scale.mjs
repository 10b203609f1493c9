/** Sizes beyond 32 bits, and the smallest sizes, compared with known results. The largest takes 4.5 GB. */
import { fusedPreferenceLossSync, getBackends, sequenceLogProbs, sequenceLogProbsSync } from '../../dist/index.mjs'

const quick = process.argv.includes('--quick')

/**
 * @param {number} got
 * @param {number} wanted
 * @param {number} bound
 * @param {string} what
 */
function near(got, wanted, bound, what) {
  if (!(Math.abs(got - wanted) <= bound)) throw new Error(`${what}: ${got}, wanted ${wanted}`)
}

/** bfloat16 bits of 1, of 2, and of the prefilled gradient. */
const ONE = 0x3f80
const TWO = 0x4000
const bfloat16 = new Float32Array(1)
const words = new Uint16Array(bfloat16.buffer)
const value = (/** @type {number} */ bits) => {
  words[1] = bits
  words[0] = 0
  return bfloat16[0]
}

/** All logits are 1 except each row's label, which is 2: the log-prob is known. */
async function flat(
  /** @type {string} */ what,
  /** @type {{
   *   batch: number, time: number, vocab: number, packed?: boolean, gradient?: boolean, later?: boolean,
   *   backend?: 'auto' | 'wasm',
   * }} */ { batch, time, vocab, packed = false, gradient = true, later = false, backend = 'auto' },
) {
  const rows = batch * time
  const data = new Uint16Array(rows * vocab).fill(ONE)
  const labels = new Int32Array(rows)
  for (let row = 0; row < rows; row++) {
    labels[row] = (row * 7919) % vocab
    data[row * vocab + labels[row]] = TWO
  }
  const offsets = Int32Array.from({ length: batch + 1 }, (_, b) => b * time)
  const logits = {
    data,
    dtype: /** @type {const} */ ('bfloat16'),
    shape: packed ? [rows, vocab] : [batch, time, vocab],
  }
  const options = { shift: false, backend, ...(packed ? { sequenceOffsets: offsets } : {}) }
  const logProb = 1 - Math.log(Math.E ** 2 / Math.E + vocab - 1)
  const sums = later ? await sequenceLogProbs(logits, labels, options) : sequenceLogProbsSync(logits, labels, options)
  for (const b of [0, batch >> 1, batch - 1])
    near(sums.logProbs[b], time * logProb, 1e-5 * time * Math.abs(logProb) + 1e-9, what)
  if (gradient) {
    const p = Math.exp(logProb)
    sums.backwardSync(new Float64Array(batch).fill(1), { gradient: 'in-place' })
    for (const row of [0, rows >> 1, rows - 1]) {
      const start = row * vocab
      near(value(data[start + labels[row]]), 1 - p, 0.004, `${what}, gradient at the label of row ${row}`)
      if (vocab < 2) continue
      const other = (labels[row] + 1) % vocab
      const wanted = -p / Math.E
      near(value(data[start + other]), wanted, 0.004 * Math.abs(wanted), `${what}, gradient of row ${row}`)
      near(
        value(data[start + vocab - 1]),
        labels[row] === vocab - 1 ? 1 - p : wanted,
        0.004,
        `${what}, end of row ${row}`,
      )
    }
  }
  console.log(`scale: ${what}: ${rows} rows of ${vocab}, ${(rows * vocab).toLocaleString('en')} elements`)
}

/**
 * Pairs whose rows all lie at one place in memory: many rows, little memory.
 * @param {number} rows
 * @param {number} vocab
 */
function repeated(rows, vocab) {
  const data = Float32Array.from({ length: vocab }, (_, i) => i % 3)
  const labels = new Int32Array(2 * rows)
  const logits = { data, shape: [2, rows, vocab], strides: [0, 0, 1] }
  const { margin, chosenLogProbs } = fusedPreferenceLossSync(logits, labels, { shift: false, lossType: 'cpo' })
  const total = data.reduce((sum, x) => sum + Math.exp(x), 0)
  near(chosenLogProbs[0], -rows * Math.log(total), 1e-6 * rows * Math.log(total), 'rows at one place')
  near(margin, 0, 0, 'rows at one place')
  console.log(
    `scale: rows at one place: ${(2 * rows).toLocaleString('en')} rows of ${vocab}, ${(2 * rows * vocab).toLocaleString('en')} elements`,
  )
}

await flat('one token', { batch: 1, time: 1, vocab: 1 })
await flat('one row', { batch: 1, time: 1, vocab: 1_000_003 })
await flat('a vocabulary of 1 000 003', { batch: 2, time: 5, vocab: 1_000_003, later: true })
await flat('many short sequences', { batch: quick ? 20_000 : 100_000, time: 1, vocab: 17 })
await flat('many short sequences, packed', { batch: quick ? 20_000 : 100_000, time: 1, vocab: 17, packed: true })
await flat('more than 65 535 rows', { batch: 2, time: 70_000, vocab: 9, later: true })
repeated(quick ? 200_000 : 3_000_000, 1000)
if (!quick) {
  await flat('beyond 2^31 elements', { batch: 4, time: 540, vocab: 1_000_003 })
  await flat('beyond 2^31 elements, packed', { batch: 4, time: 540, vocab: 1_000_003, packed: true, later: true })
  if (getBackends().wasm.available) {
    await flat('more than 4 GiB on wasm', { batch: 4, time: 540, vocab: 1_000_003, backend: 'wasm' })
    await flat('more than 4 GiB on wasm, later', {
      batch: 4,
      time: 540,
      vocab: 1_000_003,
      backend: 'wasm',
      later: true,
    })
  } else console.log('scale: wasm left out')
}
