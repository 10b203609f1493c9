// The stages of a language model's training in one program, on the model of main.mjs: next-token training, then DPO on
// pairs, then KTO on single completions that are known to be good or bad. Takes about half a minute on two cores; the
// curves go to examples/out/. Fails when a stage does not do what it is for.
//
//   node examples/moby-dick/stages.mjs [--quick | --update-docs | --check-docs]
//
// --quick         fewer steps
// --update-docs   writes the table and the picture of docs/demo.md
// --check-docs    fails when the table there is not that of this run
import { readFileSync, writeFileSync } from 'node:fs'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { readBook } from './book.mjs'
import { randomNumbers, samplePairs, sampleWindows } from './data.mjs'
import { createModel, freeze } from './model.mjs'
import { partOf, table, withParts } from './page.mjs'
import { plot } from './plot.mjs'
import { createProgress } from './progress.mjs'
import { describe, mean, percent, print, runningMean, savePicture } from './run.mjs'
import { COMPLETION, CONFIG, PROMPT, SEED, schedule } from './settings.mjs'
import { dpoStep, evaluate, ktoStep, nextTokenLoss, scorePairs } from './train.mjs'
import { drawWindows, nextTokenTraining } from './training.mjs'

const [QUICK, UPDATE, CHECK] = ['--quick', '--update-docs', '--check-docs'].map((flag) => process.argv.includes(flag))
const DPO = { steps: QUICK ? 30 : 100, size: 6, learningRate: 2e-3, beta: 0.1 }
const KTO = { steps: QUICK ? 30 : 100, size: 12, learningRate: 3e-3, beta: 0.1 }
const HELD_OUT = { pairs: QUICK ? 60 : 200, windows: 24, every: 20 }
const PAGE = new URL('../../docs/demo.md', import.meta.url)

await tf.setBackend('wasm')
const random = randomNumbers(SEED)
const book = readBook()
const model = createModel(CONFIG, SEED)
describe(model)

const heldOutRandom = randomNumbers(SEED + 1)
const heldOut = samplePairs(book.heldOut, HELD_OUT.pairs, PROMPT, COMPLETION, heldOutRandom)
const windows = sampleWindows(book.heldOut, HELD_OUT.windows, CONFIG.time + 1, heldOutRandom)

const lossBefore = nextTokenLoss(model, windows)
const losses = nextTokenTraining(model, drawWindows(book.train, random), {
  parts: 1,
  progress: (_, steps) => createProgress('sft', steps),
})
const fineTuned = freeze(model)
// Rewards are those over the fine-tuned model throughout, so that the stages can be compared.
const scores = scorePairs(fineTuned, heldOut)
/** @typedef {ReturnType<typeof look> & { step: number }} Point */
/** @type {Point[]} */
const points = [{ step: 0, ...look() }]

const dpo = train('dpo', DPO, (optimizer) => {
  const pairs = samplePairs(book.train, DPO.size, PROMPT, COMPLETION, random)
  return dpoStep(model, optimizer, pairs, scorePairs(fineTuned, pairs), DPO.beta)
})
const preferring = freeze(model)
// Every second completion is a shuffled one, and each comes without the other of its pair.
const kto = train('kto', KTO, (optimizer) => {
  const records = samplePairs(book.train, KTO.size, PROMPT, COMPLETION, random).map(
    ({ prompt, chosen, rejected }, i) => ({ prompt, completion: i % 2 === 0 ? chosen : rejected, label: i % 2 === 0 }),
  )
  return ktoStep(model, optimizer, records, preferring, KTO.beta)
})
const figures = report()
draw()
updateDocs()
check()

/** What is known of the model on pairs and windows that it has not seen. */
function look() {
  return { ...evaluate(model, heldOut, scores, DPO.beta), loss: nextTokenLoss(model, windows) }
}

/**
 * A stage of preference training; returns its steps.
 * @param {string} name
 * @param {{ steps: number, learningRate: number }} settings
 * @param {(optimizer: tf.Optimizer) => { loss: number, margin: number }} stepOf
 */
