/**
 * The tokens of a job on the device.
 */
import type { DeviceLabels, GpuSlice, Rows, Tokens } from '../../job.js'
import type { Arena } from './arena.js'
import type { Plan, TokenRegions } from './plan.js'
import { targetsShader } from './shaders.js'
import { setTwoFloat } from './two-floats.js'
import { uniforms } from './uniforms.js'
import { sliceView } from './windows.js'

/** Brings the tokens of these logits to the device, or finds them there. */
export function tokenRegions(plan: Plan, tokens: Tokens, { batch, time, vocab }: Rows): TokenRegions {
  const { inputs } = plan.arenas
  const { weights, labels } = tokens
  const found = labels ? findTargets(plan, tokens, labels, batch * time, vocab) : putTargets(tokens, inputs)
  return {
    ...found,
    weights: weights === undefined ? inputs.room(0) : inputs.put(weightPairs(tokens, weights)),
    hasWeights: weights !== undefined,
  }
}

function putTargets({ targets, offsets, counts }: Tokens, inputs: Arena) {
  const sequences = new Int32Array(2 * offsets.length)
  for (let s = 0; s < offsets.length; s++) {
    sequences[2 * s] = offsets[s]
    sequences[2 * s + 1] = counts[s] ?? 0
  }
  return { targets: inputs.put(targets), sequences: inputs.put(sequences), found: targets }
}

/** Stage 0. */
function findTargets(plan: Plan, { offsets, counts }: Tokens, given: DeviceLabels, rowCount: number, vocab: number) {
  const { arenas, device, results } = plan
  const { wide, shift, ignoreIndex } = given
  const labels = sliceView(given.data as GpuSlice, wide ? 8 : 4, device.limits)
  const bytes = given.mask as GpuSlice | undefined
  const hasWords = bytes !== undefined && bytes.byteLength === 4 * rowCount
  const mask = bytes && sliceView(bytes, hasWords ? 4 : 1, device.limits)
  const targets = arenas.labels.room(4 * rowCount)
  const sequences = arenas.labels.room(8 * offsets.length)
  const invalid = arenas.labels.room(8 * counts.length)
  const ignored = [ignoreIndex, Math.floor(ignoreIndex / 2 ** 32)]
  const begins = [labels.begin, mask?.begin ?? 0]
  const params = uniforms(0, counts.length, vocab, Number(shift), ...ignored, ...begins)
  const shader = targetsShader({ WIDE: wide, mask: mask ? (hasWords ? 'words' : 'bytes') : 'none' })
  const { region } = mask ?? { region: arenas.inputs.room(0) }
  const outs = [targets, sequences, invalid]
  plan.step(shader, params, [arenas.inputs.put(offsets), labels.region, region, ...outs], counts.length)
  const found = new Int32Array(rowCount)
  results.words(targets, found)
  results.bytes(sequences, 8 * counts.length, (bytes) => {
    const words = new Int32Array(bytes)
    for (let s = 0; s < counts.length; s++) counts[s] = words[2 * s + 1]
  })
  results.bytes(invalid, 8 * counts.length, (bytes) => takeInvalid(new Uint32Array(bytes), given))
  return { targets, sequences, found }
}

/** `[S]` how many labels of a sequence are out of range, and the place of the first of them. */
function takeInvalid(words: Uint32Array, given: DeviceLabels): void {
  given.invalid[0] = 0
  given.firstInvalid = undefined
  for (let s = 0; s < words.length / 2; s++) {
    if (words[2 * s] === 0) continue
    given.invalid[0] += words[2 * s]
    given.firstInvalid ??= words[2 * s + 1]
  }
}

function weightPairs({ plainWeights }: Tokens, weights: Float64Array): Float32Array {
  const pairs = new Float32Array(4 * weights.length)
  for (let row = 0; row < weights.length; row++) {
    setTwoFloat(pairs, 4 * row, weights[row])
    setTwoFloat(pairs, 4 * row + 2, (plainWeights ?? weights)[row])
  }
  return pairs
}
