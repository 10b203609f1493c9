/**
 * A call that several ranks make together, each with its share of the vocabulary, in steps:
 *
 *   1  agreement        all ranks make the same call, and none has been refused
 *   2  sweep            a job leaves the states of the segments that this rank has
 *   3  gather           the states of all ranks, each with a header in which a rank whose sweep has failed says so
 *   4  finish           a job begins from them: log-probs, loss, and the gradient of this rank's columns
 *   5  sum of hidden    with an output layer, the gradient with respect to its input is a sum over the ranks, which begins
 *                       while step 4 runs; and an agreement, as a rank may have failed
 *
 * A gradient that is asked for later is steps 1, 4 and 5. Ranks exchange arrays of the host's, wherever tensors are; over
 * NCCL steps 2 to 5 are one job (exchanging-job.ts). A signal counts until the states are gathered: later, a rank would
 * leave the others alone with their gradients.
 */
import { copyToDevice, copyToHost, noHolds } from '../backends/cuda/between-jobs.js'
import { newCudaMemory } from '../backends/cuda/new-memory.js'
import { checkUnchanged } from '../check/arrays.js'
import { invalidValue } from '../errors.js'
import type { ForwardStage, HeadGradientStage, Job, RunSettings, Shard, Tokens } from '../job.js'
import type { Communicator, HostArray } from '../types/index.js'
import { agreement, HEADER_BYTES, headerOf, numbersOf, type Terms } from './agreement.js'
import { equalParts } from './call-terms.js'
import { exchangingJob } from './exchanging-job.js'
import { HiddenShares } from './hidden-shares.js'
import type { Planned, Runner } from './run.js'
import { type Columns, SegmentExchange } from './segments.js'
import { gather, type Step, type Steps } from './steps.js'

type SharedTokens = Tokens & { shard: Shard }

/** A call from the beginning. `merges`: each rank sends one state of a row. */
export function* sharedCall<Result>(
  communicator: Communicator,
  plan: () => Planned<Result>,
  merges: boolean,
): Steps<Result> {
  const holds = noHolds()
  try {
    return yield* sharedSteps(communicator, () => heldBy(holds, plan()), merges)
  } finally {
    holds.letGo(false)
  }
}

function* sharedSteps<Result>(communicator: Communicator, plan: () => Planned<Result>, merges: boolean): Steps<Result> {
  let planned = undefined as unknown as Planned<Result>
  let shares: HiddenShares | undefined
  const all = yield* agreement(communicator, () => {
    planned = plan()
    shares = sharesOf(communicator, planned)
    return termsOf(planned, merges)
  })
  const { job, runner, result } = planned
  const columns = columnsOf(all, job)
  if (runner.settings.communicator !== undefined) {
    yield* exchangingJob(communicator, planned, columns, merges)
    return result()
  }
  const exchange = (stage: ForwardStage, loss: Job['tokenLoss']) =>
    new SegmentExchange(
      stage,
      loss,
      job.tokens as SharedTokens,
      columns,
      communicator.rank,
      merges,
      runner.backend.name,
    )
  const policy = exchange(job.policy as ForwardStage, job.tokenLoss)
  const exchanges = job.reference ? [policy, exchange(job.reference, undefined)] : [policy]

  const [sweptPolicy, sweptReference] = exchanges.map((each) => each.swept())
  const kept = memoryOfLogits(planned)
  if (kept) sweptPolicy.segments.keptLogits = kept
  const sweep: Job = { tokens: job.tokens, policy: sweptPolicy, reference: sweptReference, tokenLoss: job.tokenLoss }
  let problem: { error: unknown } | undefined
  try {
    runner.settings.signal?.throwIfAborted() // it may have been while the ranks agreed
    yield jobStep(runner, sweep, runner.settings)
    checkUnchanged(planned.watched)
  } catch (error) {
    problem = { error }
  }
  const own = headerOf(() => {
    if (problem) throw problem.error
    return { call: 'the states of segments' }
  })
  const message = new Uint8Array(HEADER_BYTES + exchanges.reduce((bytes, each) => bytes + each.byteLength, 0))
  message.set(own.header)
  const parts = partsOf(exchanges)
  if (!problem) {
    for (const [i, { segments }] of [sweptPolicy, sweptReference].slice(0, exchanges.length).entries()) {
      exchanges[i].pack(segments, parts[i](message))
    }
  }
  const gathered = yield* gather(communicator, message)
  const messages = Array.from({ length: communicator.size }, (_, r) => {
    return gathered.subarray(r * message.byteLength, (r + 1) * message.byteLength)
  })
  numbersOf(headersOf(messages), communicator.rank, own)

  const [policyStage, referenceStage] = exchanges.map((each, i) => each.gathered(messages.map(parts[i])))
  if (policyStage.segments && kept) policyStage.segments.keptLogits = kept
  const rest: Job = { ...job, policy: policyStage }
  if (referenceStage) rest.reference = referenceStage
  yield* finish(communicator, { ...planned, job: rest }, shares)
  return result()
}

