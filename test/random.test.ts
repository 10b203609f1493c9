/**
 * The cpu backend, on every instruction set of this machine, and the wasm backend against the js backend on random calls:
 * every element type, shape, layout, option and loss. A failure prints the seed and the smallest call that fails. The seed
 * is always the same, so that a change alone can break these tests; with `FPL_TEST_SEED=random` every run draws new calls.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  crossEntropySync,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLossSync,
  preferenceLossSync,
  sequenceLogProbsSync,
  unpairedPreferenceLossSync,
} from '../lib/index.js'
import type { CrossEntropyOptions, LossOptions, TokenOutput } from '../lib/options/index.js'
import { TAKERS } from '../lib/options/loss-options.js'
import type {
  FDivergence,
  Logits,
  LossType,
  Normalizer,
  PairLogProbs,
  PerEach,
  PreferenceLoss,
  ResultGradients,
  RunOptions,
  SequenceLogProbs,
  TokenNormalizer,
  UnpairedLossType,
  UnpairedNormalizer,
  WeightedLoss,
} from '../lib/types/index.js'
import './fixed-seed.js'
import { IS_BROWSER } from './platform.js'
import { coefficients, compareForward, compareGradient, near, spec, widened } from './random-calls.js'
import {
  bytes,
  DTYPES,
  encode,
  firstDifference,
  JS,
  LOSS_TYPES,
  NATIVE,
  OUTPUTS,
  type Problem,
  problemOf,
  random,
  ulp,
  values,
  WASM,
} from './support.js'

/** Derivatives with respect to results, of every token and some 0 or absent. */
function resultGradients(seed: number, sequences: number, tokens: number): ResultGradients {
  const next = random(seed ^ 0xaaaa)
  const given: ResultGradients = { logProbs: coefficients(seed, sequences) }
  for (const name of ['tokenLogProbs', 'logSumExp', 'tokenEntropies', 'tokenMeanLogits'] as const) {
    if (next() < 0.3) continue
    given[name] = Array.from({ length: tokens }, () => (next() < 0.1 ? 0 : 4 * next() - 2))
  }
  return given
}

/** For each logit the sum of the magnitudes of the terms of its derivative, as docs/numerics.md has it. */
function magnitudesOf(sums: SequenceLogProbs, given: ResultGradients, problem: Problem, vocabulary: number) {
  const { active, target, options } = problem
  const { temperature = 1 } = options
  const ones = (name: keyof ResultGradients) => ({ [name]: new Float64Array(sums.tokenEntropies!.length).fill(1) })
  const own = (names: (keyof ResultGradients)[]) =>
    values(
      sums.backwardSync(Object.fromEntries(names.map((name) => [name, given[name] ?? ones(name)[name].fill(0)])))
        .gradLogits,
    )
  const p = values(sums.backwardSync(ones('logSumExp')).gradLogits)
  const ofLogProb = values(
    sums.backwardSync({
      logProbs: given.logProbs!,
      ...(given.tokenLogProbs ? { tokenLogProbs: given.tokenLogProbs } : {}),
    }).gradLogits,
  )
  const ofLogSumExp = own(['logSumExp'])
  const ofMean = own(['tokenMeanLogits'])
  const both = values(
    sums.backwardSync({ ...given, tokenEntropies: ones('tokenEntropies').tokenEntropies.fill(0) }).gradLogits,
  )
  const [time] = problem.logits.shape.slice(-2)
  const kept = sums.tokenEntropies!.length / (problem.rows / time)
  return both.map((sum, i) => {
    const row = Math.floor(i / vocabulary)
    if (!active(row)) return 0
    const token = Math.floor(row / time) * kept + (row % time)
    const e = Math.abs(given.tokenEntropies?.[token] ?? 0)
    const q = p[i] * temperature
    const entropy = q === 0 ? 0 : e * p[i] * (Math.abs(Math.log(q)) + sums.tokenEntropies![token] + 1)
    const rest =
      i % vocabulary === target(row) ? Math.abs(ofLogProb[i]) + Math.abs(ofLogSumExp[i]) : Math.abs(sum - ofMean[i])
    return rest + entropy + Math.abs(ofMean[i])
  })
}

