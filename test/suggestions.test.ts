/**
 * The hint in the error for an unknown name: its name here, similar names, or nothing; never a thing that was not
 * meant.
 */
import { describe, expect, test } from 'vitest'
import { LOGITS_GRADIENT_OPTIONS } from '../lib/call/destination.js'
import { HEAD_GRADIENT_OPTIONS } from '../lib/call/head-gradients.js'
import { PAIRED_OPTIONS } from '../lib/call/paired-call.js'
import { optionsObject, unknownName } from '../lib/check/options.js'
import { OPTIONS, optionHint, VALUES, valueHint } from '../lib/check/suggestions.js'
import { fusedPreferenceLossSync, linearSequenceLogProbsSync, preferenceLossSync } from '../lib/index.js'
import { LOSS_OPTIONS } from '../lib/options/loss-options.js'
import { TOKEN_LOSS_OPTIONS } from '../lib/options/token-loss-options.js'
import { DTYPES, LOSS_TYPES, OUTPUTS } from './support.js'

const FUSED: ReadonlySet<string> = new Set([...PAIRED_OPTIONS, ...LOGITS_GRADIENT_OPTIONS])
const REFERENCE: ReadonlySet<string> = new Set(['chosen', 'rejected', 'logProbs', 'logits'])
const PAIRS: ReadonlySet<string> = new Set([
  'chosen',
  'rejected',
  'referenceChosen',
  'referenceRejected',
  'chosenTokenCounts',
])
const BACKWARD: ReadonlySet<string> = new Set(['gradient', 'zeroInactive'])

describe('losses', () => {
  test.each([
    ['dpo', ": DPO is lossType 'sigmoid'"],
    ['DPO', ": DPO is lossType 'sigmoid'"],
    ['cdpo', ": conservative DPO is lossType 'sigmoid' with labelSmoothing"],
    ['bco', "; did you mean 'bco_pair'?"],
    ['exo', "; did you mean 'exo_pair'?"],
    ['nca', "; did you mean 'nca_pair'?"],
    ['sppo', "; did you mean 'sppo_hard'?"],
    ['apo', "; did you mean 'apo_zero' or 'apo_down'?"],
    ['sig', "; did you mean 'sigmoid' or 'sigmoid_norm'?"],
    ['aot_pair', ": TRL's former 'aot_pair' is lossType 'aot_unpaired'"],
    ['rpo', ": RPO is a list: [{ lossType: 'sigmoid' }, { lossType: 'sft', weight }]"],
    ['kto', ': KTO needs unpaired data and is a loss of the unpaired functions, such as unpairedPreferenceLoss'],
    ['kto_pair', ': KTO on pairs is not in this version'],
    ['grpo', ': it needs rewards of samples and is not in this version, whose losses take pairs'],
    ['odpo', ": it is lossType 'sigmoid' with an offset for each pair"],
    ['alphapo', ": AlphaPO is lossType 'simpo' with rewardAlpha"],
    ['dpo-positive', ": DPO-positive is lossType 'dpop'"],
    ['xpo', ': it is not in this version'],
    ['nll', ": the likelihood of the chosen is lossType 'sft'"],
    ['wpo', ": WPO is option weighting: 'wpo', with any loss"],
    ['slic', ": its loss is lossType 'hinge'"],
    ['ipoReward', "; did you mean 'ipo_reward'?"],
    ['SimPO', "; did you mean 'simpo'?"],
    ['sigmoid-norm', "; did you mean 'sigmoid_norm'?"],
    ['sigmod', "; did you mean 'sigmoid'?"],
    ['hinge_loss', "; did you mean 'hinge'?"],
    ['dpo_hinge', "; did you mean 'hinge'?"],
    ['sigmoid_normal', "; did you mean 'sigmoid_norm'?"],
    ['sigmoidal', "; did you mean 'sigmoid'?"],
    ['orpp', "; did you mean 'orpo'?"],
    // A difference of one letter in three, or a larger one, gives no hint.
    ['iko', ''],
    ['mpp', ''],
    ['s', ''],
    ['si', ''],
    ['', ''],
    ['toString', ''],
    ['__proto__', ''],
    ['banana', ''],
  ])('%s', (given, hint) => {
    expect(valueHint(given, LOSS_TYPES)).toBe(hint)
  })

  test('never one whose name only looks like that of another loss', () => {
    for (const name of ['dpo', 'kto', 'rpo', 'ppo', 'tpo', 'gpo', 'mpo', 'xpo', 'grpo', 'odpo', 'dapo', 'spo', 'ftp']) {
      expect(valueHint(name, LOSS_TYPES)).not.toMatch(/did you mean/)
    }
  })

  test('in an error', () => {
    const call = (lossType: unknown) => () =>
      preferenceLossSync({ chosen: [-1], rejected: [-2] }, { lossType: lossType as 'cpo' })
    expect(call('dpo')).toThrow(
      /^options\.lossType must be one of 'sigmoid', .*; got 'dpo': DPO is lossType 'sigmoid'$/,
    )
    expect(call([{ lossType: 'bco' }])).toThrow(/^options\.lossType\[0\]\.lossType .*; did you mean 'bco_pair'\?$/)
    expect(call('banana')).toThrow(/got 'banana'$/)
  })
})

