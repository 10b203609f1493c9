// GRPO with rewards that can be verified: a small model of characters learns to add. It is first fine-tuned on sums of
// which half have a random answer, and writes such sums itself; rewards for right answers do the rest. Takes about ten
// seconds; the curves go to examples/out/. Fails when the reward does not rise.
//
//   node examples/grpo/main.mjs [--quick | --update-docs | --check-docs]
//
// --quick         fewer steps
// --update-docs   writes the table and the picture of docs/grpo.md
// --check-docs    fails when the table there is not that of this run
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { crossEntropySync } from 'fused-preference-loss'
import { backward, cloneModel, createAdam, createModel, forward } from '../falling-together/model.mjs'
import { randomNumbers } from '../moby-dick/data.mjs'
import { partOf, table, withParts } from '../moby-dick/page.mjs'
import { plot } from '../moby-dick/plot.mjs'
import { grpoStep } from './step.mjs'
import { answerTo, batchOf, prompts, rewardsOf, sampleFrom, vocabularySize, write } from './task.mjs'

const [QUICK, UPDATE, CHECK] = ['--quick', '--update-docs', '--check-docs'].map((flag) => process.argv.includes(flag))
const SFT = { steps: 600, learningRate: 5e-3, randomAnswers: 0.5 }
const GRPO = { steps: QUICK ? 80 : 200, prompts: 16, completions: 16, learningRate: 5e-3 }
// What the mean reward of the last steps has to reach.
const WANTED = QUICK ? 0.4 : 0.8
const EVERY = 10
const PAGE = new URL('../../docs/grpo.md', import.meta.url)

const random = randomNumbers(7)
const model = createModel(vocabularySize, 64, random)
const pick = (/** @type {number} */ count) => Math.floor(count * random())
const mean = (/** @type {number[]} */ values) => values.reduce((sum, value) => sum + value, 0) / values.length
const percent = (/** @type {number} */ share) => `${(100 * share).toFixed(1)} %`

fineTune()
const reference = cloneModel(model)
const { steps, evaluations } = reinforce()
const rewards = steps.map(({ reward }) => reward)
const [before, after] = [mean(rewards.slice(0, EVERY)), mean(rewards.slice(-EVERY))]
const figures = report()
draw()
updateDocs()
if (after < WANTED || after < before + 0.15) {
  console.error(`\nthe mean reward went from ${before} to ${after}; it should reach ${WANTED}`)
  process.exitCode = 1
}

/** Next-token training on all prompts; the loss is that of the answers. */
function fineTune() {
  const update = createAdam(model, SFT.learningRate)
  for (let step = 1; step <= SFT.steps; step++) {
    const batch = batchOf(
      prompts.map((prompt) => prompt + (random() < SFT.randomAnswers ? `${pick(10)}${pick(10)}` : answerTo(prompt))),
    )
    const { logits, hidden } = forward(model, batch)
    const { loss, gradLogits } = crossEntropySync(logits, batch.labels, { gradient: 'in-place' })
    update(backward(model, batch, hidden, /** @type {Float32Array} */ (gradLogits?.data)))
    if (step % 200 === 0) console.log(`sft ${step}/${SFT.steps}  loss ${loss.toFixed(3)}`)
  }
}

function reinforce() {
  const update = createAdam(model, GRPO.learningRate)
  const evaluations = [{ step: 0, greedy: greedyAccuracy() }]
  /** @type {({ reward: number } & ReturnType<typeof grpoStep>)[]} */
  const steps = []
  for (let step = 1; step <= GRPO.steps; step++) {
    const drawn = Array.from({ length: GRPO.prompts }, () => prompts[pick(prompts.length)])
    const groups = drawn.flatMap((prompt) => Array.from({ length: GRPO.completions }, () => prompt))
    const texts = write(logitsOf, groups, (logits) => sampleFrom(logits, random))
    const rewards = rewardsOf(texts)
    const result = grpoStep(model, reference, update, batchOf(texts), rewards, GRPO.completions)
    steps.push({ reward: mean(rewards), ...result })
    if (step % EVERY !== 0) continue
    evaluations.push({ step, greedy: greedyAccuracy() })
    const reward = mean(steps.slice(-EVERY).map(({ reward }) => reward))
    console.log(`grpo ${step}/${GRPO.steps}  reward ${reward.toFixed(3)}  kl ${result.kl.toFixed(2)}  ${texts[0]}`)
  }
  return { steps, evaluations }
}

function logitsOf(/** @type {import('../falling-together/model.mjs').Batch} */ batch) {
  return forward(model, batch).logits
}

/** The share of all prompts whose most likely answer is right. */
function greedyAccuracy() {
  const texts = write(logitsOf, prompts, (logits) => logits.indexOf(Math.max(...logits)))
  return mean(rewardsOf(texts))
}

/** Prints the rewards before and after, and returns them as a table. */
function report() {
  const rows = [
    ['share of right answers', 'at first', `after ${steps.length} steps`],
    [`drawn answers: mean reward of ${EVERY} steps`, percent(before), percent(after)],
    [
      'most likely answers, all 100 sums',
      percent(evaluations[0].greedy),
      percent(evaluations[evaluations.length - 1].greedy),
    ],
  ]
  console.log()
  for (const [name, ...cells] of rows) console.log(name.padEnd(44), ...cells.map((cell) => cell.padStart(16)))
  return table(rows)
}

function draw() {
  /** @returns {[number, number][]} */
  const running = (/** @type {'reward' | 'kl' | 'clipped'} */ key) =>
    steps.map((_, i) => [i + 1, mean(steps.slice(Math.max(0, i + 1 - EVERY), i + 1).map((step) => step[key]))])
  const svg = plot(
    [
      {
        title: 'Right answers',
        lines: [
          { name: 'drawn', points: running('reward') },
          { name: 'most likely', points: evaluations.map(({ step, greedy }) => [step, greedy]), dots: true },
        ],
        range: [0, 1],
      },
      { title: 'KL to the reference, nats a token', lines: [{ name: 'drawn', points: running('kl') }] },
      { title: 'Clipped tokens', lines: [{ name: 'share', points: running('clipped') }] },
    ],
    `step (mean of ${EVERY} steps)`,
  )
  const put = (/** @type {string} */ path) => {
    const url = new URL(path, import.meta.url)
    mkdirSync(new URL('.', url), { recursive: true })
    writeFileSync(url, svg)
    console.log(`\ncurves: ${fileURLToPath(url)}`)
  }
  put('../out/grpo.svg')
  if (UPDATE) put('../../docs/assets/grpo-curve.svg')
}

/** Writes the table to docs/grpo.md, or compares it with the table there. */
function updateDocs() {
  const page = readFileSync(PAGE, 'utf8')
  if (UPDATE) writeFileSync(PAGE, withParts(page, { rewards: figures }))
  if (!CHECK || partOf(page, 'rewards') === figures) return
  console.error(
    `\ndocs/grpo.md has another table than this run:\n\n${figures}\n\nnpm run example:grpo -- --update-docs`,
  )
  process.exitCode = 1
}