/** A gradient of an output layer that is asked for later; undefined where no gradient is. */
export function* sharedBackward<Result>(
  communicator: Communicator,
  plan: () => Planned<Result> | undefined,
): Steps<Result | undefined> {
  const holds = noHolds()
  try {
    let planned: Planned<Result> | undefined
    let shares: HiddenShares | undefined
    yield* agreement(communicator, () => {
      planned = plan()
      if (planned === undefined) return { call: 'no gradient' }
      planned = heldBy(holds, planned)
      shares = sharesOf(communicator, planned)
      return termsOf(planned, false)
    })
    if (planned === undefined) return undefined
    if (planned.runner.settings.communicator === undefined) yield* finish(communicator, planned, shares)
    else yield* exchangingJob(communicator, planned, [], false)
    return planned.result()
  } finally {
    holds.letGo(false)
  }
}

/** Takes hold of a call's device memory from now on, rather than in each of its jobs: it may be disposed of meanwhile. */
function heldBy<Result>(holds: ReturnType<typeof noHolds>, planned: Planned<Result>): Planned<Result> {
  const { backend, settings } = planned.runner
  holds.add(settings.needs ?? [])
  return { ...planned, runner: { backend, settings: { ...settings, needs: undefined } } }
}

/** Memory for this rank's share of the gradient of an output layer's input, if that is wanted. */
function sharesOf(communicator: Communicator, { job, runner }: Planned<unknown>): HiddenShares | undefined {
  const stage = job.headGradient
  // Over NCCL it is the job that adds up.
  if (stage?.hidden === undefined || runner.settings.communicator !== undefined) return undefined
  return new HiddenShares(communicator, (job.tokens as Tokens).targets, stage.head.hidden.vocab)
}

/** The job that makes the results; with an output layer, the sum of its input's gradient over the ranks. */
function* finish(
  communicator: Communicator,
  { job, runner, watched }: Planned<unknown>,
  shares: HiddenShares | undefined,
): Steps<void> {
  const settings = { ...runner.settings, signal: undefined }
  const stage = job.headGradient
  if (stage?.hidden === undefined || shares === undefined) {
    yield jobStep(runner, job, settings)
    checkUnchanged(watched)
    return
  }
  const { own } = shares
  const onHiddenRows = (row: number) => shares.begin(row)
  let problem: { error: unknown } | undefined
  try {
    const there = typeof stage.hidden === 'bigint' ? newCudaMemory(own.byteLength, settings.device ?? 0) : undefined
    const hidden = there ? BigInt(there.ptr) : own
    const headGradient: HeadGradientStage = { ...stage, hidden, sharesHidden: true, skipInactive: false }
    yield jobStep(runner, { ...job, headGradient }, { ...settings, onHiddenRows })
    if (there) {
      yield copyToHost(own, BigInt(there.ptr), settings)
      there.dispose()
    }
    checkUnchanged(watched)
  } catch (error) {
    problem = { error }
  }
  // A rank whose job has failed takes part all the same, and tells the others after that.
  yield shares.end()
  yield* agreement(communicator, () => {
    if (problem) throw problem.error
    return { call: "the gradient of an output layer's input" }
  })
  if (typeof stage.hidden !== 'bigint') return shares.put(stage, stage.hidden as HostArray)
  // On the way back from the host, with what stays there.
  const elements = new (stage.dtype === 'float32' ? Float32Array : Uint16Array)(own.length)
  if (stage.accumulate || stage.skipInactive) yield copyToHost(elements, stage.hidden, settings)
  shares.put(stage, elements)
  yield copyToDevice(stage.hidden, elements, settings)
}

