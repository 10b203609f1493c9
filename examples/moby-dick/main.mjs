// DPO fine-tuning of a small GPT on Moby-Dick in plain Node: TensorFlow.js is the model and the optimiser, this package
// the output layer and the loss. Takes about a minute on two cores; the curves go to examples/out/.
//
//   node examples/moby-dick/main.mjs [--update-docs | --check-docs]
//
// --update-docs   writes the tables and the picture of docs/demo.md
// --check-docs    fails when the figures there are not those of this run
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
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
import { createProgress } from './progress.mjs'
import { describe, mean, percent, print, warmUp } from './run.mjs'
import { COMPLETION, CONFIG, DPO, PROMPT, SEED, schedule } from './settings.mjs'
import { dpoStep, evaluate, scorePairs } from './train.mjs'

/**
 * @typedef {ReturnType<typeof dpoStep>} Step
 * @typedef {ReturnType<typeof evaluate>} Evaluation
 */

const HELD_OUT = { pairs: 200, every: 50 }
const [UPDATE, CHECK] = ['--update-docs', '--check-docs'].map((flag) => process.argv.includes(flag))
// On a slow machine, training stops early at this time, unless the figures are for the docs.
const DEADLINE_MS = UPDATE || CHECK ? Number.POSITIVE_INFINITY : 140_000
const PAGE = new URL('../../docs/demo.md', import.meta.url)

const started = performance.now()
await tf.setBackend('wasm')
const random = randomNumbers(SEED)
const book = readBook()
const model = createModel(CONFIG, SEED)
const { cpu } = getBackends()
describe(model)

warmUp(model, book.train, random)
const reference = freeze(model)
const heldOut = samplePairs(book.heldOut, HELD_OUT.pairs, PROMPT, COMPLETION, randomNumbers(SEED + 1))
const heldOutReference = scorePairs(reference, heldOut)
showPair(heldOut[0])
const history = preferenceTraining()
const figures = report()
const times = compare()
draw()
updateDocs()
console.log(`\n${((performance.now() - started) / 1000).toFixed(0)} s in all`)

/** DPO against the frozen reference. Each pair is seen once. */
function preferenceTraining() {
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  const progress = createProgress('dpo', DPO.steps)
  /** @type {Step[]} */
  const steps = []
  let latest = evaluate(model, heldOut, heldOutReference, DPO.beta)
  const evaluations = [{ step: 0, ...latest }]
  for (let step = 1; step <= DPO.steps && performance.now() - started < DEADLINE_MS; step++) {
    Object.assign(optimizer, { learningRate: schedule(DPO, step) })
    const pairs = samplePairs(book.train, DPO.pairs, PROMPT, COMPLETION, random)
    const result = dpoStep(model, optimizer, pairs, scorePairs(reference, pairs), DPO.beta)
    steps.push(result)
    if (step % HELD_OUT.every === 0 || step === DPO.steps) {
      latest = evaluate(model, heldOut, heldOutReference, DPO.beta)
      evaluations.push({ step, ...latest })
    }
    progress.update(step, {
      loss: mean(steps, 'loss', 20).toFixed(3),
      accuracy: mean(steps, 'accuracy', 20).toFixed(2),
      margin: mean(steps, 'margin', 20).toFixed(2),
      'held out': latest.accuracy.toFixed(2),
      'in the loss': percent(result.lossMs / result.stepMs),
    })
  }
  progress.stop()
  optimizer.dispose()
  return { steps, evaluations }
}

/** Prints the accuracies and margins before and after, and returns them as a table. */
function report() {
  const { steps, evaluations } = history
  const [first, last] = [evaluations[0], evaluations[evaluations.length - 1]]
  const row = (/** @type {string} */ name, /** @type {(evaluation: typeof first) => string} */ value) => [
    name,
    value(first),
    value(last),
  ]
  const rows = [
    [`held out, ${heldOut.length} pairs`, 'step 0', `step ${last.step}`],
    row('chosen has the larger reward', ({ accuracy }) => percent(accuracy)),
    row('chosen has the larger log-prob', ({ logProbAccuracy }) => percent(logProbAccuracy)),
    row('mean margin of rewards', ({ margin }) => margin.toFixed(3)),
  ]
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
  /** @returns {[number, number][]} */
  const running = (/** @type {keyof Step} */ key) => steps.map((_, i) => [i + 1, mean(steps.slice(0, i + 1), key, 20)])
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
  const write = (/** @type {string} */ path) => {
    const url = new URL(path, import.meta.url)
    mkdirSync(new URL('.', url), { recursive: true })
    writeFileSync(url, svg)
    console.log(`\ncurves: ${fileURLToPath(url)}`)
  }
  write('../out/moby-dick.svg')
  if (UPDATE) write('../../docs/assets/demo-curve.svg')
}

function showPair(/** @type {import('./train.mjs').Pair} */ { prompt, chosen, rejected }) {
  const text = (/** @type {Int32Array} */ tokens) => JSON.stringify(decode([...tokens]))
  console.log(
    `\na held-out pair\n  prompt    ${text(prompt)}\n  chosen    ${text(chosen)}\n  rejected  ${text(rejected)}\n`,
  )
}
