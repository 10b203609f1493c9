// The demo on several processes: each has the whole model and takes its share of every batch, and the gradients are added up.
// Shows that this is the training of main.mjs: the same first losses as one process has with the whole batches.
//
//   npm run demo:mpi -- [--ranks 2] [--update-docs | --check-docs]
//   mpirun -n 2 npm run demo
//
// --update-docs   trains in one process as well, and writes the table and the picture of docs/distributed.md
// --check-docs    fails when the table there is not that of this run
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import * as tf from '@tensorflow/tfjs'
import '@tensorflow/tfjs-backend-wasm'
import { globalCountsSync, globalStepMetricsSync } from 'fused-preference-loss/distributed'
import { mpiCommunicator } from 'fused-preference-loss/mpi'
import { fusedLinearPreferenceLoss, linearCrossEntropy } from 'fused-preference-loss/tfjs'
import { readBook } from './book.mjs'
import { randomNumbers, samplePairs, sampleWindows } from './data.mjs'
import { createModel, freeze, hiddenStates, trainable } from './model.mjs'
import { partOf, table, withParts } from './page.mjs'
import { plot } from './plot.mjs'
import { createProgress } from './progress.mjs'
import { ALONE, shareOf, summed } from './ranks.mjs'
import { describe, mean, percent, print } from './run.mjs'
import { COMPLETION, CONFIG, DPO, PROMPT, SEED, schedule, WARM_UP } from './settings.mjs'
import { evaluate, pack, scorePairs, sequencesOf, shiftWindows, step } from './train.mjs'

/**
 * @typedef {import('fused-preference-loss/distributed').Communicator} Communicator
 * @typedef {import('./model.mjs').Model} Model
 * @typedef {ReturnType<typeof preferenceTraining>} History
 * @typedef {ReturnType<typeof evaluation>} Evaluation
 * @typedef {Omit<import('fused-preference-loss').FusedLinearPreferenceLoss, `grad${'Hidden' | 'Weight' | 'Bias'}`>} PairedResult
 * @typedef {{ loss: number, stepMs: number, accuracy: number, margin: number }} Step
 */

const [UPDATE, CHECK] = ['--update-docs', '--check-docs'].map((flag) => process.argv.includes(flag))
const PAGE = new URL('../../docs/distributed.md', import.meta.url)
/** The steps of which the losses are compared. */
const COMPARED = 12
/** Of the pairs that are held out, some are looked at during training, all in the end. */
const HELD_OUT = { pairs: 2000, some: 200, every: 50 }

const started = performance.now()
const world = await mpiCommunicator()
const first = world.rank === 0
const log = (/** @type {string} */ text) => first && console.log(text)
if (world.size > DPO.pairs) throw new Error(`a step has ${DPO.pairs} pairs: at most as many ranks can share it`)
await tf.setBackend('wasm')
const book = readBook()
const heldOut = samplePairs(book.heldOut, HELD_OUT.pairs, PROMPT, COMPLETION, randomNumbers(SEED + 1))
const untrained = createModel(CONFIG, SEED)
log(`${world.size} ranks, ${world.version.slice(0, 40)}`)
if (first) describe(untrained)

const random = randomNumbers(SEED)
const windows = Array.from({ length: WARM_UP.steps }, () =>
  sampleWindows(book.train, WARM_UP.batch, CONFIG.time + 1, random),
)
const pairs = Array.from({ length: DPO.steps }, () => samplePairs(book.train, DPO.pairs, PROMPT, COMPLETION, random))
const model = trainable(untrained)
const losses = nextTokenTraining(world, model, windows)
const warm = freeze(model)
const history = preferenceTraining(world, model, pairs)
if (first) conclude()

/**
 * Next-token training on windows of the book; returns the losses.
 * @param {Communicator} communicator
 * @param {Model} model
 * @param {Int32Array[]} windows of each step
 */
function nextTokenTraining(communicator, model, windows) {
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  const progress = progressOf(communicator, 'warm-up', windows.length)
  const losses = []
  for (const [i, all] of windows.entries()) {
    Object.assign(optimizer, { learningRate: schedule(WARM_UP, i + 1) })
    losses.push(nextTokenStep(communicator, model, optimizer, all))
    progress?.update(i + 1, { loss: losses[i].toFixed(3) })
  }
  progress?.stop()
  optimizer.dispose()
  return losses
}

