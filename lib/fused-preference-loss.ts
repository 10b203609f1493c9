/**
 * `fusedPreferenceLoss`: all four stages in one call, logits in and loss and gradient out.
 */
import { checkUnchanged, type NamedArray, numbers, type Watched } from './arrays.js'
import type { ForwardStage, Job, LossStage } from './backends/backend.js'
import { invalidType, invalidValue, shapeMismatch } from './errors.js'
import { addTokenOutputs, copyTokenOutputs, forwardStage } from './forward-stage.js'
import { LOSS_OPTIONS, type LossPlan, lossOf } from './loss-options.js'
import { lossResult, lossStage } from './loss-stage.js'
import { oneOf, optionsObject } from './options.js'
import { RUN_OPTIONS, type Runner, run, runnerOf } from './run.js'
import { destinationOf, logitsOf, skipsInactive, type Tensor, tensorOf, watchTensor } from './tensor.js'
import { checkDeviceLabels, TOKEN_OPTIONS, type TokenPlan, tokenArrays, tokensOf } from './tokens.js'
import type { DeviceMemory, FusedOptions, FusedPreferenceLoss, Labels, Logits, Reference } from './types.js'

const OPTIONS: ReadonlySet<string> = new Set([
  ...TOKEN_OPTIONS,
  ...LOSS_OPTIONS,
  ...RUN_OPTIONS,
  'reference',
  'weighting',
  'gradient',
  'zeroInactive',
])
const REFERENCE: ReadonlySet<string> = new Set(['chosen', 'rejected', 'logits'])
const WEIGHTINGS = ['wpo'] as const

/**
 * The preference loss of a batch of sequences straight from the logits, and its exact gradient with respect to them.
 * The logits are read once for the loss and once more for the gradient, which is written once; nothing of their size is
 * allocated unless `gradient` is true. Runs off the calling thread.
 *
 * The formulas and their papers are in the README's loss table; the default is DPO (Rafailov et al. 2023). Lengths, for
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
 *   `ERR_SHAPE_MISMATCH`, `ERR_LABEL_OUT_OF_RANGE`; Error `ERR_BACKEND_UNAVAILABLE`; the reason of `options.signal`.
 */
export async function fusedPreferenceLoss(
  logits: Logits,
  labels: Labels | DeviceMemory,
  options?: FusedOptions,
): Promise<FusedPreferenceLoss> {
  const planned = plan(logits, labels, options)
  await run(planned.runner, planned.job, planned.watched)
  return result(planned)
}

/** {@link fusedPreferenceLoss} on the calling thread. */
export function fusedPreferenceLossSync(
  logits: Logits,
  labels: Labels | DeviceMemory,
  options?: FusedOptions,
): FusedPreferenceLoss {
  const planned = plan(logits, labels, options)
  planned.runner.backend.runSync(planned.job, planned.runner.settings)
  return result(planned)
}

/** A call that has been checked, and what it will fill. */
export interface Plan {
  logits: Tensor
  tokenPlan: TokenPlan
  policy: ForwardStage
  loss: LossStage
  out?: Tensor
  job: Job
  runner: Runner
  watched: Watched[]
}

/** Checks a call. */
export function plan(logits: Logits, labels: Labels | DeviceMemory, given: FusedOptions | undefined): Plan {
  const options = optionsObject(given, 'options', OPTIONS)
  const lossPlan = lossOf(options)
  const weighting =
    options.weighting === undefined ? undefined : oneOf(options.weighting, 'options.weighting', WEIGHTINGS, 'wpo')
  const tensor = tensorOf(logits, 'logits', options.sequenceOffsets !== undefined)
  const watched = watchTensor('logits.data', tensor)
  const tokenPlan = tokensOf(labels, tensor.rows, options, true, tensor.range)
  const { tokens } = tokenPlan
  const pairs = tokenPlan.pairs!
  const size = pairs.length / 2
  const sequences = tokens.counts.length

  const out = destination(options, tensor, labels, watched)
  const policy = forwardStage(tensor.rows, sequences, out !== undefined)
  addTokenOutputs(policy, options.outputs)
  const job: Job = { tokens, policy }
  const loss = addReference(job, options.reference, lossPlan, size, tensor, watched)
  loss.pairs = pairs
  loss.chosenLengths = new Float64Array(size)
  loss.rejectedLengths = new Float64Array(size)
  for (let i = 0; i < size; i++) {
    loss.chosenLengths[i] = tokens.counts[pairs[2 * i]]
    loss.rejectedLengths[i] = tokens.counts[pairs[2 * i + 1]]
  }
  if (weighting === 'wpo') {
    policy.logWeights = new Float64Array(sequences)
    loss.pairWeights = new Float64Array(size)
  }
  job.loss = loss
  if (out) {
    const coefficients = new Float64Array(sequences)
    const skipInactive = skipsInactive(options.zeroInactive, options.gradient, out)
    job.gradient = { logits: tensor.rows, out: out.rows, states: policy.states!, coefficients, skipInactive }
  }
  const runner = runnerOf(options, tensor.range)
  checkUnchanged(watched)
  return { logits: tensor, tokenPlan, policy, loss, out, job, runner, watched }
}

