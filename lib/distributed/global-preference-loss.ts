/**
 * `globalPreferenceLoss`: stage 3 over the pairs of all ranks, for losses that look at a whole batch.
 */
import { hashOfText } from '../call/agreement.js'
import { checkedSignal, RUN_OPTIONS } from '../call/run.js'
import { gather, runSteps, runStepsSync, type Step, type Steps } from '../call/steps.js'
import { optionsObject } from '../check/options.js'
import { invalidType, invalidValue } from '../errors.js'
import { preferenceLoss, preferenceLossSync } from '../index.js'
import type { PreferenceOptions } from '../options/index.js'
import { LOSS_OPTIONS } from '../options/loss-options.js'
import type { Communicator, PairLogProbs, PreferenceLoss } from '../types/index.js'
import { agreed } from './agreed.js'

const OPTIONS: ReadonlySet<string> = new Set([...LOSS_OPTIONS, ...RUN_OPTIONS])
const LOG_PROBS = [
  ...['chosen', 'rejected', 'referenceChosen', 'referenceRejected', 'chosenTokenCounts', 'rejectedTokenCounts'],
] as readonly (keyof PairLogProbs)[]
/** The options that may have a number for each pair. */
const PER_PAIR = ['beta', 'labelSmoothing', 'offset', 'pairWeights', 'targetMargin'] as const
const COLUMNS = [...LOG_PROBS, ...PER_PAIR]

/** The pairs of this rank, by column. */
interface Own {
  size: number
  /** Numbers of the pairs; undefined for what is not there. */
  columns: (ArrayLike<number | bigint> | undefined)[]
  /** Options that are not columns. */
  options: PreferenceOptions
}

/**
 * `preferenceLoss` over the pairs of all ranks in the order of ranks. `aot` and `aot_unpaired`, which sort the batch, need it;
 * other losses can do with `globalCounts`. Sends the log-probs, 16 to 88 bytes a pair, and computes all pairs on every rank.
 * With `gradLogProbs` for `backward` of `sequenceLogProbs`, the gradients of the ranks add up (`sumGradients`) to that of
 * the one large batch.
 *
 * @param communicator the ranks, all of which call this.
 * @param logProbs of this rank's pairs; undefined on a rank that has none, which takes part all the same.
 * @param options of `preferenceLoss`: the same on every rank, but for arrays with a number per pair, which are of this
 *   rank's pairs, and for where the call runs.
 * @returns loss, accuracy and margin of all pairs; losses, rewards and gradients of this rank's.
 * @throws as `preferenceLoss`; Error `ERR_RANK_FAILED` where another rank has failed; the communicator's errors.
 */
export function globalPreferenceLoss(
  communicator: Communicator,
  logProbs: PairLogProbs | undefined,
  options?: PreferenceOptions,
): Promise<PreferenceLoss> {
  return runSteps(steps(communicator, logProbs, options))
}

/** {@link globalPreferenceLoss} on the calling thread. */
export function globalPreferenceLossSync(
  communicator: Communicator,
  logProbs: PairLogProbs | undefined,
  options?: PreferenceOptions,
): PreferenceLoss {
  return runStepsSync(steps(communicator, logProbs, options))
}