describe('options', () => {
  test.each([
    // TRL's, with their underscores
    ['label_smoothing', "; did you mean 'labelSmoothing'?"],
    ['loss_type', "; did you mean 'lossType'?"],
    ['reference_free', "; did you mean 'referenceFree'?"],
    ['ld_alpha', "; did you mean 'ldAlpha'?"],
    ['discopop_tau', "; did you mean 'discopopTau'?"],
    ['label_pad_token_id', "; did you mean 'ignoreIndex'?"],
    ['f_divergence_type', "; did you mean 'fDivergence'?"],
    ['f_alpha_divergence_coef', "; did you mean 'alpha'?"],
    ['simpo_gamma', "; did you mean 'gamma'?"],
    ['margin', "; did you mean 'offset'?"],
    ['sample_weights', "; did you mean 'pairWeights'?"],
    ['gt_reward_scale', ': it is targetMargin, the scaled difference of the rewards'],
    ['rpo_alpha', ": it is the weight of { lossType: 'sft', weight } in a list of lossType"],
    ['cpoAlpha', ": it is the weight of { lossType: 'sft', weight } in a list of lossType"],
    ['loss_weights', ': weights stand in a list: lossType: [{ lossType, weight }, …]'],
    ['use_weighting', ": it is called weighting: 'wpo' here"],
    ['ref_model', "; did you mean 'reference'?"],
    ['sync_ref_model', ": it is the trainer's: pass the log-probs of the reference model as it is at the time"],
    ['learningRate', ": it is the trainer's: this package computes the loss and its gradient"],
    ['learning_rate', ": it is the trainer's: this package computes the loss and its gradient"],
    ['max_length', ': preferenceBatches of fused-preference-loss/data cuts sequences'],
    [
      'desirable_weight',
      ": it is KTO's, which needs unpaired data and is a loss of the unpaired functions, such as unpairedPreferenceLoss",
    ],
    // other trainers'
    ['pref_ftx', ": it is the weight of { lossType: 'sft', weight } in a list of lossType"],
    ['pref_beta', "; did you mean 'beta'?"],
    ['gamma_beta_ratio', ': gamma is this times beta'],
    ['attention_mask', "; did you mean 'mask'?"],
    ['cu_seqlens', "; did you mean 'sequenceOffsets'?"],
    ['num_threads', "; did you mean 'threads'?"],
    // slips
    ['labelsmoothing', "; did you mean 'labelSmoothing'?"],
    ['LossType', "; did you mean 'lossType'?"],
    ['smoothing', "; did you mean 'labelSmoothing'?"],
    ['divergence', "; did you mean 'fDivergence'?"],
    ['grad', "; did you mean 'gradient'?"],
    ['gradients', "; did you mean 'gradient'?"],
    ['loss_scale', "; did you mean 'gradientScale'?"],
    ['ignoreIndx', "; did you mean 'ignoreIndex'?"],
    ['gradeint', "; did you mean 'gradient'?"],
    ['shfit', "; did you mean 'shift'?"],
    ['beat', "; did you mean 'beta'?"],
    ['pairss', "; did you mean 'pairs'?"],
    ['mak', ''],
    ['inPlace', ": it is called gradient: 'in-place' here"],
    ['foo', ''],
    ['onresult', ''],
  ])('%s', (given, hint) => {
    expect(optionHint(given, FUSED)).toBe(hint)
  })

  test('only such names as the object can have', () => {
    expect(optionHint('rpo_alpha', REFERENCE)).toBe("; there are 'chosen', 'rejected', 'logProbs', 'logits'")
    expect(optionHint('logps', REFERENCE)).toBe("; did you mean 'logProbs'?")
    expect(optionHint('logps', FUSED)).toBe('')
    expect(optionHint('ref_chosen_logps', PAIRS)).toBe("; did you mean 'referenceChosen'?")
    expect(optionHint('ref_chosen_logps', FUSED)).toBe(': it is called reference: { chosen, rejected } here')
    expect(optionHint('chosenLogProbs', PAIRS)).toBe("; did you mean 'chosen'?")
    expect(optionHint('out', BACKWARD)).toBe("; did you mean 'gradient'?")
    expect(optionHint('inplace', BACKWARD)).toBe(": it is called gradient: 'in-place' here")
    expect(optionHint('biasCorrection', new Set([...FUSED, 'bias']))).toBe('')
    expect(optionHint('biases', new Set([...FUSED, 'bias']))).toBe("; did you mean 'bias'?")
    expect(optionHint('foo', BACKWARD)).toBe("; there are 'gradient', 'zeroInactive'")
    expect(optionHint('lr', BACKWARD)).toMatch(/^: it is the trainer's/)
  })

  test('in an error', () => {
    const logits = { data: new Float32Array(20), shape: [2, 2, 5] }
    const labels = new Int32Array(4)
    const given = { reference: { chosen: [-1], rejected: [-1] } }
    expect(() => fusedPreferenceLossSync(logits, labels, { ...given, rpo_alpha: 1 } as object)).toThrow(
      expect.objectContaining({
        code: 'ERR_INVALID_ARG_VALUE',
        message:
          "options.rpo_alpha is not an option: it is the weight of { lossType: 'sft', weight } in a list of lossType",
      }),
    )
    expect(() => linearSequenceLogProbsSync(logits, logits, labels, { foo: 1 } as object)).toThrow(
      /^options\.foo is not an option$/,
    )
  })
})

test('other names', () => {
  expect(valueHint('gpu', ['auto', 'cuda', 'cpu', 'js'])).toBe("; did you mean 'cuda'?")
  expect(valueHint('dpo', ['auto', 'cuda', 'cpu', 'js'])).toBe('')
  expect(valueHint('bf16', DTYPES)).toBe("; did you mean 'bfloat16'?")
  expect(valueHint('fp16', DTYPES)).toBe("; did you mean 'float16'?")
  expect(valueHint('float', DTYPES)).toBe("; did you mean 'float32' or 'float16'?")
  expect(valueHint('js_divergence', ['reverse_kl', 'forward_kl', 'js', 'alpha'])).toBe("; did you mean 'js'?")
  expect(valueHint('reverse-kl', ['reverse_kl', 'forward_kl'])).toBe("; did you mean 'reverse_kl'?")
  expect(valueHint('entropy', OUTPUTS)).toBe("; did you mean 'tokenEntropies'?")
  expect(valueHint('argmax', OUTPUTS)).toBe("; did you mean 'tokenArgmax'?")
  expect(valueHint('avx', ['baseline', 'avx2', 'avx512'])).toBe("; did you mean 'avx2' or 'avx512'?")
  // Three at most.
  expect(valueHint('abc', ['abc1', 'abc2', 'abc3', 'abc4'])).toBe("; did you mean 'abc1' or 'abc2' or 'abc3'?")
  // Up to a third of the letters may differ, and only the nearest names are shown.
  expect(valueHint('abcxyz', ['abcdez', 'abcdef'])).toBe("; did you mean 'abcdez'?")
  expect(valueHint('abcxyz', ['abcdef'])).toBe('')
  expect(valueHint('abcdx', ['abxyx'])).toBe('')
  // Insertions, omissions, replacements and swaps count one each.
  for (const near of [
    'abcdefg',
    'abxcdef',
    'abcdf',
    'bcdef',
    'abcde',
    'abcxef',
    'bacdef',
    'abcdfe',
    'badcef',
    'xycdef',
  ]) {
    expect(valueHint('abcdef', [near]), near).toBe(`; did you mean '${near}'?`)
  }
  for (const far of ['badcfe', 'xyzdef', 'bcadxf', 'cbaedf', 'dabcfe', 'bcxyef', 'zz']) {
    expect(valueHint('abcdef', [far]), far).toBe('')
  }
  expect(valueHint('abcdx', ['abcde', 'abcdf', 'abxyx'])).toBe("; did you mean 'abcde' or 'abcdf'?")
})

test('the table names what there is, and no name of ours as one from elsewhere', () => {
  const plain = (name: string) => name.replace(/_/g, '').toLowerCase()
  const sets = [FUSED, REFERENCE, PAIRS, BACKWARD, LOSS_OPTIONS, TOKEN_LOSS_OPTIONS, HEAD_GRADIENT_OPTIONS]
  const options = [...sets.flatMap((set) => [...set]), 'weight']
  const lists: [typeof OPTIONS, readonly string[]][] = [
    // 'normalizer': what sums are divided by
    [OPTIONS, [...options, 'normalizer', '']],
    [VALUES, [...LOSS_TYPES, ...DTYPES, ...OUTPUTS, 'cuda', 'cpu', 'js', 'alpha', 'reverse_kl']],
  ]
  for (const [rows, names] of lists) {
    const seen = new Set<string>()
    for (const [elsewhere, here, words] of rows) {
      expect(names).toContain(here)
      expect(here !== '' || words !== undefined).toBe(true)
      for (const name of elsewhere.split(' ')) {
        expect(names.map(plain), `${name} is ours`).not.toContain(plain(name))
        expect(seen.has(`${plain(name)} ${here}`), `${name} twice`).toBe(false)
        seen.add(`${plain(name)} ${here}`)
      }
    }
  }
})

test('options of the cross-entropy', () => {
  const known = new Set([...TOKEN_LOSS_OPTIONS, 'gradient'])
  expect(optionHint('lse_square_scale', known)).toBe("; did you mean 'zLoss'?")
  expect(optionHint('class_weight', known)).toBe("; did you mean 'classWeights'?")
  expect(optionHint('reduction', known)).toBe("; did you mean 'normalizer'?")
})

test('nothing is copied from the prototype of objects, and messages stay short', () => {
  expect(() => optionsObject({ constructor: 1 }, 'options', BACKWARD)).toThrow(
    /^options\.constructor is not an option;/,
  )
  expect(valueHint('x'.repeat(10_000), LOSS_TYPES)).toBe('')
  expect(unknownName('x', 'y'.repeat(10_000), ['a', 'b']).message.length).toBeLessThan(200)
})