/** Any number of pairs with repeated sequences, or the default: chosen first, rejected second. */
function pairsOf(sequences: number, next: () => number): Int32Array {
  if (sequences % 2 === 0 && next() < 0.5) {
    return Int32Array.from({ length: sequences }, (_, i) => (i >> 1) + (i % 2 === 0 ? 0 : sequences / 2))
  }
  const pairs = new Int32Array(2 + 2 * Math.floor(4 * next()))
  for (let i = 0; i < pairs.length; i += 2) {
    pairs[i] = Math.floor(sequences * next())
    pairs[i + 1] = (pairs[i] + 1 + Math.floor((sequences - 1) * next())) % sequences
  }
  return pairs
}

const finite = (min: number, max: number) => fc.double({ min, max, noNaN: true })

interface LossCall {
  pairs: PairLogProbs
  options: LossOptions
}

/** Log-probs of pairs, a loss or a sum of them, and constants it takes. */
const lossCall: fc.Arbitrary<LossCall> = fc
  .record({
    seed: fc.nat(),
    size: fc.integer({ min: 1, max: 9 }),
    spread: fc.constantFrom(1e-6, 1, 30, 1000),
    ties: fc.boolean(),
    terms: fc.array(fc.record({ lossType: fc.constantFrom(...LOSS_TYPES), weight: finite(0.1, 2) }), {
      minLength: 1,
      maxLength: 3,
    }),
    fDivergence: fc.constantFrom<FDivergence>('reverse_kl', 'forward_kl', 'js', 'alpha'),
    referenceFree: fc.boolean(),
    weighted: fc.boolean(),
    ofEach: fc.subarray(['beta', 'labelSmoothing', 'offset', 'targetMargin'] as const),
    averageLogProb: fc.boolean(),
    beta: fc.oneof(fc.constantFrom(0.1, 1), finite(0.001, 5)),
    labelSmoothing: fc.oneof(fc.constant(undefined), fc.constant(0.1), finite(0.001, 0.499)),
    offset: fc.oneof(fc.constant(undefined), finite(-3, 3)),
    gamma: finite(-2, 2),
    rewardShift: finite(-2, 2),
    targetMargin: fc.oneof(fc.constant(0), finite(-5, 5)),
    dpopLambda: fc.oneof(fc.constant(undefined), finite(0, 60)),
    discopopTau: finite(0.01, 2),
    rewardAlpha: fc.oneof(fc.constant(0), fc.constantFrom(1e-13, 1e-3, 1), finite(-2, 2)),
    sftNormalization: fc.constantFrom('tokens', 'sequences', 'sum'),
    alpha: fc.oneof(fc.constantFrom(0, 0.5, 1, 1 + 1e-13), finite(-2, 3)),
    normalizer: fc.constantFrom<Normalizer>('mean', 'mean', 'sum', { pairs: 20, tokens: 700 }),
  })
  .map(({ seed, size, spread, ties, terms, fDivergence, weighted, ofEach, normalizer, ...options }) => {
    const next = random(seed)
    const list = () => Array.from({ length: size }, () => -spread * (ties ? Math.ceil(4 * next()) / 4 : next() + 1e-9))
    const lengths = () => Array.from({ length: size }, () => Math.floor(next() * 50))
    const pairs: PairLogProbs = {
      chosen: list(),
      rejected: list(),
      referenceChosen: list(),
      referenceRejected: list(),
      chosenTokenCounts: lengths(),
      rejectedTokenCounts: lengths(),
    }
    // What is drawn for all pairs, more or less, for each.
    const own: LossOptions = weighted ? { pairWeights: list().map((x) => -x / spread) } : {}
    for (const name of ofEach) {
      const all = options[name]
      if (all !== undefined) own[name] = Array.from({ length: size }, () => all * (0.25 + 0.75 * next()))
    }
    const lossType = terms.length === 1 ? terms[0].lossType : terms
    const takesAlpha = terms.some((term) => TAKERS.rewardAlpha.includes(term.lossType)) && options.rewardAlpha !== 0
    if (takesAlpha) options.referenceFree = true
    const takesDivergence = !takesAlpha && terms.every((term) => WITH_DIVERGENCE.includes(term.lossType))
    const sorts = terms.some((term) => term.lossType.startsWith('aot'))
    return {
      pairs,
      options: taken({
        ...options,
        ...own,
        lossType,
        fDivergence: takesDivergence ? fDivergence : 'reverse_kl',
        normalizer: sorts ? 'mean' : normalizer,
      }),
    }
  })