/**
 * One step on this rank's windows; returns the loss over all of them.
 * @param {Communicator} communicator
 * @param {Model} model
 * @param {tf.Optimizer} optimizer
 * @param {Int32Array} all
 */
function nextTokenStep(communicator, model, optimizer, all) {
  const length = CONFIG.time + 1
  const windows = Array.from({ length: all.length / length }, (_, i) => all.subarray(i * length, (i + 1) * length))
  const own = Int32Array.from(shareOf(communicator, windows).flatMap((window) => [...window]))
  const { inputs, labels } = shiftWindows(own, CONFIG.time)
  const shape = [labels.length / CONFIG.time, CONFIG.time]
  const normalizer = globalCountsSync(communicator, { labels, shape }, { shift: false })
  const loss = new Float64Array(1)
  const onResult = (/** @type {{ loss: number }} */ result) => {
    loss[0] = result.loss
  }
  const lossOf = (/** @type {tf.Tensor} */ x, /** @type {tf.Tensor} */ weight) =>
    linearCrossEntropy(x, weight, labels, { shift: false, normalizer, onResult })
  step(model, optimizer, inputs, 0, lossOf, (gradients) => summed(communicator, gradients))
  communicator.allReduceSumSync?.(loss)
  return loss[0]
}

/**
 * DPO against the model as it is now. Each pair is seen once.
 * @param {Communicator} communicator
 * @param {Model} model
 * @param {import('./train.mjs').Pair[][]} pairs of each step
 */
function preferenceTraining(communicator, model, pairs) {
  const reference = freeze(model)
  const own = shareOf(communicator, heldOut)
  const ownSome = shareOf(communicator, heldOut.slice(0, HELD_OUT.some))
  const look = (/** @type {import('./train.mjs').Pair[]} */ pairs) => {
    const found = evaluate(model, pairs, scorePairs(reference, pairs), DPO.beta)
    return evaluation(communicator, found, pairs.length)
  }
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  const progress = progressOf(communicator, 'dpo', pairs.length)
  /** @type {Step[]} */
  const steps = []
  const evaluations = [{ step: 0, ...look(ownSome) }]
  for (const all of pairs) {
    const number = steps.length + 1
    Object.assign(optimizer, { learningRate: schedule(DPO, number) })
    const ownPairs = shareOf(communicator, all)
    const scores = scorePairs(reference, ownPairs)
    steps.push(preferenceStep(communicator, model, optimizer, ownPairs, scores, number))
    if (number % HELD_OUT.every === 0) evaluations.push({ step: number, ...look(ownSome) })
    progress?.update(number, {
      loss: mean(steps, 'loss', 20).toFixed(3),
      accuracy: mean(steps, 'accuracy', 20).toFixed(2),
      margin: mean(steps, 'margin', 20).toFixed(2),
      'held out': evaluations[evaluations.length - 1].accuracy.toFixed(2),
    })
  }
  progress?.stop()
  optimizer.dispose()
  return { steps, evaluations, last: pairs.length === DPO.steps ? look(own) : undefined }
}

/**
 * One step on this rank's pairs; returns what is known of all of them.
 * @param {Communicator} communicator
 * @param {Model} model
 * @param {tf.Optimizer} optimizer
 * @param {import('./train.mjs').Pair[]} pairs
 * @param {import('./losses.mjs').Scores} reference
 * @param {number} number
 * @returns {Step}
 */
function preferenceStep(communicator, model, optimizer, pairs, reference, number) {
  const { inputs, labels, from } = pack(sequencesOf(pairs))
  const order = pairs.flatMap((_, i) => [i, pairs.length + i])
  const batch = { labels, shape: [2 * pairs.length, COMPLETION], pairs: order }
  const normalizer = globalCountsSync(communicator, batch, { shift: false })
  /** @type {PairedResult | undefined} */
  let result
  const onResult = (/** @type {PairedResult} */ found) => {
    result = found
  }
  const lossOf = (/** @type {tf.Tensor} */ x, /** @type {tf.Tensor} */ weight) =>
    fusedLinearPreferenceLoss(x, weight, labels, { reference, beta: DPO.beta, shift: false, normalizer, onResult })
  const { stepMs } = step(model, optimizer, inputs, from, lossOf, (gradients) => summed(communicator, gradients))
  const metrics = globalStepMetricsSync(communicator, result, batch, { step: number, ms: stepMs })
  const { loss, ms, 'rewards/accuracies': accuracy, 'rewards/margins': margin } = metrics
  return { loss, stepMs: Number(ms), accuracy, margin }
}

