/**
 * A job as a series of jobs that fit the memory of the module. Each of them has a few rows of logits, or none: logits
 * and their gradient pass through that memory a chunk at a time. The bits are those of the job as a whole.
 *
 * What an output layer takes is not divided.
 */
import type {
  ForwardStage,
  GradientStage,
  Job,
  Rows,
  SegmentStates,
  TokenCoefficients,
  TokenLossStage,
  Tokens,
} from '../../job.js'

/** Elements of the state of a row. */
const STATE_SIZE = 4

/** A job of the series. */
export interface JobPart {
  job: Job
  /** It takes results of the parts before it, which have to be done. */
  follows: boolean
  /** It is one of several that write to the caller's arrays: from here on the series cannot be aborted. */
  writes: boolean
}

/** The parts of a job, with at most `most` bytes of logits in each, but at least one row. */
export function* partsOf(given: Job, most: number, cancellable: boolean): Generator<JobPart, void> {
  const job = withoutUnread(given)
  const { policy, reference, gradient, tokenLoss } = job
  const tokens = job.tokens as Tokens
  if (bytesOfLogits(policy, gradient) + bytesOfLogits(reference) <= most) {
    yield { job, follows: false, writes: false }
    return
  }
  if (policy?.segments?.bounds) {
    yield* segmentParts(job, most)
    return
  }
  const rest: Job = { ...job }
  if (reference && bytesOfLogits(reference) > 0) {
    rest.reference = yield* swept(reference, tokens, most)
  }
  if (tokenLoss && policy && bytesOfLogits(policy) > 0) {
    yield* tokenLossParts(job, most, cancellable)
    return
  }
  if (policy && bytesOfLogits(policy) > 0) rest.policy = yield* swept(policy, tokens, most)
  if (gradient === undefined) {
    if (rest.policy) yield { job: rest, follows: true, writes: false }
    return
  }
  const stage: GradientStage = { ...gradient, states: rest.policy?.states ?? gradient.states }
  if (rest.policy) {
    if (rest.loss && tokens.plainWeights) stage.plainCoefficients = new Float64Array(rest.policy.logProbs.length)
    // Without memory for it, the gradient is left to the parts that follow.
    rest.gradient = {
      ...stage,
      logits: sizesOf(stage.logits),
      out: sizesOf(stage.out),
      tokenCoefficients: undefined,
      rowScale: undefined,
    }
    yield { job: rest, follows: true, writes: false }
  }
  let follows = rest.policy !== undefined
  for (const [first, last] of chunks(tokens, [stage.logits, stage.out], most, stage.skipInactive === true)) {
    const part = { tokens: tokensOf(tokens, first, last), gradient: gradientOf(stage, tokens, first, last) }
    yield { job: part, follows, writes: true }
    follows = false
  }
}

/** The job without logits that it does not read: those of a stage that begins from states, with no gradient after it. */
function withoutUnread(job: Job): Job {
  const { policy, reference, gradient } = job
  const known = (stage: ForwardStage | undefined) => stage?.segments !== undefined && !stage.segments.bounds
  const out: Job = { ...job }
  if (policy && known(policy) && !gradient) out.policy = { ...policy, logits: sizesOf(policy.logits) }
  if (reference && known(reference)) out.reference = { ...reference, logits: sizesOf(reference.logits) }
  return out
}

/** The stage with what its parts leave for logWeights, which are of whole sequences. */
function withSquares(stage: ForwardStage): ForwardStage {
  if (!stage.logWeights || stage.sumSquaredProbs) return stage
  return { ...stage, sumSquaredProbs: new Float32Array(stage.logits.batch * stage.logits.time) }
}

/** A job that leaves states of segments, in parts. */
function* segmentParts({ policy, reference, tokenLoss, ...job }: Job, most: number): Generator<JobPart, void> {
  const tokens = job.tokens as Tokens
  for (const given of [policy, reference]) {
    if (given === undefined) continue
    const stage = withSquares(given)
    for (const [first, last] of chunks(tokens, [stage.logits], most, true)) {
      const part: Job = { tokens: tokensOf(tokens, first, last), policy: forwardOf(stage, tokens, first, last) }
      if (tokenLoss) part.tokenLoss = tokenLossOf(tokenLoss, first, last)
      yield { job: part, follows: false, writes: false }
    }
  }
}

