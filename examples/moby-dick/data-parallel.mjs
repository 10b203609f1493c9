// The demo on several processes: each has the whole model and takes its share of every batch, and the gradients are added up.
// Shows that this is the training of main.mjs: the same losses as one process has, and the same figures in the end.
//
//   npm run demo:mpi -- [--ranks 2] [--update-docs | --check-docs]
//   mpirun -n 2 npm run demo
//
// --update-docs   trains in one process as well, and writes the table and the picture of docs/distributed.md
// --check-docs    fails when the table there is not that of this run
import { readFileSync, writeFileSync } from 'node:fs'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { mpiCommunicator } from 'fused-preference-loss/mpi'
import { readBook } from './book.mjs'
import { randomNumbers } from './data.mjs'
import { createModel, freeze, trainable } from './model.mjs'
import { partOf, table, withParts } from './page.mjs'
import { plot } from './plot.mjs'
import { createProgress } from './progress.mjs'
import { describe, heldOutTable, mean, print, runningMean, savePicture } from './run.mjs'
import { CONFIG, DPO, SEED } from './settings.mjs'
import { drawHeldOut, drawPairs, drawWindows, nextTokenTraining, PARTS, preferenceTraining } from './training.mjs'

/** @typedef {import('./training.mjs').History} History */

const [UPDATE, CHECK] = ['--update-docs', '--check-docs'].map((flag) => process.argv.includes(flag))
const [PAGE, PAGE_OF_ONE] = ['distributed', 'demo'].map((name) => new URL(`../../docs/${name}.md`, import.meta.url))
/** The steps of which the losses are compared. */
const COMPARED = 12

const started = performance.now()
const world = await mpiCommunicator()
const first = world.rank === 0
if (world.size > DPO.pairs) throw new Error(`a step has ${DPO.pairs} pairs: at most as many ranks can share it`)
await tf.setBackend('wasm')
const book = readBook()
const untrained = createModel(CONFIG, SEED)
if (first) {
  console.log(`${world.size} ranks, ${world.version.slice(0, 40)}`)
  describe(untrained)
}

const random = randomNumbers(SEED)
const windows = drawWindows(book.train, random)
const pairs = drawPairs(book.train, random)
const heldOut = drawHeldOut(book.heldOut)
// Progress is that of all ranks, and shown once.
const silent = { progress: () => ({ update() {}, stop() {} }) }
const shown = {
  progress: (/** @type {string} */ name, /** @type {number} */ steps) => createProgress(name, steps, 20, false),
}
const together = { communicator: world, ...(first ? shown : silent) }

const model = trainable(untrained)
const losses = nextTokenTraining(model, windows, together)
const warm = freeze(model)
const history = preferenceTraining(model, pairs, heldOut, together)
if (first) {
  compareLosses()
  report()
  console.log(`\n${((performance.now() - started) / 1000).toFixed(0)} s in all`)
}

/**
 * Takes the first steps of both stages in this process alone, from the same weights: with whole batches, and with batches in
 * parts, as main.mjs takes them.
 */
function compareLosses() {
  const [some, somePairs] = [windows.slice(0, COMPARED), pairs.slice(0, COMPARED)]
  const lossesOf = (/** @type {History} */ { steps }) => steps.map(({ loss }) => loss)
  for (const parts of [1, world.size]) {
    const alone = { parts, ...silent }
    const tuning = preferenceTraining(trainable(warm), somePairs, [], alone)
    const ofStages = /** @type {const} */ ([
      ['next-token training', nextTokenTraining(trainable(untrained), some, alone), losses],
      ['DPO', lossesOf(tuning), lossesOf(history)],
    ])
    for (const [stage, lossesAlone, lossesTogether] of ofStages) {
      const differences = lossesAlone.map((loss, i) => Math.abs(loss - lossesTogether[i]))
      const [one, all] = [differences[0], Math.max(...differences)]
      const batches = parts === 1 ? 'whole batches' : `batches in ${parts} parts`
      console.log(
        `${stage}: from one process with ${batches}, the first loss differs by ${one.toExponential(0)}, ${COMPARED} losses by at most ${all.toExponential(0)}`,
      )
      // Two numbers have one sum; the sums of more are rounded otherwise here.
      const allowed = parts === PARTS ? [0, 0] : [1e-9, 1e-5]
      if (!(one <= allowed[0] && all <= allowed[1])) fail(`that is more than ${allowed.join(' and ')}`)
    }
    const [here, there] = [history, tuning].map(({ steps }) => mean(steps.slice(1), 'stepMs').toFixed(0))
    console.log(`a step of DPO takes ${here} ms here, and ${there} ms in one process`)
  }
}