/** Memory for the logits of an output layer that are kept from the sweep to the gradients, or undefined. */
function memoryOfLogits({ job, runner }: Planned<unknown>): Float32Array | undefined {
  const { headGradient, tokens } = job
  // The other backends multiply again.
  if (headGradient?.logitsBudget === undefined || runner.backend.name !== 'cpu') return undefined
  const stride = 16 * Math.ceil(headGradient.logits.vocab / 16)
  const active = (tokens as Tokens).targets.reduce((count, target) => (target >= 0 ? count + 1 : count), 0)
  const rows = Math.min(active, Math.floor(headGradient.logitsBudget / (4 * stride)))
  try {
    return rows > 0 ? new Float32Array(rows * stride) : undefined
  } catch {
    return undefined // memory is short
  }
}

/** What all ranks must have in common, and the columns that this one has. */
export function termsOf({ job, runner }: Planned<unknown>, merges: boolean): Terms {
  const { backend, settings } = runner
  if (backend.name === 'webgpu') {
    throw invalidValue('options.shard', "is not for the webgpu backend; 'cuda', 'cpu', 'wasm' and 'js' take it")
  }
  const { start } = (job.tokens as SharedTokens).shard
  const { vocab } = (job.policy ?? job.headGradient ?? job.gradient)!.logits
  return {
    call: `backend '${backend.name}'${settings.communicator ? ' over NCCL' : ''}, segments '${merges ? 'merged' : 'exact'}'`,
    equal: equalParts(job),
    numbers: [start, start + vocab],
  }
}

/** The columns of all ranks, which must be those of the vocabulary, each once. */
export function columnsOf(all: readonly number[][], { tokens }: Job): Columns[] {
  const { vocab } = (tokens as SharedTokens).shard
  const columns = all.map(([start, end]) => ({ start, end }))
  let next = 0
  for (const { start, end } of [...columns].sort((a, b) => a.start - b.start)) {
    if (start < next) {
      const problem = `gives columns ${start} to ${Math.min(end, next)} to more than one rank`
      throw invalidValue('options.shard', `${problem}: each rank must have columns of its own`)
    }
    if (start > next) throw invalidValue('options.shard', `gives columns ${next} to ${start} to no rank`)
    next = end
  }
  if (next < vocab) throw invalidValue('options.shard', `gives columns ${next} to ${vocab} to no rank`)
  return columns
}

function jobStep({ backend }: Runner, job: Job, settings: RunSettings): Step {
  return { run: () => backend.run(job, settings), runSync: () => backend.runSync(job, settings) }
}

function headersOf(messages: readonly Uint8Array[]): Uint8Array {
  const headers = new Uint8Array(messages.length * HEADER_BYTES)
  for (const [r, message] of messages.entries()) headers.set(message.subarray(0, HEADER_BYTES), r * HEADER_BYTES)
  return headers
}

/** Where each stage's part of a message is. */
function partsOf(exchanges: readonly SegmentExchange[]): ((message: Uint8Array) => Uint8Array)[] {
  let at = HEADER_BYTES
  return exchanges.map(({ byteLength }) => {
    const begin = at
    at += byteLength
    return (message) => message.subarray(begin, begin + byteLength)
  })
}
