/**
 * `fusedLinearPreferenceLoss`: the output layer and all four stages in one call, hidden states in and loss and gradients
 * out.
 */

import { checkSameLogits, type HeadSource, headOf } from '../call/head.js'
import { HEAD_GRADIENT_OPTIONS, type HeadDestinations, headDestinations } from '../call/head-gradients.js'
import { PAIRED_OPTIONS, type PairedCall, pairedCall, pairedResult, type ReferenceModel } from '../call/paired-call.js'
import { modelNames } from '../call/reference.js'
import { type Runner, run, runnerOf } from '../call/run.js'
import { isPacked, tokenArrays } from '../call/tokens.js'
import { checkUnchanged, type NamedArray, type Watched } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { invalidValue } from '../errors.js'
import type {
  DeviceMemory,
  FusedLinearOptions,
  FusedLinearPreferenceLoss,
  HeadWeight,
  Hidden,
  Labels,
} from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...PAIRED_OPTIONS, ...HEAD_GRADIENT_OPTIONS, 'bias', 'gradient'])
const REFERENCE = modelNames('hidden', 'weight', 'bias')

/**
 * The preference loss of a batch of sequences straight from what goes into the model's output layer, and its exact
 * gradients with respect to that, the layer's weight and its bias. The logits exist a tile at a time, once for the loss
 * and once more for the gradients, and are never stored; rows that predict nothing are not multiplied. Runs off the
 * calling thread: arrays are lent until the promise has settled, and must be neither changed nor transferred meanwhile.
 *
 * The formulas and their papers are in docs/losses.md; the default is DPO (Rafailov et al. 2023). Lengths, for
 * the losses that divide by them, are the numbers of active tokens.
 *
 * @param hidden `[batch, time, width]`, or `[tokens, width]` with `sequenceOffsets`.
 * @param weight `[vocab, width]`, or stored as `[width, vocab]` and said so by its strides.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at. In device memory they are int32 or int64, by its size.
 * @param options the bias, the reference, which sequences form pairs, which tokens count, the loss and its constants,
 *   which gradients to compute and where they go, and where the call runs.
 * @returns the mean loss over the P pairs; per pair losses, rewards, log-probs in nats and their gradients, in float64;
 *   and the float32 gradients that were asked for. Logits are float32.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA` (no
 *   cuBLASLt, for one); the reason of `options.signal`.
 */
export async function fusedLinearPreferenceLoss(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceMemory,
  options?: FusedLinearOptions,
): Promise<FusedLinearPreferenceLoss> {
  const planned = plan(hidden, weight, labels, options)
  await run(planned.runner, planned.call.job, planned.watched)
  return result(planned)
}

/** {@link fusedLinearPreferenceLoss} on the calling thread. */
export function fusedLinearPreferenceLossSync(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceMemory,
  options?: FusedLinearOptions,
): FusedLinearPreferenceLoss {
  const planned = plan(hidden, weight, labels, options)
  planned.runner.backend.runSync(planned.call.job, planned.runner.settings)
  return result(planned)
}

interface Plan {
  call: PairedCall
  destinations?: HeadDestinations
  runner: Runner
  watched: Watched[]
}

function plan(
  hidden: Hidden,
  weight: HeadWeight,
  labels: Labels | DeviceMemory,
  given: FusedLinearOptions | undefined,
): Plan {
  const options = optionsObject(given, 'options', OPTIONS)
  const watched: Watched[] = []
  const source = headOf(hidden, weight, options.bias, isPacked(options), watched)
  const reference = referenceHead(source)
  const call = pairedCall(source, labels, options, reference, watched)
  const callers = [...tokenArrays(labels, options), ...reference.arrays]
  const destinations = headDestinations(options.gradient, 'options.gradient', source, options, callers)
  if (destinations) {
    const { head, rows: logits } = source
    const coefficients = new Float64Array(call.policy.logProbs.length)
    call.job.headGradient = { head, logits, coefficients, ...destinations.stage }
    watched.push(...destinations.watched)
  }
  const runner = runnerOf(options, source.range, destinations?.arrays ?? [...source.arrays, ...callers])
  checkUnchanged(watched)
  return { call, destinations, runner, watched }
}

function result(planned: Plan): FusedLinearPreferenceLoss {
  return Object.assign(pairedResult(planned.call), planned.destinations?.gradients)
}

/** A reference model by its output layer. */
function referenceHead(policy: HeadSource): ReferenceModel {
  const arrays: NamedArray[] = []
  return {
    names: REFERENCE,
    arrays,
    sourceOf(reference, name, watched) {
      const source = checkReferenceHead(reference, name, policy, watched)
      arrays.push(...source.arrays)
      return source
    },
  }
}

/** The output layer of a reference model, whose logits must be like those of the policy. */
export function checkReferenceHead(
  { hidden, weight, bias }: Record<string, unknown>,
  name: string,
  policy: HeadSource,
  watched: Watched[],
): HeadSource {
  const packed = policy.hidden.shape.length === 2
  const source = headOf(hidden, weight, bias, packed, watched, `${name}.`, `${name}.bias`)
  checkSameLogits(source.rows, policy.rows, name)
  if (source.range?.device !== policy.range?.device) {
    throw invalidValue(`${name}.hidden.data`, 'must be where hidden.data is')
  }
  return source
}