/** Stage 1 in parts; gives the stage with what they leave. */
function* swept(stage: ForwardStage, tokens: Tokens, most: number): Generator<JobPart, ForwardStage> {
  const rows = stage.logits.batch * stage.logits.time
  const whole = { ...withSquares(stage), states: stage.states ?? new Float64Array(STATE_SIZE * rows) }
  if (stage.segments) return { ...whole, logits: sizesOf(stage.logits) }
  for (const [first, last] of chunks(tokens, [stage.logits], most, true)) {
    const job = { tokens: tokensOf(tokens, first, last), policy: forwardOf(whole, tokens, first, last) }
    yield { job, follows: false, writes: false }
  }
  return { ...whole, logits: sizesOf(stage.logits), swept: true }
}

/** A loss of single tokens is done with a row before it comes to the next. */
function* tokenLossParts(job: Job, most: number, cancellable: boolean): Generator<JobPart, void> {
  const { policy, gradient, tokenLoss } = job as Required<Pick<Job, 'policy' | 'tokenLoss'>> & Job
  const tokens = job.tokens as Tokens
  const rows = policy.logits.batch * policy.logits.time
  const whole: ForwardStage = { ...policy, states: policy.states ?? new Float64Array(STATE_SIZE * rows) }
  const tensors = gradient ? [policy.logits, gradient.out] : [policy.logits]
  const part = (first: number, last: number, stage?: GradientStage): Job => ({
    tokens: tokensOf(tokens, first, last),
    policy: forwardOf(whole, tokens, first, last),
    tokenLoss: tokenLossOf(tokenLoss, first, last),
    gradient: stage && gradientOf(stage, tokens, first, last),
  })
  // One that may be aborted reads everything before it writes anything, and then once more.
  if (gradient && cancellable) {
    for (const [first, last] of chunks(tokens, tensors, most, true)) {
      yield { job: part(first, last), follows: false, writes: false }
    }
  }
  let follows = true
  for (const [first, last] of chunks(tokens, tensors, most, !gradient || gradient.skipInactive === true)) {
    yield { job: part(first, last, gradient), follows, writes: gradient !== undefined }
    follows = false
  }
  const sums = { ...whole, logits: sizesOf(policy.logits), swept: true, segments: undefined }
  yield { job: { tokens, policy: sums, tokenLoss }, follows: true, writes: false }
}

/**
 * Runs of rows with at most `most` bytes, whose rows are all equally far apart. Those without an active row are left out,
 * if that is asked for.
 */
function* chunks(
  { targets }: Tokens,
  tensors: readonly Rows[],
  most: number,
  active: boolean,
): Generator<[number, number], void> {
  const [{ batch, time, vocab, data }] = tensors
  const count = batch * time
  const step = Math.max(1, Math.floor(most / (vocab * (data as Uint16Array).BYTES_PER_ELEMENT)))
  const isEven = tensors.every(({ batchStride, timeStride }) => batchStride === time * timeStride)
  for (let first = 0; first < count; ) {
    if (active && targets[first] < 0) {
      first++
      continue
    }
    let last = Math.min(isEven ? count : Math.floor(first / time + 1) * time, first + step)
    while (active && targets[last - 1] < 0) last--
    yield [first, last]
    first = last
  }
}

function tokensOf(tokens: Tokens, first: number, last: number): Tokens {
  const [begin, end] = sequencesOf(tokens, first, last)
  const offsets = tokens.offsets.slice(begin, end + 1)
  for (let s = 0; s < offsets.length; s++) offsets[s] = Math.min(Math.max(offsets[s], first), last) - first
  return {
    ...tokens,
    targets: tokens.targets.subarray(first, last),
    weights: tokens.weights?.subarray(first, last),
    plainWeights: tokens.plainWeights?.subarray(first, last),
    offsets,
    counts: tokens.counts.subarray(begin, end),
  }
}

