/**
 * Hints for an unknown name: the name here of another trainer's option, else the known names that are similar, else
 * nothing.
 */

/**
 * Names used elsewhere, separated by spaces, and the name here. A row counts where its name here is a possible one; ''
 * counts everywhere. The third entry is a hint that replaces "did you mean".
 */
type Row = readonly [elsewhere: string, here: string, words?: string]

const TRAINER = "it is the trainer's: this package computes the loss and its gradient"
const DATA = 'preferenceBatches of fused-preference-loss/data cuts sequences'
const SFT_WEIGHT = "it is the weight of { lossType: 'sft', weight } in a list of lossType"
const SYNC = "it is the trainer's: pass the log-probs of the reference model as it is at the time"
const UNPAIRED = 'needs unpaired data and is a loss of the unpaired functions, such as unpairedPreferenceLoss'
const REWARDS = 'needs rewards of samples and is not in this version, whose losses take pairs'
const ABSENT = 'is not in this version'

/** Options of TRL, LLaMA-Factory, OpenRLHF, torchtune and of the papers' own code. */
export const OPTIONS: readonly Row[] = [
  ['loss loss_fn loss_name objective algorithm pref_loss dpo_loss_type', 'lossType'],
  ['loss_weights loss_weight', 'lossType', 'weights stand in a list: lossType: [{ lossType, weight }, …]'],
  ['rpo_alpha cpo_alpha nll_loss_coef nll_alpha pref_ftx sft_alpha sft_weight', 'lossType', SFT_WEIGHT],
  ['pref_bco_weight', 'lossType', "it is the weight of { lossType: 'bco_pair', weight } in a list of lossType"],
  ['dpo_beta pref_beta simpo_beta ipo_tau', 'beta'],
  ['orpo_lambda orpo_alpha', 'beta', 'it is called beta here'],
  ['tau', 'discopopTau', 'it is beta for ipo and discopopTau for discopop'],
  ['dpo_label_smoothing epsilon eps flip_prob', 'labelSmoothing'],
  ['simpo_gamma target_reward_margin', 'gamma'],
  ['margin margins reward_margin odpo_offset delta_r', 'offset'],
  [
    'gt_rewards gt_reward_scale gt_reward_margin',
    'targetMargin',
    'it is targetMargin, the scaled difference of the rewards',
  ],
  ['lambda_dpop dpop_alpha', 'dpopLambda'],
  ['alphapo_alpha alpha_po', 'rewardAlpha'],
  ['sft_average_log_probs', 'sftNormalization', "it is called sftNormalization: 'sequences' here"],
  ['sample_weight sample_weights example_weights', 'pairWeights'],
  ['gamma_beta_ratio', 'gamma', 'gamma is this times beta'],
  ['delta running_mean reward_mean', 'rewardShift'],
  ['f_divergence_type divergence_type', 'fDivergence'],
  ['f_alpha_divergence_coef alpha_divergence_coef', 'alpha'],
  ['use_weighting use_wpo wpo', 'weighting', "it is called weighting: 'wpo' here"],
  ['label_pad_token_id ignore_id ignore_label', 'ignoreIndex'],
  ['padding_value pad_token_id pad_token', 'ignoreIndex', 'padding has the label ignoreIndex, or a mask leaves it out'],
  ['attention_mask completion_mask response_mask label_mask loss_mask', 'mask'],
  ['cu_seqlens seq_lens offsets', 'sequenceOffsets'],
  ['average_logps average_log_probs length_normalize length_normalized', 'averageLogProb'],
  ['reduction num_items_in_batch', 'normalizer'],
  ['lse_square_scale z_loss_multiplier z_loss_coefficient', 'zLoss'],
  ['class_weight', 'classWeights'],
  ['ref ref_model reference_model ref_logps ref_log_probs reference_logps reference_log_probs', 'reference'],
  ['precompute_ref_log_probs', 'reference', 'call sequenceLogProbs once and pass what it gives as reference'],
  ['chosen_logps chosen_log_probs policy_chosen_logps policy_chosen', 'chosen'],
  ['rejected_logps rejected_log_probs policy_rejected_logps policy_rejected', 'rejected'],
  ['ref_chosen ref_chosen_logps reference_chosen_logps reference_chosen_log_probs', 'referenceChosen'],
  ['ref_rejected ref_rejected_logps reference_rejected_logps reference_rejected_log_probs', 'referenceRejected'],
  ['ref_chosen_logps reference_chosen_logps', 'reference', 'it is called reference: { chosen, rejected } here'],
  ['ref_rejected_logps reference_rejected_logps', 'reference', 'it is called reference: { chosen, rejected } here'],
  ['logps', 'logProbs'],
  ['grad', 'gradient'],
  ['loss_scale grad_scale grad_output upstream', 'gradientScale'],
  ['in_place', 'gradient', "it is called gradient: 'in-place' here"],
  ['out', 'gradient'],
  ['abort abort_controller', 'signal'],
  ['kernel', 'weight'],
  ['desirable_weight undesirable_weight', 'lossType', `it is KTO's, which ${UNPAIRED}`],
  ['sync_ref_model ref_model_mixup_alpha ref_model_sync_steps', 'reference', SYNC],
  ['max_length max_prompt_length max_completion_length max_target_length truncation_mode padding_free', 'mask', DATA],
  ['learning_rate lr epochs num_train_epochs batch_size per_device_train_batch_size max_steps', '', TRAINER],
  ['optimizer optim weight_decay warmup_steps warmup_ratio lr_scheduler_type', '', TRAINER],
  ['max_grad_norm gradient_accumulation_steps gradient_checkpointing', '', TRAINER],
]

