/**
 * The examples train: their programs run in their short form and fail when nothing is learned, and the step of GRPO has the
 * gradient of its loss.
 */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { sequenceLogProbsSync } from '../lib/index.js'
import { random } from './support.js'

const root = new URL('..', import.meta.url)
const { cloneModel, createModel, forward } = await import(new URL('examples/falling-together/model.mjs', root).href)
const { partsOf } = await import(new URL('examples/moby-dick/ranks.mjs', root).href)
const { advantagesOf, grpoStep } = await import(new URL('examples/grpo/step.mjs', root).href)
const { batchOf, rewardsOf, vocabularySize } = await import(new URL('examples/grpo/task.mjs', root).href)

type Parameters = Record<'embeddings' | 'output', Float32Array>

/** The rows of the table that an example prints at its end, by their first cell. */
async function tableOf(program: string): Promise<Record<string, number[]>> {
  const { stdout } = await promisify(execFile)(process.execPath, [fileURLToPath(new URL(program, root)), '--quick'])
  const rows = Array.from(stdout.matchAll(/^(\S.{43}) +(-?[\d.]+.*)$/gm), ([, name, cells]) => {
    return [name.trim(), Array.from(cells.matchAll(/-?[\d.]+/g), ([cell]) => Number(cell))] as const
  })
  return Object.fromEntries(rows)
}

it('SFT, DPO and KTO: the loss falls, and preferences are learned on pairs not seen', {
  timeout: 300_000,
}, async () => {
  const table = await tableOf('examples/moby-dick/stages.mjs')
  const [, afterDpo, afterKto] = table['chosen has the larger reward']
  expect(Math.min(afterDpo, afterKto)).toBeGreaterThan(60)
  const margins = table['mean margin of rewards']
  expect(margins[0]).toBe(0)
  expect(margins[2]).toBeGreaterThan(margins[1])
  expect(table['next-token loss, nats'][0]).toBeLessThan(8)
})

it('the parts of a batch are the same for one process and for two, and ranks have all of it, in order', () => {
  const batch = Array.from({ length: 7 }, (_, i) => i)
  for (const parts of [1, 2, 3]) {
    for (const size of [1, 2, 3, 5]) {
      const ofRanks = Array.from({ length: size }, (_, rank) => partsOf({ rank, size }, batch, parts))
      expect(ofRanks.flat(2)).toEqual(batch)
      expect(ofRanks.flat()).toHaveLength(Math.max(parts, size))
      for (const own of ofRanks) expect(own.length).toBeGreaterThan(0)
      if (size <= parts) expect(ofRanks.flat()).toEqual(partsOf({ rank: 0, size: 1 }, batch, parts))
    }
  }
})

describe('GRPO', () => {
  it('its reward rises', { timeout: 300_000 }, async () => {
    const table = await tableOf('examples/grpo/main.mjs')
    const [before, after] = table['drawn answers: mean reward of 10 steps']
    expect(before).toBeLessThan(35)
    expect(after).toBeGreaterThan(before + 15)
    expect(after).toBeGreaterThan(40)
  })

  it('its step has less than 60 lines', () => {
    expect(readFileSync(new URL('examples/grpo/step.mjs', root), 'utf8').split('\n').length).toBeLessThan(60)
  })

  it('advantages compare the answers to one prompt', () => {
    const advantages = advantagesOf([1, 0, 0, 1, 1, 1, 0, 0, 0, 1], 5)
    const wanted = [2, -3, -3, 2, 2, 3, -2, -2, -2, 3]
    for (const [i, advantage] of advantages.entries()) expect(advantage).toBeCloseTo(wanted[i] / Math.sqrt(6), 3)
    expect(advantagesOf([1, 1, 1], 3)).toEqual([0, 0, 0])
  })

  it('its gradient is that of the clipped loss and the KL divergence, before and after the first update', () => {
    const next = random(3)
    const model = createModel(vocabularySize, 8, next)
    const reference = createModel(vocabularySize, 8, next)
    const texts = ['1+2=03', '1+2=04', '1+2=12', '1+2=03', '9+9=18', '9+9=18', '9+9=81', '9+9=00']
    const batch = batchOf(texts)
    const rewards = rewardsOf(texts)
    expect(rewards).toEqual([1, 0, 0, 1, 1, 1, 0, 0])
    const logProbsOf = (of: Parameters) =>
      sequenceLogProbsSync(forward(of, batch).logits, batch.labels, { outputs: ['tokenLogProbs'] }).tokenLogProbs!
    const [old, fixed] = [logProbsOf(model), logProbsOf(reference)]
    const perText = old.length / texts.length

    /** The loss, written from the paper. */
    const lossOf = (of: Parameters) => {
      let loss = 0
      logProbsOf(of).forEach((logProb, t) => {
        const advantage = advantagesOf(rewards, 4)[Math.floor(t / perText)]
        const ratio = Math.exp(logProb - old[t])
        const clipped = Math.min(1.2, Math.max(0.8, ratio))
        const kl = Math.exp(fixed[t] - logProb) - (fixed[t] - logProb) - 1
        const isActive = old[t] !== 0
        if (isActive) loss += 0.02 * kl - Math.min(ratio * advantage, clipped * advantage)
      })
      return loss / (2 * texts.length)
    }

    const steps: { gradient: Parameters; model: Parameters }[] = []
    const { clipped } = grpoStep(
      model,
      reference,
      (gradient: Parameters) => {
        steps.push({ gradient, model: cloneModel(model) })
        // Far enough for some tokens to be clipped.
        for (let i = 0; i < model.output.length; i++) model.output[i] += 2 * (next() - 0.5)
      },
      batch,
      rewards,
      4,
    )
    expect(steps).toHaveLength(2)
    expect(clipped).toBeGreaterThan(0)
    expect(clipped).toBeLessThan(0.5)
    for (const { gradient, model } of steps) {
      for (const name of ['embeddings', 'output'] as const) {
        const largest = Math.max(...gradient[name].map(Math.abs))
        expect(largest).toBeGreaterThan(1e-3)
        for (let k = 0; k < 40; k++) {
          const i = Math.floor(next() * model[name].length)
          const at = (change: number) => {
            const other = cloneModel(model)
            other[name][i] += change
            return lossOf(other)
          }
          const numeric = (at(2 ** -8) - at(-(2 ** -8))) * 2 ** 7
          expect(Math.abs(gradient[name][i] - numeric)).toBeLessThan(2e-3 * largest)
        }
      }
    }
  })
})