/** The sequences that have rows first .. last. */
function sequencesOf({ offsets }: Tokens, first: number, last: number): [number, number] {
  return [sequenceAt(offsets, first), sequenceAt(offsets, last - 1) + 1]
}

/** The last sequence that begins at this row or before it. */
function sequenceAt(offsets: Int32Array, row: number): number {
  let low = 0
  let high = offsets.length - 2
  while (low < high) {
    const middle = Math.ceil((low + high) / 2)
    if (offsets[middle] <= row) low = middle
    else high = middle - 1
  }
  return low
}

function forwardOf(stage: ForwardStage, tokens: Tokens, first: number, last: number): ForwardStage {
  const [begin, end] = sequencesOf(tokens, first, last)
  const { segments } = stage
  return {
    logits: rowsOf(stage.logits, first, last),
    segments: segments && segmentsOf(segments, stage.logits.batch * stage.logits.time, first, last),
    logProbs: new Float64Array(end - begin),
    states: stage.states?.subarray(STATE_SIZE * first, STATE_SIZE * last),
    entropies: stage.entropies?.subarray(first, last),
    tokenLogProbs: stage.tokenLogProbs?.subarray(first, last),
    tokenEntropies: stage.tokenEntropies?.subarray(first, last),
    tokenArgmax: stage.tokenArgmax?.subarray(first, last),
    logSumExp: stage.logSumExp?.subarray(first, last),
    sumSquaredProbs: stage.sumSquaredProbs?.subarray(first, last),
    tokenMeanLogits: stage.tokenMeanLogits?.subarray(first, last),
  }
}

function tokenLossOf(stage: TokenLossStage, first: number, last: number): TokenLossStage {
  return { ...stage, losses: stage.losses.subarray(first, last), summary: new Float64Array(1) }
}

function segmentsOf(segments: SegmentStates, rows: number, first: number, last: number): SegmentStates {
  const { states, labelLogits } = segments
  const size = states.length / rows
  return {
    ...segments,
    states: states.subarray(size * first, size * last),
    labelLogits: labelLogits.subarray(first, last),
  }
}

function gradientOf(stage: GradientStage, tokens: Tokens, first: number, last: number): GradientStage {
  const [begin, end] = sequencesOf(tokens, first, last)
  return {
    ...stage,
    logits: rowsOf(stage.logits, first, last),
    out: rowsOf(stage.out, first, last),
    states: stage.states?.subarray(STATE_SIZE * first, STATE_SIZE * last),
    entropies: stage.entropies?.subarray(first, last),
    tokenCoefficients: stage.tokenCoefficients && coefficientsOf(stage.tokenCoefficients, first, last),
    coefficients: stage.coefficients.subarray(begin, end),
    plainCoefficients: stage.plainCoefficients?.subarray(begin, end),
    rowScale: stage.rowScale?.subarray(first, last),
  }
}

function coefficientsOf(of: TokenCoefficients, first: number, last: number): TokenCoefficients {
  return {
    logProb: of.logProb?.subarray(first, last),
    logSumExp: of.logSumExp?.subarray(first, last),
    entropy: of.entropy?.subarray(first, last),
    meanLogit: of.meanLogit?.subarray(first, last),
  }
}

/** Rows first .. last, which are equally far apart. */
function rowsOf(rows: Rows, first: number, last: number): Rows {
  const { time, vocab, batchStride, timeStride } = rows
  const count = last - first
  const start = Math.floor(first / time) * batchStride + (first % time) * timeStride
  const data = (rows.data as Uint16Array).subarray(start, start + (count - 1) * timeStride + vocab)
  return { ...rows, data, batch: 1, time: count, batchStride: count * timeStride }
}

function sizesOf(rows: Rows): Rows {
  return { ...rows, data: NOTHING }
}

const NOTHING = new Float32Array(0)

function bytesOfLogits(forward?: ForwardStage, gradient?: GradientStage): number {
  const rows = forward?.head ? undefined : (forward?.logits ?? gradient?.logits)
  return rows === undefined ? 0 : bytesOf(rows)
}

export function bytesOf({ data, batch, time, vocab }: Rows): number {
  return batch * time * vocab * (data as Uint16Array).BYTES_PER_ELEMENT
}