/** The same with values for so many pairs. */
function resized(options: LossOptions, size: number): LossOptions {
  const entries = Object.entries(options).map(([name, value]) => {
    const perPair = name !== 'lossType' && Array.isArray(value)
    return [name, perPair ? Array.from({ length: size }, (_, i) => value[i % value.length]) : value]
  })
  return Object.fromEntries(entries) as LossOptions
}

/** Without the constants that none of the losses takes, which are refused. */
function taken(options: LossOptions): LossOptions {
  const { lossType = 'sigmoid' } = options
  const losses = typeof lossType === 'string' ? [lossType] : lossType.map((term) => term.lossType)
  const kept = { ...options }
  for (const [name, takers] of Object.entries(TAKERS)) {
    if (!losses.some((loss) => takers.includes(loss))) delete kept[name as keyof typeof TAKERS]
  }
  if (options.fDivergence !== 'alpha') delete kept.alpha
  return kept
}

const RPO: WeightedLoss[] = [{ lossType: 'sigmoid' }, { lossType: 'sft', weight: 0.5 }]

const WITH_DIVERGENCE: readonly LossType[] = [
  'sigmoid',
  'sigmoid_norm',
  'hinge',
  'ipo',
  'exo_pair',
  'robust',
  'discopop',
  'ipo_norm',
]

const parts = (result: PreferenceLoss): [string, ArrayLike<number>][] => [
  ['losses', result.losses],
  ['chosenRewards', result.chosenRewards],
  ['rejectedRewards', result.rejectedRewards],
  ['gradient.chosen', result.gradLogProbs.chosen],
  ['gradient.rejected', result.gradLogProbs.rejected],
  ['loss, accuracy, margin', [result.loss, result.accuracy, result.margin]],
]

/**
 * A result and, for a gradient, that of the pair's other sequence, because one may be a difference that contains the
 * other.
 */
function partners(from: ReturnType<typeof parts>, k: number, i: number): number[] {
  return k === 3 || k === 4 ? [from[3][1][i], from[4][1][i]] : [from[k][1][i]]
}

/** Stage 3 to the last digits: relative to the value, or to the terms of its sum. */
function compareLoss(call: LossCall, run: RunOptions): void {
  const { lossType } = call.options
  const [got, wanted] = [partsOf(call, run), partsOf(call, JS.run)]
  // The loss of EXO and those of RPO are divergences: near the minimum, logarithms cancel.
  const floor = /exo_pair|_kl/.test(JSON.stringify(lossType)) ? 1e-15 : 1e-300
  const terms = Array.isArray(lossType)
    ? lossType.map((term) => partsOf({ ...call, options: taken({ ...call.options, lossType: [term] }) }, JS.run))
    : []
  let nearby: ReturnType<typeof parts>[] | undefined
  for (const [k, [name, list]] of got.entries()) {
    for (let i = 0; i < list.length; i++) {
      const value = wanted[k][1][i]
      const sizes = [wanted, ...terms].flatMap((part) => partners(part, k, i)).filter(Number.isFinite)
      let bound = 1e-12 * Math.max(0, ...sizes.map(Math.abs)) + floor
      if (Math.abs(list[i] - value) > bound) {
        // Where a loss or its slope passes through 0, only as exactly as rounded arguments determine it.
        nearby ??= perturbed(call).map((other) => partsOf(other, JS.run))
        for (const part of nearby) bound += Math.abs(part[k][1][i] - value) || 0
      }
      if (!isBeyond(list[i], value)) near(list[i], value, bound, `${name}[${i}]`)
    }
  }
}

/** Whether one is infinite and the other so near to it that the order of the factors decides which. */
function isBeyond(got: number, wanted: number): boolean {
  const [less, more] = [Math.abs(got), Math.abs(wanted)].sort((a, b) => a - b)
  return more === Number.POSITIVE_INFINITY && less > 1e300 && less < more && Math.sign(got) === Math.sign(wanted)
}

const partsOf = ({ pairs, options }: LossCall, where: RunOptions) =>
  parts(preferenceLossSync(pairs, { ...options, ...where }))

