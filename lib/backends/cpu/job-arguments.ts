/**
 * A job as the addon takes it, in the order in which native/addon/job_reader.cc does: one array of numbers, which begins
 * with what kind of thing each array is, and then the arrays that have to be passed.
 */

import type { Head, Job, Rows, RunSettings } from '../../job.js'
import type { DType, FDivergence, InstructionSet, LossType } from '../../types/index.js'

/** Changes with this order: a binary of another build would read the arguments as something else. */
export const JOB_VERSION = 6

/** An array of the host's. */
export type NativeArray = Float64Array | Float32Array | Int32Array | Uint16Array

/** An array, none, or an address on the GPU. */
export type NativeArgument = NativeArray | bigint | undefined

/** What is passed to the addon. */
export type JobArgument = NativeArray | bigint

const DTYPES: Record<DType, number> = { float32: 0, float16: 1, bfloat16: 2 }
const DIVERGENCES: Record<FDivergence, number> = { reverse_kl: 0, forward_kl: 1, js: 2, alpha: 3 }

/** The most arrays of a job. */
export const MOST_ARRAYS = 45

/** Kinds of arrays; k > 0 is one of k - 1 elements that is in its slot of the arena, and not passed. */
const ABSENT = 0
const PASSED = -1
const ADDRESS = -2

/** Where small arrays are put for a call. */
export interface Slots {
  /** Puts an array into slot i, if it is small enough. */
  put(i: number, array: NativeArray): boolean
}

/** The arguments of jobs, for an addon that numbers its losses and instruction sets like this. */
export class JobArguments {
  private readonly lossCodes: ReadonlyMap<string, number>
  /** Read by the addon before it returns, so one array serves all calls. */
  private readonly numbers = new Float64Array(MOST_ARRAYS + 64 + 3 * 32)

  constructor(
    lossNames: readonly LossType[],
    private readonly instructionSets: readonly InstructionSet[],
    private readonly defaultSet: number,
  ) {
    this.lossCodes = new Map(lossNames.map((name, code) => [name, code]))
  }

  /** The arguments for a job and its arrays, those that are small put into slots, where there are any. */
  of(job: Job, settings: RunSettings, arrays = arraysOf(job, settings), slots?: Slots): JobArgument[] {
    const { numbers } = this
    const passed: JobArgument[] = [numbers]
    for (let i = 0; i < MOST_ARRAYS; i++) {
      const array = arrays[i]
      if (array === undefined) numbers[i] = ABSENT
      else if (typeof array === 'bigint') numbers[i] = ADDRESS
      else numbers[i] = slots?.put(i, array) ? array.length + 1 : PASSED
      if (numbers[i] < 0) passed.push(array as NativeArray | bigint)
    }
    this.setNumbers(job, settings)
    return passed
  }

  /** Whether array i of the last job is in its slot. */
  isInSlot(i: number): boolean {
    return this.numbers[i] > 0
  }