function* steps(
  communicator: Communicator,
  logProbs: PairLogProbs | undefined,
  given: PreferenceOptions | undefined,
): Steps<PreferenceLoss> {
  let own: Own = { size: 0, columns: [], options: {} }
  const ranks = yield* agreed(communicator, () => {
    own = ownOf(logProbs, given)
    const shared = Object.entries(own.options).filter(([name]) => !(RUN_OPTIONS as readonly string[]).includes(name))
    const present = COLUMNS.reduce((bits, _, i) => bits + (own.columns[i] === undefined ? 0 : 2 ** i), 0)
    return {
      call: 'globalPreferenceLoss',
      equal: { 'the options of the loss': hashOfText(JSON.stringify(shared.sort())) },
      numbers: [own.size, present],
    }
  })
  const [[, present] = [0, 0], ...others] = ranks.filter(([size]) => size > 0)
  if (present === 0) throw invalidValue('logProbs', 'has no pair on any rank')
  if (others.some(([, ofRank]) => ofRank !== present)) {
    throw invalidValue('logProbs', 'and the options with a number per pair must have the same names on every rank')
  }
  const names = COLUMNS.filter((_, i) => Math.floor(present / 2 ** i) % 2 === 1)
  const all = yield* columnsOfAll(
    communicator,
    ranks.map(([size]) => size),
    names,
    own,
  )
  const ofPairs = Object.fromEntries(LOG_PROBS.map((name) => [name, all[name]])) as unknown as PairLogProbs
  const perPair = Object.fromEntries(PER_PAIR.filter((name) => names.includes(name)).map((name) => [name, all[name]]))
  const options = { ...own.options, ...perPair }
  let result: PreferenceLoss | undefined
  const compute: Step = {
    async run() {
      result = await preferenceLoss(ofPairs, options)
    },
    runSync() {
      result = preferenceLossSync(ofPairs, options)
    },
  }
  yield compute
  const first = ranks.slice(0, communicator.rank).reduce((sum, [size]) => sum + size, 0)
  return partOf(result as PreferenceLoss, first, first + own.size)
}

/** Checks what this rank brings, by the loss of its own pairs. */
function ownOf(logProbs: PairLogProbs | undefined, given: PreferenceOptions | undefined): Own {
  const options = optionsObject(given, 'options', OPTIONS)
  if (options.signal !== undefined) checkedSignal(options.signal).throwIfAborted()
  const perPair = PER_PAIR.map((name) => (typeof options[name] === 'object' ? options[name] : undefined))
  const rest = { ...options }
  for (const [i, name] of PER_PAIR.entries()) if (perPair[i] !== undefined) delete rest[name]
  if (logProbs === undefined) return { size: 0, columns: [], options: rest }
  if (typeof logProbs !== 'object' || logProbs === null) {
    throw invalidType('logProbs', 'an object { chosen, rejected, … }', logProbs)
  }
  const columns = LOG_PROBS.map((name) => logProbs[name])
  const copied = Object.fromEntries(LOG_PROBS.map((name, i) => [name, columns[i]])) as unknown as PairLogProbs
  const { losses } = preferenceLossSync(copied, options)
  return { size: losses.length, columns: [...columns, ...perPair] as Own['columns'], options: rest }
}

/** The columns of these names, of all ranks one behind the other. */
function* columnsOfAll(
  communicator: Communicator,
  sizes: readonly number[],
  names: readonly string[],
  { size, columns }: Own,
): Steps<Record<string, Float64Array>> {
  const most = Math.max(...sizes)
  const send = new Float64Array(names.length * most)
  for (const [i, name] of names.entries()) {
    const column = columns[COLUMNS.indexOf(name as (typeof COLUMNS)[number])]
    for (let pair = 0; pair < size; pair++) send[i * most + pair] = Number(column![pair])
  }
  const bytes = yield* gather(communicator, new Uint8Array(send.buffer))
  const received = new Float64Array(bytes.buffer)
  const columnOf = (i: number) =>
    sizes.flatMap((count, rank) => {
      const start = (rank * names.length + i) * most
      return [...received.subarray(start, start + count)]
    })
  return Object.fromEntries(names.map((name, i) => [name, Float64Array.from(columnOf(i))]))
}

/** The result with the pairs from `first` to `end`. */
function partOf(result: PreferenceLoss, first: number, end: number): PreferenceLoss {
  const { losses, chosenRewards, rejectedRewards, gradLogProbs } = result
  const part = (values: Float64Array) => values.slice(first, end)
  return {
    ...result,
    losses: part(losses),
    chosenRewards: part(chosenRewards),
    rejectedRewards: part(rejectedRewards),
    gradLogProbs: { chosen: part(gradLogProbs.chosen), rejected: part(gradLogProbs.rejected) },
  }
}
