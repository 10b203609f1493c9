/**
 * The shaders: each is put together from constants, the files it is made of, and the way its tensors are read and
 * written.
 */
import { loadsAndStores, loadsFrom, type Reading, sharesWords, type Writing } from './elements.js'
import finishGradient from './kernels/finish-gradient.wgsl'
import finishMeans from './kernels/finish-means.wgsl'
import finishResults from './kernels/finish-results.wgsl'
import finishRows from './kernels/finish-rows.wgsl'
import keepLanes from './kernels/keep-lanes.wgsl'
import logitsGradient from './kernels/logits-gradient.wgsl'
import merge from './kernels/merge.wgsl'
import numbers from './kernels/numbers.wgsl'
import ownWords from './kernels/own-words.wgsl'
import placedSlopes from './kernels/placed-slopes.wgsl'
import products from './kernels/products.wgsl'
import rounding from './kernels/rounding.wgsl'
import rowResults from './kernels/row-results.wgsl'
import rowState from './kernels/row-state.wgsl'
import rowValues from './kernels/row-values.wgsl'
import rows from './kernels/rows.wgsl'
import sequenceSums from './kernels/sequence-sums.wgsl'
import shareSegments from './kernels/share-segments.wgsl'
import sharedWords from './kernels/shared-words.wgsl'
import slopes from './kernels/slopes.wgsl'
import softcap from './kernels/softcap.wgsl'
import subgroupThreads from './kernels/subgroup-threads.wgsl'
import sumTerms from './kernels/sum-terms.wgsl'
import sumsOfLogits from './kernels/sums-of-logits.wgsl'
import sweepQuads from './kernels/sweep-quads.wgsl'
import sweepTiles from './kernels/sweep-tiles.wgsl'
import sweptAll from './kernels/swept-all.wgsl'
import sweptMeans from './kernels/swept-means.wgsl'
import sweptSums from './kernels/swept-sums.wgsl'
import targets from './kernels/targets.wgsl'
import threads from './kernels/threads.wgsl'
import tokenLogProbs from './kernels/token-log-probs.wgsl'
import tokenState from './kernels/token-state.wgsl'
import { type Shader, shader, WORKGROUP } from './shader.js'

/** How labels lie on the device. */
export interface LabelReading {
  /** Of 64 bits. */
  WIDE: boolean
  mask: 'none' | 'bytes' | 'words'
}

/** Stage 0, labels on the device: params, offsets, labels, mask, targets, sequences, invalid. */
export function targetsShader({ WIDE, mask }: LabelReading): Shader {
  const MASKS = { NONE: 0, BYTES: 1, WORDS: 2 }
  const MASK = MASKS[mask.toUpperCase() as keyof typeof MASKS]
  return shader(`targets ${WIDE} ${mask}`, { WIDE, MASK, ...MASKS }, [numbers, rows, rowState, tokenState, targets])
}

/**
 * What a sweep finds of rows: the sums of their exponentials; with them the means of their logits, or of those times the
 * weights of their classes; all there is to find, without or with the latter.
 */
export type Finds = 'sums' | 'means' | 'classMeans' | 'all' | 'classes'

export const findsClasses = (finds: Finds) => finds === 'classes' || finds === 'classMeans'
export const findsAll = (finds: Finds) => finds === 'classes' || finds === 'all'

/** What is kept of a part of a row. */
const SWEPT: Record<Finds, readonly string[]> = {
  sums: [sweptSums, sumTerms],
  means: [sumsOfLogits, sweptMeans, sumTerms],
  classMeans: [sumsOfLogits, sweptMeans, sumTerms],
  all: [sumsOfLogits, sweptAll],
  classes: [sumsOfLogits, sweptAll],
}

/** How rows are swept. */
export interface Sweeping extends Reading {
  finds: Finds
  /** Logits are soft-capped. */
  CAPS: boolean
  /** Threads put together what they have found, which takes barriers. */
  merges: boolean
  /** Neighbours do so by operations of subgroups, of sums alone. */
  subgroups: boolean
}

/** Threads of a workgroup that sweeps, which merges what it has found or does not. */
const sweepers = (merges: boolean) => (merges ? WORKGROUP : 64)

/** What a workgroup leaves of a segment: one part, or one of each thread or of each four neighbours. */
export function partsOfSegment({ merges, subgroups }: Pick<Sweeping, 'merges' | 'subgroups'>): number {
  if (merges) return 1
  return sweepers(merges) / (subgroups ? 4 : 1)
}

/** The weights of classes, in a binding of that number where they have any. */
const classWeights = (hasAny: boolean, binding: number) =>
  hasAny
    ? `@group(0) @binding(${binding}) var<storage, read> classWeights: array<f32>;
fn classWeight(word: u32) -> f32 { return classWeights[word]; }`
    : 'fn classWeight(word: u32) -> f32 { return 1; }'

const wordsOf = (reading: Reading) => (sharesWords(reading) ? sharedWords : ownWords)