/** What a call that has run gives to the caller. */
export function result({ tokenPlan, policy, loss, out }: Plan): FusedPreferenceLoss {
  checkDeviceLabels(tokenPlan.tokens, policy.logits.vocab)
  const fused = lossResult(loss) as FusedPreferenceLoss
  fused.chosenLogProbs = loss.chosen
  fused.rejectedLogProbs = loss.rejected
  fused.tokenCounts = tokenPlan.tokens.counts
  copyTokenOutputs(policy, tokenPlan, fused)
  if (out) fused.gradLogits = logitsOf(out)
  return fused
}

/** Where the gradient goes, if anywhere. */
function destination(
  options: FusedOptions,
  logits: Tensor,
  labels: Labels | DeviceMemory,
  watched: Watched[],
): Tensor | undefined {
  const { gradient, reference } = options
  if (gradient === undefined || gradient === false) return undefined
  if (gradient === true) return destinationOf(true, 'options.gradient', logits, [])
  const { chosen, rejected, logits: referenceLogits } = (reference ?? {}) as Partial<Record<string, unknown>>
  const callers: NamedArray[] = [
    ...tokenArrays(labels, options),
    ['options.reference.chosen', chosen],
    ['options.reference.rejected', rejected],
    ['options.reference.logits', (referenceLogits as Logits | undefined)?.data],
  ]
  const out = destinationOf(gradient, 'options.gradient', logits, callers)
  watched.push(...watchTensor('options.gradient', out))
  return out
}

/** The loss stage with the reference's log-probs, or with zeros and a forward stage in the job that will fill them. */
function addReference(
  job: Job,
  given: Reference | undefined,
  { config, referenceFree, needsReference }: LossPlan,
  size: number,
  policy: Tensor,
  watched: Watched[],
): LossStage {
  const name = 'options.reference'
  if (given === undefined) {
    if (needsReference === undefined) return lossStage(config, size)
    const problem = `is needed by lossType '${needsReference}' (unless referenceFree): { chosen, rejected } or { logits }`
    throw invalidValue(name, problem)
  }
  const reference = optionsObject(given as Partial<Record<string, unknown>>, name, REFERENCE)
  if (reference.logits === undefined) {
    const chosen = numbers(reference.chosen, `${name}.chosen`, size, ', one per pair')
    const rejected = numbers(reference.rejected, `${name}.rejected`, size, ', one per pair')
    return referenceFree ? lossStage(config, size) : lossStage(config, size, undefined, undefined, chosen, rejected)
  }
  if (reference.chosen !== undefined || reference.rejected !== undefined) {
    throw invalidType(name, 'either { chosen, rejected } or { logits }, not both', given)
  }
  const tensor = tensorOf(reference.logits, `${name}.logits`, policy.shape.length === 2)
  if (tensor.shape.some((length, i) => length !== policy.shape[i])) {
    const problem = `must be that of logits, [${policy.shape.join(', ')}]; got [${tensor.shape.join(', ')}]`
    throw shapeMismatch(`${name}.logits.shape`, problem)
  }
  if (tensor.range && tensor.range.device !== policy.range?.device) {
    throw invalidValue(`${name}.logits.data`, 'is device memory, so the logits must be on the same device')
  }
  if (!referenceFree) {
    job.reference = forwardStage(tensor.rows, job.tokens!.counts.length, false)
    watched.push(...watchTensor(`${name}.logits.data`, tensor))
  }
  return lossStage(config, size)
}
