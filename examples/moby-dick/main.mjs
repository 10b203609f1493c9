// DPO fine-tuning of a small GPT on Moby-Dick in plain Node: TensorFlow.js is the model and the optimiser, this package
// the output layer and the loss. Takes about a minute on two cores; the curves go to examples/out/.
//
//   node examples/moby-dick/main.mjs [--update-docs | --check-docs]
//
// --update-docs   writes the tables and the picture of docs/demo.md
// --check-docs    fails when the figures there are not those of this run
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { getBackends } from 'fused-preference-loss'
import { decode, readBook } from './book.mjs'
import { randomNumbers, samplePairs } from './data.mjs'
import { LOSSES } from './losses.mjs'
import { createModel, freeze, trainable } from './model.mjs'
import { partOf, table, withParts } from './page.mjs'
import { plot } from './plot.mjs'
import { describe, heldOutTable, mean, percent, print, runningMean, savePicture } from './run.mjs'
import { COMPLETION, CONFIG, DPO, PROMPT, SEED } from './settings.mjs'
import { dpoStep, scorePairs } from './train.mjs'
import { drawHeldOut, drawPairs, drawWindows, nextTokenTraining, preferenceTraining } from './training.mjs'

/**
 * @typedef {import('./training.mjs').Step} Step
 * @typedef {import('./training.mjs').History['evaluations'][number]} Evaluation
 */

const [UPDATE, CHECK] = ['--update-docs', '--check-docs'].map((flag) => process.argv.includes(flag))
// On a slow machine, training stops early at this time, unless the figures are for the docs.
const DEADLINE_MS = UPDATE || CHECK ? Number.POSITIVE_INFINITY : 140_000
const PAGE = new URL('../../docs/demo.md', import.meta.url)

const started = performance.now()
await tf.setBackend('wasm')
const book = readBook()
const model = createModel(CONFIG, SEED)
const { cpu } = getBackends()
describe(model)

const random = randomNumbers(SEED)
nextTokenTraining(model, drawWindows(book.train, random))
const reference = freeze(model)
const heldOut = drawHeldOut(book.heldOut)
showPair(heldOut[0])
const history = preferenceTraining(model, drawPairs(book.train, random), heldOut, {
  isLate: () => performance.now() - started > DEADLINE_MS,
})
const figures = report()
const times = compare()
draw()
updateDocs()
console.log(`\n${((performance.now() - started) / 1000).toFixed(0)} s in all`)

/** Prints the accuracies and margins before and after, and returns them as a table. */
function report() {
  const { steps, evaluations } = history
  const [first, last] = [evaluations[0], evaluations[evaluations.length - 1]]
  const looks = { 'step 0': first, [`step ${last.step}`]: last }
  const rows = heldOutTable(`held out, ${heldOut.length} pairs`, looks)
  console.log()
  print(rows, 9)
  const [lossMs, stepMs] = [mean(steps, 'lossMs'), mean(steps, 'stepMs')]
  console.log(
    `\nof a step of ${stepMs.toFixed(0)} ms, output layer and loss with their gradients take ${lossMs.toFixed(1)} ms, ${percent(lossMs / stepMs)}`,
  )
  return table(rows)
}

