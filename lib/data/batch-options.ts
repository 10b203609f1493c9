/**
 * The options of `preferenceBatches` and `unpairedBatches`.
 */
import { integer, oneOf, optionsObject } from '../check/options.js'
import { invalidType } from '../errors.js'
import { type OnWarning, warner, warnerOnce } from './warnings.js'

/** Options of {@link preferenceBatches}. */
export interface BatchOptions {
  /**
   * Text to token ids. Adds no special tokens of its own (`add_special_tokens: false`); those of a chat template are
   * in the text, and those that are not come from `bosId` and `eosId`.
   */
  tokenizer: (text: string) => ArrayLike<number>
  /** Pairs of a batch (records, where each is one sequence); the last batch may have fewer. */
  batchSize: number
  /** Most tokens of a sequence. Defaults to no limit. */
  maxLength?: number | undefined
  /**
   * Most tokens of a prompt; what is dropped is its start. Defaults to what `maxLength` leaves beside the longer
   * completion, and at least half of `maxLength`.
   */
  maxPromptLength?: number | undefined
  /**
   * 'padded': `[batch, time]`, padded at the end. 'packed': all sequences one behind the other, `[tokens]`, with
   * `sequenceOffsets`. Defaults to 'padded'.
   */
  layout?: 'padded' | 'packed' | undefined
  /** Make the time of padded batches a multiple of this, for trainers that compile for every shape. Defaults to 1. */
  padToMultipleOf?: number | undefined
  /** Fills `inputIds` past the end of a sequence. Defaults to 0. */
  padId?: number | undefined
  /**
   * Begins every sequence, and is not dropped with the start of a prompt. Not added to a prompt that begins with it.
   * Defaults to none.
   */
  bosId?: number | undefined
  /** Ends every completion that is not cut. Not added where one ends with it, white space aside. Defaults to none. */
  eosId?: number | undefined
  /** The label of tokens that do not count. Defaults to -100. */
  ignoreIndex?: number | undefined
  /** What becomes of a pair whose sequences are the same: it stays, or is left out with a warning. Defaults to 'keep'. */
  onIdentical?: 'keep' | 'skip' | undefined
  /**
   * Is told of every empty completion, of the first pair whose sequences are the same and of every such pair that is
   * left out, and once of special tokens that are there already. Defaults to a warning of the process for each.
   */
  onWarning?: OnWarning | undefined
}

/** The names of {@link BatchOptions}. */
export const BATCH_OPTIONS: ReadonlySet<string> = new Set([
  'tokenizer',
  'batchSize',
  'maxLength',
  'maxPromptLength',
  'layout',
  'padToMultipleOf',
  'padId',
  'bosId',
  'eosId',
  'ignoreIndex',
  'onIdentical',
  'onWarning',
])
const ON_IDENTICAL = ['keep', 'skip'] as const
const LAYOUTS = ['padded', 'packed'] as const
/** The most tokens of a batch, and the largest token id. */
export const MAX = 2 ** 31 - 1

/** The options, checked. */
export type Settings = ReturnType<typeof settingsOf>

/** Checks the options, whose names are in `known`. */
export function settingsOf(options: BatchOptions, known: ReadonlySet<string> = BATCH_OPTIONS) {
  if (options === undefined) throw invalidType('options', 'an object', options)
  const given = optionsObject(options, 'options', known)
  const { tokenizer } = given
  if (typeof tokenizer !== 'function') throw invalidType('options.tokenizer', 'a function', tokenizer)
  const optional = (name: keyof BatchOptions, low: number, high = MAX): number | undefined =>
    given[name] === undefined ? undefined : integer(given[name], `options.${name}`, low, high)
  const bosId = optional('bosId', 0)
  // A token of the prompt to predict from, and one to predict.
  const maxLength = optional('maxLength', bosId === undefined ? 2 : 3)
  const warn = warner(given.onWarning)
  return {
    tokenizer,
    bosId,
    maxLength,
    batchSize: integer(given.batchSize, 'options.batchSize', 1, MAX),
    maxPromptLength: optional('maxPromptLength', bosId === undefined ? 0 : 1, maxLength && maxLength - 1),
    packed: oneOf(given.layout, 'options.layout', LAYOUTS, 'padded') === 'packed',
    multiple: optional('padToMultipleOf', 1) ?? 1,
    padId: optional('padId', 0) ?? 0,
    eosId: optional('eosId', 0),
    ignoreIndex: optional('ignoreIndex', -MAX) ?? -100,
    skipsIdentical: oneOf(given.onIdentical, 'options.onIdentical', ON_IDENTICAL, 'keep') === 'skip',
    warn,
    warnOnce: warnerOnce(warn),
  }
}