/** The same call with one argument after the other a few roundings away. */
function perturbed({ pairs, options }: LossCall): LossCall[] {
  const more = 1 + 16 * Number.EPSILON
  const constants = [
    ...(['beta', 'labelSmoothing', 'offset', 'gamma', 'rewardShift', 'targetMargin', 'dpopLambda'] as const),
    ...(['discopopTau', 'alpha', 'rewardAlpha'] as const),
  ] as const
  const times = (value: PerEach) => (typeof value === 'number' ? value * more : Array.from(value, (x) => x * more))
  const lists = ['chosen', 'rejected', 'referenceChosen', 'referenceRejected'] as const
  return [
    ...constants.flatMap((name) =>
      options[name] === undefined ? [] : [{ pairs, options: { ...options, [name]: times(options[name]) } }],
    ),
    ...lists.map((name) => ({ pairs: { ...pairs, [name]: Array.from(pairs[name]!, (x) => x * more) }, options })),
  ]
}

/** What there is of a gradient, in one call of the cross-entropy. */
const crossEntropyOptions = fc.record(
  {
    labelSmoothing: fc.oneof(fc.constant(0), finite(0, 1)),
    zLoss: fc.oneof(fc.constant(0), finite(0, 0.1)),
    dft: fc.boolean(),
    weighted: fc.boolean(),
    transformed: fc.boolean(),
    normalizer: fc.constantFrom<TokenNormalizer>('mean', 'sum', 7.5, { tokens: 100 }),
    // Products of a subnormal number have no digits to compare.
    gradientScale: fc.oneof(fc.constant(1), finite(-8, 8)).filter((x) => x === 0 || Math.abs(x) > 1e-290),
    gradientDType: fc.constantFrom(...DTYPES),
    deferredScale: fc.boolean(),
  },
  { requiredKeys: ['labelSmoothing', 'zLoss', 'weighted', 'transformed'] },
)
/** What an error of a token's results may be multiplied by in its loss. */
const scaleOf = (loss: number) => Math.max(1, Math.abs(loss)) * 30

const unpairedOptions = fc.record(
  {
    lossType: fc.constantFrom<UnpairedLossType>('kto', 'apo_zero_unpaired', 'bco'),
    beta: finite(0.01, 2),
    desirableWeight: fc.constantFrom(0, 1, 1.7),
    undesirableWeight: fc.constantFrom(0, 1, 0.4),
    normalizer: fc.constantFrom<UnpairedNormalizer>('mean', 'sum', { sequences: 20 }),
    gradientScale: fc.constantFrom(1, 1024, -0.3),
  },
  { requiredKeys: ['lossType', 'beta'] },
)

test.skipIf(IS_BROWSER)('there is a native backend to compare', () => {
  expect(NATIVE.length).toBeGreaterThan(0)
})

/** A page makes fewer of them, so that its tests take no longer than a minute or two. */
const runs = (count: number) => (IS_BROWSER ? count / 5 : count)

const COMPARED = [...NATIVE, ...WASM]

/** Compares a call on every backend and instruction set: what js makes of it, which takes the longest, is made once. */
function onEach(compare: (run: RunOptions) => void): void {
  for (const { name, run } of COMPARED) {
    try {
      compare(run)
    } catch (cause) {
      throw new Error(`on ${name}: ${(cause as Error).message}`, { cause })
    }
  }
}

// With by-products the kernels are others.
test.each([[['tokenLogProbs']], [[...OUTPUTS, 'tokenMeanLogits']]] as TokenOutput[][][])(
  'log-probs and gradients, with %s',
  (outputs) => {
    const property = fc.property(spec, (drawn) => {
      const problem = problemOf(drawn)
      const { logits, labels, options } = problem
      const call = (tensor: Logits, where: RunOptions) =>
        sequenceLogProbsSync(tensor, labels, { ...options, ...where, outputs })
      const before = bytes(logits.data as Float32Array).slice()
      const wide = drawn.dtype === 'float32' ? logits : widened(logits)
      const wanted = call(wide, JS.run)
      const factors = coefficients(drawn.seed, drawn.lengths.length)
      const wantedGradient = wanted.backwardSync(factors).gradLogits
      onEach((run) => {
        const got = call(logits, run)
        compareForward(got, wanted, problem, drawn.lengths)
        const gradient = got.backwardSync(factors).gradLogits
        compareGradient(gradient, wantedGradient, drawn.vocab, problem)
        if (drawn.dtype !== 'float32') {
          // Rounded once, from the very float32 numbers that float32 logits give.
          const full = values(call(wide, run).backwardSync(factors).gradLogits).map((x) => encode[drawn.dtype](x))
          expect(firstDifference(gradient.data as Uint16Array, full)).toBe(-1)
        }
        expect(bytes(logits.data as Float32Array).equals(before)).toBe(true)
      })
    })
    fc.assert(property, { numRuns: runs(250) })
  },
)

