/**
 * `fusedPreferenceLoss`: all four stages in one call, logits in and loss and gradient out.
 */

import { PAIRED_OPTIONS, type PairedCall, pairedCall, pairedResult, type ReferenceModel } from '../call/paired-call.js'
import { modelNames } from '../call/reference.js'
import { type Runner, run, runnerOf } from '../call/run.js'
import { destinationOf, logitsOf, skipsInactive, type Tensor, tensorOf, watchTensor } from '../call/tensor.js'
import { isPacked, tokenArrays } from '../call/tokens.js'
import { checkUnchanged, type NamedArray, type Watched } from '../check/arrays.js'
import { optionsObject } from '../check/options.js'
import { invalidValue, shapeMismatch } from '../errors.js'
import type { DeviceMemory, FusedOptions, FusedPreferenceLoss, Labels, Logits } from '../types/index.js'

const OPTIONS: ReadonlySet<string> = new Set([...PAIRED_OPTIONS, 'gradient', 'zeroInactive'])
const REFERENCE = modelNames('logits')

/**
 * The preference loss of a batch of sequences straight from the logits, and its exact gradient with respect to them.
 * The logits are read once for the loss and once more for the gradient, which is written once; nothing of their size is
 * allocated unless `gradient` is true. Runs off the calling thread: arrays are lent until the promise has settled, and must
 * be neither changed nor transferred meanwhile.
 *
 * The formulas and their papers are in docs/losses.md; the default is DPO (Rafailov et al. 2023). Lengths, for
 * the losses that divide by them, are the numbers of active tokens.
 *
 * @param logits `[batch, time, vocab]`, or `[tokens, vocab]` with `sequenceOffsets`. Overwritten only when
 *   `gradient` says so.
 * @param labels `[batch, time]` (`[tokens]`) token ids; `ignoreIndex` marks those that do not count. Labels at masked
 *   positions are not looked at. In device memory they are int32 or int64, by its size.
 * @param options the reference, which sequences form pairs, which tokens count, the loss and its constants, where the
 *   gradient goes, and where the call runs.
 * @returns the mean loss over the P pairs; per pair losses, rewards, log-probs in nats and their gradients, in float64;
 *   and `gradLogits` when asked for.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`,
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`, `ERR_CUDA`; the reason of
 *   `options.signal`.
 */
export async function fusedPreferenceLoss(
  logits: Logits,
  labels: Labels | DeviceMemory,
  options?: FusedOptions,
): Promise<FusedPreferenceLoss> {
  const planned = plan(logits, labels, options)
  await run(planned.runner, planned.call.job, planned.watched)
  return result(planned)
}

/** {@link fusedPreferenceLoss} on the calling thread. */
export function fusedPreferenceLossSync(
  logits: Logits,
  labels: Labels | DeviceMemory,
  options?: FusedOptions,
): FusedPreferenceLoss {
  const planned = plan(logits, labels, options)
  planned.runner.backend.runSync(planned.call.job, planned.runner.settings)
  return result(planned)
}

/** A call that has been checked, and what it will fill. */
export interface Plan {
  call: PairedCall
  logits: Tensor
  out?: Tensor
  runner: Runner
  watched: Watched[]
}

/** Checks a call. */
export function plan(logits: Logits, labels: Labels | DeviceMemory, given: FusedOptions | undefined): Plan {
  const options = optionsObject(given, 'options', OPTIONS)
  const tensor = tensorOf(logits, 'logits', isPacked(options))
  const watched = watchTensor('logits.data', tensor)
  const reference = referenceLogits(tensor)
  const call = pairedCall(tensor, labels, options, reference, watched)
  const out = destination(options, labels, tensor, reference.arrays, watched)
  const skipInactive = skipsInactive(options.zeroInactive, options.gradient, tensor)
  if (out) {
    const coefficients = new Float64Array(call.policy.logProbs.length)
    call.job.gradient = { logits: tensor.rows, out: out.rows, coefficients, skipInactive }
  }
  const arrays: NamedArray[] = [['logits.data', tensor.data], ...tokenArrays(labels, options), ...reference.arrays]
  if (out) arrays.push(['options.gradient', out.data])
  const runner = runnerOf(options, tensor.range, arrays)
  checkUnchanged(watched)
  return { call, logits: tensor, out, runner, watched }
}

/** What a call that has run gives to the caller. */
export function result(planned: Plan): FusedPreferenceLoss {
  const fused = pairedResult(planned.call)
  if (planned.out) fused.gradLogits = logitsOf(planned.out)
  return fused
}

/** Where the gradient goes, if anywhere. */
function destination(
  options: FusedOptions,
  labels: Labels | DeviceMemory,
  logits: Tensor,
  referenceArrays: readonly NamedArray[],
  watched: Watched[],
): Tensor | undefined {
  const { gradient } = options
  if (gradient === undefined || gradient === false) return undefined
  if (gradient === true) return destinationOf(true, 'options.gradient', logits, [])
  const callers = [...tokenArrays(labels, options), ...referenceArrays]
  const out = destinationOf(gradient, 'options.gradient', logits, callers)
  watched.push(...watchTensor('options.gradient', out))
  return out
}

/** A reference model by its logits. */
function referenceLogits(policy: Tensor): ReferenceModel {
  const arrays: NamedArray[] = []
  return {
    names: REFERENCE,
    arrays,
    sourceOf(reference, name, watched) {
      const tensor = checkReferenceLogits(reference.logits, name, policy)
      arrays.push([`${name}.logits`, tensor.data])
      watched.push(...watchTensor(`${name}.logits.data`, tensor))
      return tensor
    },
  }
}

/** The logits of a reference model, which must be like those of the policy. */
export function checkReferenceLogits(logits: unknown, name: string, policy: Tensor): Tensor {
  const tensor = tensorOf(logits, `${name}.logits`, policy.shape.length === 2)
  if (tensor.shape.some((length, i) => length !== policy.shape[i])) {
    const problem = `must be that of logits, [${policy.shape.join(', ')}]; got [${tensor.shape.join(', ')}]`
    throw shapeMismatch(`${name}.logits.shape`, problem)
  }
  if (tensor.range && tensor.range.device !== policy.range?.device) {
    throw invalidValue(`${name}.logits.data`, 'is device memory, so the logits must be on the same device')
  }
  return tensor
}