  private setNumbers(job: Job, settings: RunSettings): void {
    const { tokens, policy, reference, loss, gradient, headGradient } = job
    const terms = loss?.terms ?? []
    const { numbers } = this
    let at = MOST_ARRAYS
    const setRows = (rows: Rows | undefined) => {
      if (rows) {
        numbers[at] = DTYPES[rows.dtype]
        numbers[at + 1] = rows.batch
        numbers[at + 2] = rows.time
        numbers[at + 3] = rows.vocab
        numbers[at + 4] = rows.batchStride
        numbers[at + 5] = rows.timeStride
      }
      at += 6
    }
    numbers[at++] = settings.device ?? -1
    numbers[at++] = tokens?.labels?.wide ? 1 : 0
    numbers[at++] = tokens?.labels?.ignoreIndex ?? 0
    numbers[at++] = tokens?.labels?.shift ? 1 : 0
    numbers[at++] = settings.threads
    numbers[at++] = settings.instructionSet ? this.instructionSets.indexOf(settings.instructionSet) : this.defaultSet
    numbers[at++] = settings.signal ? 1 : 0
    numbers[at++] = (gradient ?? headGradient)?.skipInactive ? 1 : 0
    numbers[at++] = tokens?.temperature ?? 1
    numbers[at++] = tokens?.average ? 1 : 0
    numbers[at++] = tokens?.emptyLogProb ?? 0
    setRows((policy ?? gradient ?? headGradient)?.logits)
    setRows(reference?.logits)
    setRows(gradient?.out)
    if (loss) {
      numbers[at++] = loss.beta
      numbers[at++] = loss.gamma
      numbers[at++] = loss.rewardShift
      numbers[at++] = loss.discopopTau
      numbers[at++] = loss.alpha
      numbers[at++] = DIVERGENCES[loss.fDivergence]
      numbers[at++] = loss.average ? 1 : 0
      numbers[at++] = loss.pairDivisor ?? 0
      numbers[at++] = loss.tokenDivisor ?? 0
      numbers[at++] = terms.length
      for (const term of terms) {
        numbers[at++] = this.lossCodes.get(term.lossType) as number
        numbers[at++] = term.weight
        numbers[at++] = term.labelSmoothing
      }
    }
    if (policy?.head ?? headGradient) {
      for (const head of [(policy ?? headGradient)?.head, reference?.head]) {
        setRows(head?.hidden)
        numbers[at++] = DTYPES[head?.weight.dtype ?? 'float32']
        numbers[at++] = head?.weight.rowStride ?? 0
        numbers[at++] = head?.weight.columnStride ?? 0
        numbers[at++] = DTYPES[head?.bias?.dtype ?? 'float32']
      }
      numbers[at++] = headGradient?.accumulate ? 1 : 0
    }
  }
}

/** The arrays in the addon's order: those it only reads, then those it writes; those of heads last, if there are any. */
export function arraysOf(job: Job, { stream }: RunSettings): NativeArgument[] {
  const { tokens, policy, reference, loss, gradient, headGradient } = job
  const arrays = [
    tokens?.targets,
    tokens?.weights,
    tokens?.plainWeights,
    tokens?.offsets,
    tokens?.counts,
    (policy ?? gradient)?.logits.data as NativeArgument,
    reference?.logits.data as NativeArgument,
    loss?.pairs,
    loss?.chosenLengths,
    loss?.rejectedLengths,
    tokens?.labels?.data,
    tokens?.labels?.mask,
    stream,
    (policy ?? gradient ?? headGradient)?.states,
    policy?.logProbs,
    policy?.logWeights,
    policy?.tokenLogProbs,
    policy?.tokenEntropies,
    policy?.tokenArgmax,
    policy?.logSumExp,
    policy?.sumSquaredProbs,
    reference?.logProbs,
    loss?.chosen,
    loss?.rejected,
    loss?.referenceChosen,
    loss?.referenceRejected,
    loss?.pairWeights,
    loss?.losses,
    loss?.chosenRewards,
    loss?.rejectedRewards,
    loss?.gradChosen,
    loss?.gradRejected,
    loss?.summary,
    gradient?.out.data as NativeArgument,
    (gradient ?? headGradient)?.coefficients,
    tokens?.labels?.invalid,
  ]
  const head = (policy ?? headGradient)?.head
  if (head) {
    arrays.push(headGradient?.hidden, headGradient?.weight, headGradient?.bias)
    arrays.push(...arraysOfHead(head), ...arraysOfHead(reference?.head))
  }
  return arrays
}

function arraysOfHead(head: Head | undefined): NativeArgument[] {
  return [head?.hidden.data, head?.weight.data, head?.bias?.data] as NativeArgument[]
}

/** Where in {@link arraysOf} those it writes begin, and end. */
export const FIRST_RESULT = 13
export const RESULTS_END = 39