/** Runs the same steps in three ways from the same weights, prints their costs, and returns them as Markdown. */
function compare() {
  const pairs = samplePairs(book.train, DPO.pairs, PROMPT, COMPLETION, random)
  const scores = scorePairs(reference, pairs)
  const columns = Object.entries(LOSSES).map(([name, lossOf]) => {
    const copy = trainable(model)
    const optimizer = tf.train.adam(DPO.learningRate)
    const steps = Array.from({ length: 12 }, () => dpoStep(copy, optimizer, pairs, scores, DPO.beta, lossOf))
    tf.dispose(Object.values(copy.weights))
    optimizer.dispose()
    const best = (/** @type {keyof Step} */ key) => Math.min(...steps.slice(1).map((step) => step[key]))
    const script = fileURLToPath(new URL('memory.mjs', import.meta.url))
    const sizes = [DPO.pairs, COMPLETION, CONFIG.width, CONFIG.vocab].map(String)
    const bytes = Number(
      execFileSync(process.execPath, [script, name, ...sizes], { stdio: ['ignore', 'pipe', 'ignore'] }),
    )
    return { loss: best('lossMs'), step: best('stepMs'), bytes: bytes / 1e6, curve: steps.map(({ loss }) => loss) }
  })
  const [ours, , own] = columns
  const costs = [
    ['output layer by', 'this package', 'TensorFlow.js', 'TensorFlow.js'],
    ['loss by', 'this package', 'this package', 'TensorFlow.js'],
    ['output layer and loss with their gradients', ...columns.map(({ loss }) => `${loss.toFixed(0)} ms`)],
    ['whole step', ...columns.map(({ step }) => `${step.toFixed(0)} ms`)],
    ['peak memory of layer and loss', ...columns.map(({ bytes }) => `${bytes.toFixed(0)} MB`)],
  ]
  const losses = [0, 5, 11].map((i) => [`loss after ${i} updates`, ...columns.map(({ curve }) => curve[i].toFixed(5))])
  console.log()
  print([...costs, ...losses], 16)
  const apart = Math.max(...ours.curve.map((loss, i) => Math.abs(loss - own.curve[i]))).toExponential(0)
  const faster = (own.step / ours.step).toFixed(1)
  console.log(`\nthe whole step is ${faster} times as fast; the losses of 12 steps differ by at most ${apart}`)
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  const machine = `${cpus()[0].model.trim()}, ${cpu.instructionSet ?? 'js'}, ${cpu.threads ?? 1} threads`
  const about = `Version ${version}, TensorFlow.js ${tf.version_core} on '${tf.getBackend()}', ${machine}.`
  return `${table(costs)}\n\n${about} The losses of twelve steps differ by at most ${apart}.`
}

/** Writes the figures to docs/demo.md, or compares them with the figures there. */
function updateDocs() {
  const page = readFileSync(PAGE, 'utf8')
  if (UPDATE) writeFileSync(PAGE, withParts(page, { figures, times }))
  if (!CHECK || partOf(page, 'figures') === figures) return
  console.error(
    `\ndocs/demo.md has other figures than this run. This run gives\n\n${figures}\n\nnpm run demo -- --update-docs`,
  )
  process.exitCode = 1
}

function draw() {
  const { steps, evaluations } = history
  const running = (/** @type {keyof Step} */ key) => runningMean(steps, key)
  /** @returns {import('./plot.mjs').Line} */
  const heldOutLine = (/** @type {keyof Evaluation} */ key, name = 'held out') => {
    return { name, points: evaluations.map((point) => [point.step, point[key]]), dots: true }
  }
  const svg = plot(
    [
      { title: 'DPO loss', lines: [{ name: 'train', points: running('loss') }] },
      { title: 'Reward margin', lines: [{ name: 'train', points: running('margin') }, heldOutLine('margin')] },
      {
        title: 'Reward accuracy',
        lines: [
          { name: 'train', points: running('accuracy') },
          heldOutLine('accuracy'),
          heldOutLine('logProbAccuracy', 'by log-prob'),
        ],
        range: [0, 1],
      },
    ],
    'step (training lines: mean of 20 steps)',
  )
  savePicture(svg, 'moby-dick.svg', UPDATE ? 'demo-curve.svg' : undefined)
}

function showPair(/** @type {import('./train.mjs').Pair} */ { prompt, chosen, rejected }) {
  const text = (/** @type {Int32Array} */ tokens) => JSON.stringify(decode([...tokens]))
  console.log(
    `\na held-out pair\n  prompt    ${text(prompt)}\n  chosen    ${text(chosen)}\n  rejected  ${text(rejected)}\n`,
  )
}