test('gradients through the results of single tokens', () => {
  const property = fc.property(spec, (drawn) => {
    const problem = problemOf(drawn)
    const { logits, labels, options } = problem
    const call = (tensor: Logits, where: RunOptions) =>
      sequenceLogProbsSync(tensor, labels, { ...options, ...where, outputs: ['tokenEntropies'] })
    const wanted = call(drawn.dtype === 'float32' ? logits : widened(logits), JS.run)
    const given = resultGradients(drawn.seed, drawn.lengths.length, wanted.tokenEntropies!.length)
    const wantedGradient = wanted.backwardSync(given).gradLogits
    const magnitudes = magnitudesOf(wanted, given, problem, drawn.vocab)
    const bound = (i: number) => 4 * ulp(magnitudes[i]) + 1e-36 * Math.max(1, 1 / (options.temperature ?? 1))
    onEach((run) => {
      compareGradient(call(logits, run).backwardSync(given).gradLogits, wantedGradient, drawn.vocab, problem, bound)
    })
  })
  fc.assert(property, { numRuns: runs(150) })
})

test('cross-entropy with any options, and gradients in any type, scaled, or with the scale of rows deferred', () => {
  const property = fc.property(spec, crossEntropyOptions, fc.nat(), (drawn, given, seed) => {
    const problem = problemOf(drawn)
    const { logits, labels } = problem
    const { averageLogProb: _, emptySequence: __, ...tokens } = problem.options
    const next = random(seed)
    const weights = Float64Array.from({ length: drawn.vocab }, () => Math.floor(8 * next()) / 4)
    const { weighted, transformed, ...rest } = given
    const options: CrossEntropyOptions = { ...tokens, ...rest, gradient: true }
    if (weighted) options.classWeights = weights
    if (transformed) Object.assign(options, { logitScale: 1.3, logitSoftcap: 9, temperature: 0.8 })
    if (options.labelSmoothing !== 0 || options.zLoss !== 0) delete options.deferredScale
    const call = (tensor: Logits, where: RunOptions, more: CrossEntropyOptions = {}) =>
      crossEntropySync(tensor, labels, { ...options, ...where, ...more })
    const wide = drawn.dtype === 'float32' ? logits : widened(logits)
    const dtype = options.gradientDType ?? drawn.dtype
    // Where a logit of a weighted class is -inf, that is the loss of all; where many are huge, js differs in the last bits.
    const comparesJs = !['holes', 'bits', 'far'].includes(drawn.style)
    const wanted = comparesJs ? call(wide, JS.run, { gradientDType: 'float32' }) : undefined
    onEach((run) => {
      const full = call(wide, run, { gradientDType: 'float32' })
      const got = call(logits, run)
      // Rounded once, from the very float32 numbers.
      const rounded = values(full.gradLogits!).map((x) => encode[dtype](x))
      expect(firstDifference(got.gradLogits!.data as Float32Array | Uint16Array, rounded)).toBe(-1)
      expect([got.loss, got.losses, got.rowScale]).toEqual([full.loss, full.losses, full.rowScale])

      if (!wanted) return
      const off = transformed ? 1e-5 : 1e-6
      for (const [i, loss] of wanted.losses.entries()) near(got.losses[i], loss, off * scaleOf(loss), `losses[${i}]`)
      const [g, w] = [values(full.gradLogits!), values(wanted.gradLogits!)]
      // Where a derivative's terms cancel, what is left of them.
      const ofTerms = (2e-6 * Math.abs(given.gradientScale ?? 1)) / Math.min(1, tokens.temperature ?? 1) + 1e-36
      const largest = w.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
      for (const [i, x] of w.entries()) near(g[i], x, 20 * off * largest + ofTerms, 'gradient', i)
      for (const [i, x] of (wanted.rowScale ?? []).entries()) {
        near(got.rowScale![i], x, 20 * off * Math.abs(x), `rowScale[${i}]`)
      }
    })
  })
  fc.assert(property, { numRuns: runs(150) })
})

