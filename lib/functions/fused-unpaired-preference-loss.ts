/**
 * `fusedUnpairedPreferenceLoss`: all four stages in one call, for sequences that stand alone.
 */
import { type Runner, run, runnerOf } from '../call/run.js'
import { destinationOf, logitsOf, skipsInactive, type Tensor, tensorOf, watchTensor } from '../call/tensor.js'
import { isPacked } from '../call/tokens.js'
import {
  UNPAIRED_OPTIONS,
  type UnpairedCall,
  type UnpairedReferenceModel,
  unpairedCall,
  unpairedCallResult,
} from '../call/unpaired-call.js'
import { checkUnchanged, type NamedArray, type Watched } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import type { DeviceMemory, FusedUnpairedOptions, FusedUnpairedPreferenceLoss, Labels, Logits } from '../types/index.js'
import { checkReferenceLogits } from './fused-preference-loss.js'

const OPTIONS: ReadonlySet<string> = new Set([...UNPAIRED_OPTIONS, 'gradient', 'zeroInactive'])

/**
 * The preference loss of a batch of sequences that stand alone, each of them desirable or not, straight from the logits,
 * and its exact gradient with respect to them: KTO (Ethayarajh et al. 2024) and the losses after it. The logits are read
 * once for the loss and once more for the gradient, which is written once; nothing of their size is allocated unless
 * `gradient` is true. Runs off the calling thread: arrays are lent until the promise has settled, and must be neither
 * changed nor transferred meanwhile.
 *
 * The formulas and their papers are in docs/losses.md. KTO's κ comes from another forward, over completions that belong to
 * other prompts: see `klLogProbs`.
 *
 * @param logits `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`. Overwritten only when
 *   `gradient` says so.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at. In device memory they are int32 or int64, by its size.
 * @param options which sequences are desirable, the reference, which tokens count, the loss and its constants, where the
 *   gradient goes, and where the call runs.
 * @returns the mean loss over the sequences; per sequence losses, rewards, log-probs in nats and their gradients, in
 *   float64; and `gradLogits` when asked for.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA`; the reason of
 *   `options.signal`.
 */
export async function fusedUnpairedPreferenceLoss(
  logits: Logits,
  labels: Labels | DeviceMemory,
  options: FusedUnpairedOptions,
): Promise<FusedUnpairedPreferenceLoss> {
  const planned = plan(logits, labels, options)
  await run(planned.runner, planned.call.job, planned.watched)
  return result(planned)
}

/** {@link fusedUnpairedPreferenceLoss} on the calling thread. */
export function fusedUnpairedPreferenceLossSync(
  logits: Logits,
  labels: Labels | DeviceMemory,
  options: FusedUnpairedOptions,
): FusedUnpairedPreferenceLoss {
  const planned = plan(logits, labels, options)
  planned.runner.backend.runSync(planned.call.job, planned.runner.settings)
  return result(planned)
}

interface Plan {
  call: UnpairedCall
  out?: Tensor
  runner: Runner
  watched: Watched[]
}

function plan(logits: Logits, labels: Labels | DeviceMemory, given: FusedUnpairedOptions): Plan {
  const options = optionsObject(given, 'options', OPTIONS)
  const tensor = tensorOf(logits, 'logits', isPacked(options))
  const watched = watchTensor('logits.data', tensor)
  const call = unpairedCall(tensor, labels, options, referenceLogits(tensor), watched)
  const { gradient } = options
  const arrays: NamedArray[] = [['logits.data', tensor.data], ...call.arrays]
  let out: Tensor | undefined
  if (gradient !== undefined && gradient !== false) {
    out = destinationOf(gradient, 'options.gradient', tensor, call.arrays)
    if (gradient !== true) watched.push(...watchTensor('options.gradient', out))
    arrays.push(['options.gradient', out.data])
  }
  const skipInactive = skipsInactive(options.zeroInactive, gradient, tensor)
  if (out) {
    const coefficients = new Float64Array(call.policy.logProbs.length)
    call.job.gradient = { logits: tensor.rows, out: out.rows, coefficients, skipInactive }
  }
  const runner = runnerOf(options, tensor.range, arrays)
  checkUnchanged(watched)
  return { call, out, runner, watched }
}

function result({ call, out }: Plan): FusedUnpairedPreferenceLoss {
  const fused = unpairedCallResult(call)
  if (out) fused.gradLogits = logitsOf(out)
  return fused
}

/** A reference model by its logits. */
function referenceLogits(policy: Tensor): UnpairedReferenceModel {
  return {
    parts: ['logits'],
    sourceOf(reference, name, watched, arrays) {
      const tensor = checkReferenceLogits(reference.logits, name, policy)
      arrays.push([`${name}.logits`, tensor.data])
      watched.push(...watchTensor(`${name}.logits.data`, tensor))
      return tensor
    },
  }
}