/**
 * What is known of the held-out pairs of all ranks.
 * @param {Communicator} communicator
 * @param {ReturnType<typeof evaluate>} own means over this rank's
 * @param {number} pairs
 */
function evaluation(communicator, own, pairs) {
  const { logProbAccuracy, accuracy, margin } = own
  const sums = Float64Array.of(pairs, pairs * logProbAccuracy, pairs * accuracy, pairs * margin)
  communicator.allReduceSumSync?.(sums)
  const [all, ...means] = sums
  return { logProbAccuracy: means[0] / all, accuracy: means[1] / all, margin: means[2] / all }
}

/** Progress of all ranks is shown once. */
function progressOf(
  /** @type {Communicator} */ { rank, size },
  /** @type {string} */ name,
  /** @type {number} */ steps,
) {
  return rank === 0 ? createProgress(size > 1 ? name : `${name}, one process`, steps, 20, false) : undefined
}

/** Compares these processes with one, prints the figures, and writes them to the docs or compares them with it. */
function conclude() {
  compare()
  const page = readFileSync(PAGE, 'utf8')
  const alone = UPDATE ? trainAlone() : undefined
  const others = alone && [lastOf(alone), trainInParts()]
  // Without --update-docs, the figures of one process are those of the page.
  const known = Array.from(
    (partOf(page, 'figures') ?? '').matchAll(/^\| .+? \| (.+?) \| (.+?) \|/gm),
    ([, ...cells]) => cells,
  )
  /** @type {[string, keyof Evaluation, (value: number) => string][]} */
  const kinds = [
    ['chosen has the larger reward', 'accuracy', percent],
    ['chosen has the larger log-prob', 'logProbAccuracy', percent],
    ['mean margin of rewards', 'margin', (value) => value.toFixed(3)],
  ]
  const rows = kinds.map(([name, key, text], i) => {
    const cells = others ? others.map((figures) => text(figures[key])) : (known[i + 2] ?? ['?', '?'])
    return [name, ...cells, text(lastOf(history)[key])]
  })
  const title = `held out, ${HELD_OUT.pairs} pairs, after ${DPO.steps} steps`
  const head = [title, 'one process', `in ${world.size} parts`, `${world.size} processes`]
  console.log()
  print([head, ...rows], 12)
  const points = Math.abs(100 * lastOf(history).accuracy - Number.parseFloat(rows[0][2]))
  if (!(points <= 1)) fail(`the accuracy is ${points.toFixed(1)} percentage points from that of one process, in parts`)
  draw(alone)
  const figures = table([head, ...rows])
  if (UPDATE) writeFileSync(PAGE, withParts(page, { figures }))
  else if (CHECK && partOf(page, 'figures') !== figures) {
    fail(`\ndocs/distributed.md has other figures than this run:\n\n${figures}\n\nnpm run demo:mpi -- --update-docs`)
  }
  console.log(`\n${((performance.now() - started) / 1000).toFixed(0)} s in all`)
}

/**
 * DPO in this process alone, which takes each batch in the parts that the ranks take, and adds up their gradients in the same
 * order: the same arithmetic. Returns the losses.
 * @param {Model} model
 * @param {import('./train.mjs').Pair[][]} batches
 */
function stepsInParts(model, batches) {
  const { size } = world
  const reference = freeze(model)
  const optimizer = tf.train.adam(0, 0.9, 0.98)
  return batches.map((all, i) => {
    Object.assign(optimizer, { learningRate: schedule(DPO, i + 1) })
    /** @type {Map<string, { shape: number[], sum: Float64Array }>} */
    const sums = new Map()
    let loss = 0
    for (let rank = 0; rank < size; rank++) {
      const own = shareOf({ ...ALONE, rank, size }, all)
      const { inputs, labels, from } = pack(sequencesOf(own))
      const scores = scorePairs(reference, own)
      const onResult = (/** @type {PairedResult} */ result) => {
        loss += result.loss
      }
      const options = { reference: scores, beta: DPO.beta, shift: false, normalizer: all.length, onResult }
      const { grads } = tf.tidy(() =>
        tf.variableGrads(() =>
          fusedLinearPreferenceLoss(hiddenStates(model, inputs, from), model.weights.tokens, labels, options),
        ),
      )
      for (const [name, gradient] of Object.entries(grads)) {
        if (rank === 0) sums.set(name, { shape: gradient.shape, sum: new Float64Array(gradient.size) })
        const slopes = gradient.dataSync()
        sums.get(name)?.sum.forEach((total, k, sum) => {
          sum[k] = total + slopes[k]
        })
      }
      tf.dispose(grads)
    }
    tf.tidy(() => {
      const totals = Array.from(sums, ([name, { shape, sum }]) => [name, tf.tensor(Float32Array.from(sum), shape)])
      optimizer.applyGradients(Object.fromEntries(totals))
    })
    return loss
  })
}