describe.each(COMPARED)('$name', ({ run }) => {
  test('the fused unpaired call is its parts, and gradientScale a factor of its gradients', () => {
    const property = fc.property(spec, fc.nat(), unpairedOptions, (drawn, seed, given) => {
      const { logits, labels, options: tokens } = problemOf({ ...drawn, style: 'model' })
      const next = random(seed)
      const desirable = drawn.lengths.map(() => next() < 0.5)
      const reference = Float64Array.from(drawn.lengths, () => -20 * next())
      const loss = { ...given, ...(given.lossType === 'kto' && { kl: next() }), desirable, ...run }
      const options = { ...tokens, ...loss, emptySequence: 'zero', reference: { logProbs: reference } } as const
      const fused = fusedUnpairedPreferenceLossSync(logits, labels, { ...options, gradient: true })
      const sums = sequenceLogProbsSync(logits, labels, { ...tokens, emptySequence: 'zero', ...run })
      expect(fused.logProbs).toEqual(sums.logProbs)
      const alone = unpairedPreferenceLossSync({ logProbs: sums.logProbs, referenceLogProbs: reference }, loss)
      expect([fused.loss, fused.losses, fused.rewards]).toEqual([alone.loss, alone.losses, alone.rewards])
      expect(fused.gradLogProbs).toEqual(alone.gradLogProbs)
      const { gradLogits } = sums.backwardSync(alone.gradLogProbs)
      expect(firstDifference(values(fused.gradLogits!), values(gradLogits))).toBe(-1)
      const once = unpairedPreferenceLossSync(
        { logProbs: sums.logProbs, referenceLogProbs: reference },
        { ...loss, gradientScale: 1 },
      )
      for (const [s, x] of once.gradLogProbs.entries()) {
        near(alone.gradLogProbs[s], (given.gradientScale ?? 1) * x, 1e-14 * Math.abs(x), `gradLogProbs[${s}]`)
      }
    })
    fc.assert(property, { numRuns: runs(150) })
  })

  test('every loss and option, given equal log-probs', () => {
    const property = fc.property(lossCall, ({ pairs, options }) => {
      compareLoss({ pairs, options }, run)
    })
    fc.assert(property, { numRuns: runs(4000) })
  })

  test('infinite, zero and NaN log-probs', () => {
    const property = fc.property(lossCall, fc.nat(), ({ pairs, options }, seed) => {
      const next = random(seed)
      const special = [
        Number.NEGATIVE_INFINITY,
        Number.NEGATIVE_INFINITY,
        Number.POSITIVE_INFINITY,
        Number.NaN,
        0,
        -0,
        -1e-300,
      ]
      const some = (list: ArrayLike<number>) =>
        Array.from(list, (x) => (next() < 0.3 ? special[Math.floor(next() * special.length)] : x))
      const drawn: PairLogProbs = { ...pairs, chosen: some(pairs.chosen), rejected: some(pairs.rejected) }
      // A reference of NaN is refused.
      const numbers = (list: ArrayLike<number>) => some(list).map((x) => (Number.isNaN(x) ? 0 : x))
      if (pairs.referenceChosen) drawn.referenceChosen = numbers(pairs.referenceChosen)
      if (pairs.referenceRejected) drawn.referenceRejected = numbers(pairs.referenceRejected)
      compareLoss({ pairs: drawn, options }, run)
    })
    fc.assert(property, { numRuns: runs(4000) })
  })

  test('a derivative that fits float64 only just', () => {
    const pairs = {
      chosen: [-218.8],
      rejected: [Number.NEGATIVE_INFINITY],
      referenceChosen: [-587],
      referenceRejected: [-374],
      chosenTokenCounts: [22],
      rejectedTokenCounts: [8],
    }
    const options = { lossType: 'ipo_norm', beta: 0.1, rewardAlpha: 1, referenceFree: true } as const
    compareLoss({ pairs, options }, run)
    expect(partsOf({ pairs, options }, run)[3][1][0]).toBeGreaterThan(1e300)
  })

  test('the fused call is its parts', () => {
    const property = fc.property(spec, lossCall, fc.nat(), fc.boolean(), (drawn, loss, seed, withLogits) => {
      const { logits, labels, options: tokenOptions } = problemOf(drawn)
      const next = random(seed)
      const sequences = drawn.lengths.length
      fc.pre(sequences > 1)
      const pairs = pairsOf(sequences, next)
      const size = pairs.length / 2
      const reference = Array.from({ length: 2 }, () => Float64Array.from({ length: size }, () => -20 * next()))
      const other = withLogits ? problemOf({ ...drawn, seed: drawn.seed, style: 'model' }).logits : undefined
      const forward = { ...tokenOptions, ...run }
      const options = {
        ...resized(loss.options, size),
        ...forward,
        averageLogProb: tokenOptions.averageLogProb ?? false,
      }
      const fused = fusedPreferenceLossSync(logits, labels, {
        ...options,
        pairs,
        outputs: OUTPUTS,
        gradient: true,
        reference: other ? { logits: other } : { chosen: reference[0], rejected: reference[1] },
      })

      const sums = sequenceLogProbsSync(logits, labels, { ...forward, outputs: OUTPUTS })
      const pick = (list: ArrayLike<number>, side: 0 | 1) =>
        Float64Array.from({ length: size }, (_, i) => list[pairs[2 * i + side]])
      expect(fused.chosenLogProbs).toEqual(pick(sums.logProbs, 0))
      expect(fused.rejectedLogProbs).toEqual(pick(sums.logProbs, 1))
      expect(fused.tokenCounts).toEqual(sums.tokenCounts)
      for (const name of OUTPUTS) expect(fused[name]).toEqual(sums[name])

      const referenceSums = other && sequenceLogProbsSync(other, labels, forward).logProbs
      const { temperature, shift, ignoreIndex, mask, tokenWeights, sequenceOffsets, emptySequence, ...rest } = options
      const alone = preferenceLossSync(
        {
          chosen: fused.chosenLogProbs,
          rejected: fused.rejectedLogProbs,
          referenceChosen: referenceSums ? pick(referenceSums, 0) : reference[0],
          referenceRejected: referenceSums ? pick(referenceSums, 1) : reference[1],
          chosenTokenCounts: pick(sums.tokenCounts as ArrayLike<number>, 0),
          rejectedTokenCounts: pick(sums.tokenCounts as ArrayLike<number>, 1),
        },
        rest,
      )
      expect(parts(fused)).toEqual(parts(alone))

      const factors = new Float64Array(sequences)
      for (let i = 0; i < size; i++) {
        factors[pairs[2 * i]] += fused.gradLogProbs.chosen[i]
        factors[pairs[2 * i + 1]] += fused.gradLogProbs.rejected[i]
      }
      const gradient = sums.backwardSync(factors).gradLogits
      expect(fused.gradLogits!.shape).toEqual(logits.shape)
      expect(firstDifference(values(fused.gradLogits!), values(gradient))).toBe(-1)
    })
    fc.assert(property, { numRuns: runs(250) })
  })

  test('length-desensitised and WPO-weighted losses, with sft', () => {
    const property = fc.property(spec, fc.double({ min: 0, max: 1, noNaN: true }), (drawn, ldAlpha) => {
      const { logits, labels, options } = problemOf({ ...drawn, style: 'model' })
      const sequences = drawn.lengths.length
      fc.pre(sequences % 2 === 0)
      const call = (where: RunOptions) =>
        fusedPreferenceLossSync(logits, labels, {
          ...options,
          temperature: 1,
          ...where,
          ldAlpha,
          weighting: 'wpo',
          lossType: RPO,
          reference: { chosen: new Float64Array(sequences / 2), rejected: new Float64Array(sequences / 2) },
        })
      const [got, wanted] = [parts(call(run)), parts(call(JS.run))]
      for (const [k, [name, list]] of got.entries()) {
        for (let i = 0; i < list.length; i++) {
          const value = wanted[k][1][i]
          near(
            list[i],
            value,
            1e-5 * (name.includes('eward') || name.includes('margin') ? Math.max(1, Math.abs(value)) : Math.abs(value)),
            `${name}[${i}]`,
          )
        }
      }
    })
    fc.assert(property, { numRuns: runs(100) })
  })
})