/** Names of losses and of other values that come from a list. */
export const VALUES: readonly Row[] = [
  ['dpo bradley_terry bt logistic log_sigmoid', 'sigmoid', "DPO is lossType 'sigmoid'"],
  ['spin', 'sigmoid', "the loss of SPIN is lossType 'sigmoid'"],
  ['cdpo conservative_dpo', 'sigmoid', "conservative DPO is lossType 'sigmoid' with labelSmoothing"],
  ['robust_dpo', 'robust'],
  ['slic slic_hf rso', 'hinge', "its loss is lossType 'hinge'"],
  ['dpo_norm ln_dpo length_normalized_dpo', 'sigmoid_norm', "length-normalised DPO is lossType 'sigmoid_norm'"],
  ['aot_pair', 'aot_unpaired', "TRL's former 'aot_pair' is lossType 'aot_unpaired'"],
  ['rpo', 'sft', "RPO is a list: [{ lossType: 'sigmoid' }, { lossType: 'sft', weight }]"],
  ['nll ce cross_entropy chunked_nll mle chosen_nll', 'sft', "the likelihood of the chosen is lossType 'sft'"],
  ['ld_dpo', 'sigmoid', 'LD-DPO is option ldAlpha, with any loss'],
  ['wpo', 'sigmoid', "WPO is option weighting: 'wpo', with any loss"],
  ['f_dpo', 'sigmoid', "f-DPO is lossType 'sigmoid' with fDivergence"],
  ['kto', 'sigmoid', `KTO ${UNPAIRED}`],
  ['kto_pair', 'sigmoid', `KTO on pairs ${ABSENT}`],
  ['apo_zero_unpaired', 'apo_zero', `it ${UNPAIRED}; that of pairs is 'apo_zero'`],
  ['ppo grpo gspo dapo rloo reinforce', 'sigmoid', `it ${REWARDS}`],
  ['dpo_positive smaug', 'dpop', "DPO-positive is lossType 'dpop'"],
  ['odpo rdpo', 'sigmoid', "it is lossType 'sigmoid' with an offset for each pair"],
  ['beta_dpo', 'sigmoid', "it is lossType 'sigmoid' with a beta for each pair"],
  ['alphapo', 'simpo', "AlphaPO is lossType 'simpo' with rewardAlpha"],
  ['tpo tdpo gpo mpo xpo', 'sigmoid', `it ${ABSENT}`],
  ['js_divergence jsd', 'js'],
  ['alpha_divergence', 'alpha'],
  ['kl', 'reverse_kl'],
  ['fp32 f32 single', 'float32'],
  ['fp16 f16 half', 'float16'],
  ['bf16', 'bfloat16'],
  ['gpu nvidia', 'cuda'],
  ['native simd', 'cpu'],
  ['javascript', 'js'],
  ['logps per_token_logps', 'tokenLogProbs'],
  ['entropy entropies', 'tokenEntropies'],
  ['lse', 'logSumExp'],
]