function train(name, settings, stepOf) {
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  const progress = createProgress(name, settings.steps)
  const start = points[points.length - 1].step
  const steps = []
  for (let step = 1; step <= settings.steps; step++) {
    Object.assign(optimizer, { learningRate: schedule(settings, step) })
    steps.push(stepOf(optimizer))
    if (step % HELD_OUT.every === 0 || step === settings.steps) points.push({ step: start + step, ...look() })
    progress.update(step, {
      loss: mean(steps, 'loss', 20).toFixed(3),
      margin: mean(steps, 'margin', 20).toFixed(2),
      'held out': points[points.length - 1].accuracy.toFixed(2),
    })
  }
  progress.stop()
  optimizer.dispose()
  return steps
}

/** The held-out values after each stage. */
function afterStages() {
  const at = (/** @type {number} */ step) => /** @type {Point} */ (points.find((point) => point.step === step))
  return [at(0), at(DPO.steps), at(DPO.steps + KTO.steps)]
}

/** Prints what each stage has changed, and returns it as a table. */
function report() {
  const row = (/** @type {string} */ name, /** @type {(point: Point) => string} */ value) => [
    name,
    ...afterStages().map(value),
  ]
  const rows = [
    [`held out, ${heldOut.length} pairs`, 'after SFT', 'after DPO', 'after KTO'],
    row('chosen has the larger reward', ({ accuracy }) => percent(accuracy)),
    row('chosen has the larger log-prob', ({ logProbAccuracy }) => percent(logProbAccuracy)),
    row('mean margin of rewards', ({ margin }) => margin.toFixed(3)),
    row('next-token loss, nats', ({ loss }) => loss.toFixed(3)),
  ]
  console.log()
  print(rows, 10)
  return table(rows)
}

function draw() {
  /** @returns {import('./plot.mjs').Line} */
  const line = (/** @type {keyof Point} */ key, /** @type {string} */ name) => {
    return { name, points: points.map((point) => [point.step, point[key]]), dots: true }
  }
  const svg = plot(
    [
      { title: 'SFT: next-token loss', lines: [{ name: 'train', points: losses.map((loss, i) => [i + 1, loss]) }] },
      {
        title: 'DPO and KTO: loss',
        lines: [
          { name: 'DPO', points: runningMean(dpo, 'loss') },
          { name: 'KTO', points: runningMean(kto, 'loss') },
        ],
      },
      {
        title: `Held-out accuracy, KTO from ${DPO.steps} on`,
        lines: [line('accuracy', 'reward'), line('logProbAccuracy', 'log-prob')],
        range: [0, 1],
      },
    ],
    'step',
  )
  savePicture(svg, 'stages.svg', UPDATE ? 'stages-curve.svg' : undefined)
}

/** Writes the table to docs/demo.md, or compares it with the table there. */
function updateDocs() {
  const page = readFileSync(PAGE, 'utf8')
  if (UPDATE) writeFileSync(PAGE, withParts(page, { stages: figures }))
  if (!CHECK || partOf(page, 'stages') === figures) return
  console.error(
    `\ndocs/demo.md has another table than this run:\n\n${figures}\n\nnpm run example:stages -- --update-docs`,
  )
  process.exitCode = 1
}

/** Each stage must have done what it is for. */
function check() {
  const [afterSft, afterDpo, afterKto] = afterStages()
  const wanted = {
    'SFT lowers the loss': afterSft.loss < lossBefore - 2,
    'DPO raises the accuracy': afterDpo.accuracy > 0.55,
    'KTO raises the margin': afterKto.margin > 1.2 * afterDpo.margin,
    'KTO keeps the accuracy': afterKto.accuracy > 0.6 && afterKto.accuracy > afterDpo.accuracy - 0.05,
  }
  for (const [what, holds] of Object.entries(wanted)) {
    if (holds) continue
    console.error(`\nnot so: ${what}`)
    process.exitCode = 1
  }
}