/** Stage 1: params, targets, partials, logits; with classes their weights. */
export function tokenLogProbsShader({ finds, CAPS, merges, subgroups, ...reading }: Sweeping): Shader {
  const { dtype, vector } = reading
  const HAS_CLASSES = findsClasses(finds)
  const constants = { WORKGROUP: sweepers(merges), HAS_CLASSES, CAPS }
  const name = `token-log-probs ${dtype} ${vector} ${finds} ${CAPS} ${merges} ${subgroups}`
  const made = shader(name, constants, [
    ...[numbers, rows, rowState, softcap, ...SWEPT[finds], merge],
    subgroups ? subgroupThreads : threads,
    loadsFrom(3, reading),
    classWeights(HAS_CLASSES, 4),
    merges ? shareSegments : keepLanes,
    wordsOf(reading),
    tokenLogProbs,
    merges || sharesWords(reading) ? sweepTiles : sweepQuads,
  ])
  return subgroups ? { name, code: `${WITH_SUBGROUPS}\n${made.code}` } : made
}

/** How a shader with subgroups begins. */
const WITH_SUBGROUPS = 'enable subgroups;\nrequires subgroup_id;'

const NO_RESULTS = 'fn putResults(row: u32, swept: Swept, state: TokenState, label: i32, labelLogit: f32) {}'

/** The end of stage 1: params, targets, partials, states, results where it finds all, mean logits unless sums alone, logits. */
export function finishRowsShader({ finds, CAPS, ...reading }: Omit<Sweeping, 'merges' | 'subgroups'>): Shader {
  const { dtype, vector } = reading
  const isAll = findsAll(finds)
  const ofResults = isAll ? [rowResults, finishResults] : [finds === 'sums' ? NO_RESULTS : finishMeans]
  const HAS_CLASSES = findsClasses(finds)
  return shader(`finish-rows ${dtype} ${vector} ${finds} ${CAPS}`, { HAS_CLASSES, CAPS }, [
    ...[numbers, rows, rowState, softcap, ...SWEPT[finds], merge, tokenState],
    loadsFrom(isAll ? 6 : finds === 'sums' ? 4 : 5, reading),
    classWeights(false, 0),
    ...ofResults,
    finishRows,
  ])
}

/** What is summed over sequences. */
export interface Summing {
  of: 'own' | 'plain' | 'logWeights'
  /** Tokens have weights. */
  WEIGHS: boolean
}

const LOG_SUM_SQUARED_PROBS = `@group(0) @binding(6) var<storage, read_write> results: array<RowResults>;
fn logSumSquaredProbs(row: u32) -> TwoFloat { return logOf(two(results[row].sumSquaredProbs)); }`

/** Stage 2: params, targets, sequences, weights, states, sums; for logWeights the results of rows. */
export function sequenceSumsShader({ of, WEIGHS }: Summing): Shader {
  const constants = { WEIGHS, IS_PLAIN: of === 'plain', OF_LOG_WEIGHTS: of === 'logWeights' }
  return shader(`sequence-sums ${WEIGHS} ${of}`, constants, [
    ...[numbers, rows, rowState, tokenState],
    of === 'logWeights'
      ? [rowResults, LOG_SUM_SQUARED_PROBS].join('\n')
      : 'fn logSumSquaredProbs(row: u32) -> TwoFloat { return two(0); }',
    sequenceSums,
  ])
}

/** How stage 4 begins. */
export interface Finishing {
  WEIGHS: boolean
  /** Rows have coefficients of their own: in an array, or in the places of their values. */
  HAS_OWN: boolean
  HAS_PLACED: boolean
  /** The scale of rows is the caller's to multiply by. */
  DEFERS: boolean
  HAS_CLASSES: boolean
}

const ROW_SCALE = `@group(0) @binding(8) var<storage, read_write> rowScale: array<TwoFloat>;
fn putRowScale(row: u32, scale: TwoFloat) { rowScale[row] = scale; }`

/**
 * Stage 4 begins: params, targets, sequences, weights, states, coefficients, own, values; then class weights or row scales,
 * which do not go together.
 */
export function finishGradientShader(finishing: Finishing): Shader {
  const name = `finish-gradient ${Object.values(finishing).join(' ')}`
  return shader(name, { ...finishing }, [
    ...[numbers, products, rows, rowState, tokenState, slopes, rowValues, placedSlopes],
    classWeights(finishing.HAS_CLASSES, 8),
    finishing.DEFERS ? ROW_SCALE : 'fn putRowScale(row: u32, scale: TwoFloat) {}',
    finishGradient,
  ])
}

/** How a gradient is written. */
export interface GradientWriting extends Writing {
  /** The derivative of a logit is more than a multiple of its probability. */
  FULL: boolean
  CAPS: boolean
  HAS_CLASSES: boolean
}

/** Stage 4: params, targets, values, logits and gradient, or both in one; class weights. */
export function logitsGradientShader({ FULL, CAPS, HAS_CLASSES, ...writing }: GradientWriting): Shader {
  const { dtype, outDType, vector, shared } = writing
  const name = `logits-gradient ${[dtype, outDType, vector, shared, FULL, CAPS, HAS_CLASSES].join(' ')}`
  return shader(name, { FULL, CAPS, HAS_CLASSES }, [
    ...[numbers, rounding, rows, rowState, softcap, tokenState, rowValues],
    loadsAndStores(3, writing),
    wordsOf(writing),
    classWeights(HAS_CLASSES, shared ? 4 : 5),
    logitsGradient,
  ])
}