/** Prints the held-out figures beside those of one process, and writes table and picture to the docs or compares the table. */
function report() {
  const ofOne = lastColumn(partOf(readFileSync(PAGE_OF_ONE, 'utf8'), 'figures'))
  const alone = UPDATE ? trainAlone() : undefined
  const title = `held out, ${heldOut.length} pairs, after ${DPO.steps} steps`
  const [head, ...rows] = heldOutTable(title, { [`${world.size} processes`]: lastOf(history) }).map(
    ([name, cell], i) => [name, i === 0 ? 'one process' : (ofOne[i] ?? '?'), cell],
  )
  console.log()
  print([head, ...rows], 12)
  const points = Math.abs(100 * lastOf(history).accuracy - Number.parseFloat(rows[0][1]))
  if (world.size <= PARTS && !(points <= 1)) {
    fail(`the accuracy is ${points.toFixed(1)} percentage points from that of one process`)
  }
  draw(alone)
  const figures = table([head, ...rows])
  const page = readFileSync(PAGE, 'utf8')
  if (UPDATE) writeFileSync(PAGE, withParts(page, { figures }))
  else if (CHECK && partOf(page, 'figures') !== figures) {
    fail(`\ndocs/distributed.md has other figures than this run:\n\n${figures}\n\nnpm run demo:mpi -- --update-docs`)
  }
}

/** The cells of the last column of a table in Markdown, its head and its rows. */
function lastColumn(/** @type {string | undefined} */ markdown = '') {
  const lines = markdown.split('\n').filter((line) => !line.startsWith('| ---'))
  return lines.map((line) => line.split('|').at(-2)?.trim())
}

/** The whole training in this process alone, as main.mjs does it. */
function trainAlone() {
  const model = trainable(untrained)
  nextTokenTraining(model, windows, shown)
  return preferenceTraining(model, pairs, heldOut, shown)
}

function lastOf(/** @type {History} */ { evaluations }) {
  return evaluations[evaluations.length - 1]
}

function fail(/** @type {string} */ problem) {
  console.error(problem)
  process.exitCode = 1
}

/** The curves of these processes, as dots on those of one process where it has trained. */
function draw(/** @type {History | undefined} */ alone) {
  const runs = [
    ...(alone ? [{ name: 'one process', run: alone }] : []),
    { name: `${world.size} processes`, run: history },
  ]
  /** @returns {import('./plot.mjs').Line[]} */
  const running = (/** @type {'loss' | 'margin'} */ key) =>
    runs.map(({ name, run }) => {
      const dots = run === history
      const points = runningMean(run.steps, key)
      return { name, points: dots ? points.filter(([step]) => step % 20 === 0) : points, dots }
    })
  /** @type {import('./plot.mjs').Line[]} */
  const accuracies = runs.map(({ name, run }) => ({
    name,
    points: run.evaluations.map(({ step, accuracy }) => [step, accuracy]),
    dots: run === history,
  }))
  const svg = plot(
    [
      { title: 'DPO loss', lines: running('loss') },
      { title: 'Reward margin', lines: running('margin') },
      { title: 'Reward accuracy, held out', lines: accuracies, range: [0, 1] },
    ],
    'step (loss and margin: mean of 20 steps)',
  )
  savePicture(svg, 'data-parallel.svg', UPDATE ? 'data-parallel.svg' : undefined)
}