/** The whole training in this process alone. */
function trainAlone() {
  const alone = trainable(untrained)
  nextTokenTraining(ALONE, alone, windows)
  return preferenceTraining(ALONE, alone, pairs)
}

/** DPO in this process alone, in the parts that the ranks take: what is known of the held-out pairs in the end. */
function trainInParts() {
  const model = trainable(warm)
  stepsInParts(model, pairs)
  return evaluate(model, heldOut, scorePairs(warm, heldOut), DPO.beta)
}

function lastOf(/** @type {History} */ { last }) {
  return /** @type {Evaluation} */ (last)
}

/** Takes the first steps of both stages in this process alone, from the same weights, and compares the losses. */
function compare() {
  const lossesAlone = nextTokenTraining(ALONE, trainable(untrained), windows.slice(0, COMPARED))
  const { steps } = preferenceTraining(ALONE, trainable(warm), pairs.slice(0, COMPARED))
  const ofSteps = (/** @type {Step[]} */ steps) => steps.map(({ loss }) => loss)
  for (const [stage, alone, together] of /** @type {[string, number[], number[]][]} */ ([
    ['next-token training', lossesAlone, losses],
    ['DPO', ofSteps(steps), ofSteps(history.steps)],
  ])) {
    const differences = alone.map((loss, i) => Math.abs(loss - together[i]))
    const [one, all] = [differences[0], Math.max(...differences)]
    const text = `${stage}: from one process, the first loss differs by ${one.toExponential(0)}, ${COMPARED} losses by at most`
    console.log(`${text} ${all.toExponential(0)}`)
    if (!(one <= 1e-9 && all <= 1e-5)) fail('that is more than 1e-9 and 1e-5')
  }
  const parts = stepsInParts(trainable(warm), pairs.slice(0, COMPARED))
  const apart = Math.max(...parts.map((loss, i) => Math.abs(loss - history.steps[i].loss)))
  console.log(
    `DPO: from one process that takes each batch in ${world.size} parts, ${COMPARED} losses differ by at most ${apart}`,
  )
  if (!(apart <= 1e-12)) fail('that is more than 1e-12')
  const [together, alone] = [history.steps, steps].map((steps) => mean(steps.slice(1), 'stepMs').toFixed(0))
  console.log(`a step of DPO takes ${together} ms here, and ${alone} ms in one process`)
}

function fail(/** @type {string} */ problem) {
  console.error(problem)
  process.exitCode = 1
}

/** The curves of these processes, beside those of one where it has trained. */
function draw(/** @type {History | undefined} */ alone) {
  const names = [`${world.size} processes`, 'one process']
  const runs = alone ? [history, alone] : [history]
  /** @returns {import('./plot.mjs').Line[]} */
  const running = (/** @type {'loss' | 'margin'} */ key) =>
    runs.map(({ steps }, r) => ({
      name: names[r],
      points: steps.map((_, i) => [i + 1, mean(steps.slice(0, i + 1), key, 20)]),
    }))
  /** @type {import('./plot.mjs').Line[]} */
  const heldOutLines = runs.map(({ evaluations }, r) => ({
    name: names[r],
    points: evaluations.map(({ step, accuracy }) => [step, accuracy]),
    dots: true,
  }))
  const svg = plot(
    [
      { title: 'DPO loss', lines: running('loss') },
      { title: 'Reward margin', lines: running('margin') },
      { title: 'Reward accuracy, held out', lines: heldOutLines, range: [0, 1] },
    ],
    'step (loss and margin: mean of 20 steps)',
  )
  for (const place of ['../out/data-parallel.svg', ...(UPDATE ? ['../../docs/assets/data-parallel.svg'] : [])]) {
    const url = new URL(place, import.meta.url)
    mkdirSync(new URL('.', url), { recursive: true })
    writeFileSync(url, svg)
    console.log(`\ncurves: ${fileURLToPath(url)}`)
  }
}
