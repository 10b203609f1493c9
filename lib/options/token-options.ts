/**
 * The token options: each is declared here and nowhere else. Letters in shapes: B sequences, T positions, P pairs,
 * S sequences of a packed batch.
 */
import { positive as positiveNumber, unknownName } from '../check/options.js'
import { invalidType } from '../errors.js'
import type { DeviceData, Indices, TokenValues } from '../types/index.js'
import {
  between,
  flag,
  type Given,
  integer,
  list,
  namesOf,
  oneOf,
  option,
  optionTable,
  perLabel,
  positive,
} from './option.js'

/** The per-token results that can be asked for. */
export const TOKEN_OUTPUTS = [
  'tokenLogProbs',
  'tokenEntropies',
  'tokenArgmax',
  'logSumExp',
  'sumSquaredProbs',
  'tokenMeanLogits',
] as const

/** Names of the per-token results that can be asked for; see {@link TokenOptions.outputs}. */
export type TokenOutput = (typeof TOKEN_OUTPUTS)[number]

/** The declarations. */
export const tokenOptions = optionTable({
  /** Logits at position t predict the label at t + 1 (no copy is made). Defaults to true. */
  shift: flag(true),
  /** Positions with this label are inactive. Defaults to -100. */
  ignoreIndex: integer(-100),
  /**
   * `[B, T]`, aligned with the labels: 0 or false where inactive. Logits are never read there. With labels in device
   * memory it is there too, one byte per label.
   */
  mask: perLabel<TokenValues | DeviceData>(),
  /**
   * `[B, T]`, aligned with the labels: factor of each token's log-prob in its sequence's sum. A token of factor 0 takes
   * no part in the sum, whatever its logits are, but still counts in the length (`mask` also removes it from the
   * length). Defaults to 1.
   */
  tokenWeights: perLabel<ArrayLike<number>>(),
  /** Divide each sum by the number of active tokens. Defaults to false. */
  averageLogProb: flag(false),
  /**
   * The logits, as scaled and capped, are divided by this, in [1e-3, 1e3]. So are they by temperature / logitScale and,
   * capped, by temperature / logitSoftcap, which have to be in this range, too. Defaults to 1.
   */
  temperature: between(1e-3, 1e3, 1),
  /** The logits (of an output layer: with the bias) are multiplied by this, a finite number > 0. Defaults to 1. */
  logitScale: positive(1),
  /**
   * Soft-capped logits, as Gemma's: after `logitScale` and before `temperature`, a logit x becomes C · tanh(x / C) with this
   * C, a finite number > 0. null, as in models' configurations, is none. Defaults to null.
   */
  logitSoftcap: option<number | null>(null, (value, name) => (value === null ? null : positiveNumber(value, name, 1))),
  /** `[S + 1]` rising row offsets of packed sequences ("cu_seqlens"): first 0, last the number of tokens. */
  sequenceOffsets: list<Indices>(),
  /**
   * The result for a sequence without active tokens: log-prob 0, NaN, or an error. With labels in device memory the error
   * is thrown at the end of the call, when the gradient has been written, in place or added to an array, too; of a prepared
   * call, only `read` throws it. Defaults to 'zero', with one warning of the process if no token of a call is active.
   */
  emptySequence: oneOf(['zero', 'nan', 'error'], 'zero'),
  /** Per-token results to return beside the sums, from the same sweep over the logits. Defaults to none. */
  outputs: option<readonly TokenOutput[]>([], namesOfOutputs),
  /**
   * LD-DPO (Liu et al. 2024): weight of the tokens past the length of the pair's shorter response, in [0, 1], under
   * policy and reference; lengths stay the numbers of active tokens, and 'sft' takes all tokens alike. Defaults to 1.
   * Every sequence may then be in at most one pair.
   */
  ldAlpha: between(0, 1, 1),
  /**
   * `[2 P]` (chosen sequence, rejected sequence) per pair. Defaults to first half chosen, second half rejected.
   * One chosen sequence may stand against many rejected ones.
   */
  pairs: list<Indices>(),
})

/** Which tokens count, and how they are summed. */
export interface TokenOptions extends Given<typeof tokenOptions> {}

/** The names of {@link TokenOptions}. */
export const TOKEN_OPTIONS = namesOf(tokenOptions)

type Table = typeof tokenOptions

/** The names of the arrays among them. */
export type TokenArray = { [Name in keyof Table]: Table[Name] extends { array: string } ? Name : never }[keyof Table]

export const TOKEN_ARRAYS = TOKEN_OPTIONS.filter((name) => tokenOptions[name].array !== undefined) as TokenArray[]

function namesOfOutputs(value: unknown, name: string): readonly TokenOutput[] {
  if (!Array.isArray(value)) throw invalidType(name, 'an array of names of per-token results', value)
  const names: TokenOutput[] = []
  for (let i = 0; i < value.length; i++) {
    const output = value[i]
    if (typeof output !== 'string') throw invalidType(`${name}[${i}]`, 'the name of a per-token result', output)
    if (!(TOKEN_OUTPUTS as readonly string[]).includes(output))
      throw unknownName(`${name}[${i}]`, output, TOKEN_OUTPUTS)
    names.push(output as TokenOutput)
  }
  return names
}