/** Longer strings are not taken for a name. */
const LONGEST_NAME = 60

/** How many names to suggest. */
const MOST_NAMES = 3

/** Shorter names get no hint for a differing letter: with three letters, one letter makes a different loss. */
const FEWEST_LETTERS = 4

/** A list of up to this many names can be read at a glance. */
const FEW_NAMES = 8

/** The end of a message about an unknown option. */
export function optionHint(name: string, known: ReadonlySet<string>): string {
  const found = hint(name, [...known], OPTIONS)
  return found === '' && known.size <= FEW_NAMES ? `; there are ${quoted(known)}` : found
}

/** The end of a message about an unknown value among names. */
export function valueHint(value: string, allowed: readonly string[]): string {
  return hint(value, allowed, VALUES)
}

function hint(given: string, names: readonly string[], table: readonly Row[]): string {
  const key = plain(given.slice(0, LONGEST_NAME))
  const same = names.filter((name) => plain(name) === key)
  if (same.length === 0) {
    const row = table.find(
      ([elsewhere, here]) => (here === '' || names.includes(here)) && elsewhere.split(' ').map(plain).includes(key),
    )
    if (row?.[2] !== undefined) return `: ${row[2]}`
    if (row !== undefined) return question([row[1]])
  }
  return question(same.length > 0 ? same : near(key, names, FEWEST_LETTERS))
}

/** The command or option that a wrong name of one probably means; there are few names to choose from. */
export function meant(given: string, names: readonly string[]): string | undefined {
  return near(plain(given.slice(0, LONGEST_NAME)), names, 3)[0]
}

/** The name without differences of style: labelSmoothing, label_smoothing and label-smoothing are one name. */
function plain(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]/g, '')
}

/**
 * Names of which the key is the plural; else names that begin with the key or begin it, that contain the key or are
 * contained in it, or that differ in up to a third of its letters.
 */
function near(key: string, names: readonly string[], fewest: number): string[] {
  const those = (test: (name: string) => boolean) => names.filter((name) => test(plain(name)))
  const most = (name: string) => 2 * name.length >= key.length
  if (key.length < 3) return []
  const plural = those((name) => `${name}s` === key)
  if (plural.length > 0) return plural
  const longer = those((name) => name.startsWith(key))
  if (longer.length > 0) return longer
  const shorter = those((name) => name.length >= 3 && key.startsWith(name) && most(name))
  if (shorter.length > 0) return shorter.sort((a, b) => b.length - a.length).slice(0, 1)
  if (key.length < fewest) return []
  const around = those(
    (name) =>
      (name.includes(key) && 2 * key.length >= name.length) || (name.length >= 4 && key.includes(name) && most(name)),
  )
  if (around.length > 0) return around
  let least = Math.floor(key.length / 3)
  for (const name of names) least = Math.min(least, edits(key, plain(name)))
  return those((name) => edits(key, name) === least)
}

/** The number of letters to insert, remove, replace or swap with their neighbour to turn one name into the other. */
function edits(from: string, to: string): number {
  let [before, last, row] = [[], [], Array.from({ length: to.length + 1 }, (_, j) => j)] as number[][]
  for (let i = 1; i <= from.length; i++) {
    ;[before, last, row] = [last, row, [i]]
    for (let j = 1; j <= to.length; j++) {
      const same = from[i - 1] === to[j - 1]
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0 : 1))
      const swapped = i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1]
      if (swapped) row[j] = Math.min(row[j], before[j - 2] + 1)
    }
  }
  return row[to.length]
}

function question(names: readonly string[]): string {
  if (names.length === 0) return ''
  return `; did you mean ${quoted(names.slice(0, MOST_NAMES), ' or ')}?`
}

/** Names in quotes, as messages list them. */
export function quoted(names: Iterable<string>, between = ', '): string {
  return Array.from(names, (name) => `'${name}'`).join(between)
}
