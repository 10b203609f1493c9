/**
 * `sumGradients` and `averageGradients`: gradients over all ranks, in place.
 */
import { hashOfText } from '../call/agreement.js'
import { checkedSignal } from '../call/run.js'
import { runSteps, runStepsSync, type Steps, sum } from '../call/steps.js'
import { checkView, type View, viewAs, viewKind, viewLength } from '../check/arrays.js'
import { integer, optionsObject } from '../check/options.js'
import { invalidType, invalidValue } from '../errors.js'
import type { Communicator, RunOptions } from '../types/index.js'
import { agreed } from './agreed.js'

/** Options of {@link sumGradients} and {@link averageGradients}. */
export interface GradientOptions extends Pick<RunOptions, 'signal'> {
  /**
   * The arrays are added up in pieces of at most this many bytes: small arrays are copied together, large ones cut. Each
   * piece is one message. Defaults to 25 MiB.
   */
  bucketBytes?: number | undefined
}

type Gradient = Float32Array | Float64Array

const OPTIONS: ReadonlySet<string> = new Set(['bucketBytes', 'signal'])
const DEFAULT_BYTES = 25 * 2 ** 20

/**
 * Adds up the gradients of all ranks, in place: with losses divided by the counts of all ranks (`globalCounts`), the sum is
 * the gradient of the one large batch. Every rank has the same bits afterwards. A rank that had no batch passes zeros.
 *
 * @param communicator the ranks, all of which call this.
 * @param arrays of as many elements and of the same types on every rank, none of which share memory. After an error of the
 *   communicator some may be sums, and others not.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`; RangeError `ERR_OUT_OF_RANGE`; Error
 *   `ERR_RANK_FAILED` where another rank has failed; the communicator's errors; the reason of `options.signal`.
 */
export function sumGradients(
  communicator: Communicator,
  arrays: readonly Gradient[],
  options?: GradientOptions,
): Promise<void> {
  return runSteps(sums('sumGradients', communicator, arrays, options))
}

/** {@link sumGradients} on the calling thread. */
export function sumGradientsSync(
  communicator: Communicator,
  arrays: readonly Gradient[],
  options?: GradientOptions,
): void {
  runStepsSync(sums('sumGradients', communicator, arrays, options))
}

/**
 * {@link sumGradients}, divided by the number of ranks: for losses that each rank has divided by its own counts
 * (`normalizer: 'mean'`). It is the gradient of the one large batch only where the batches of all ranks have the same counts,
 * and after `globalCounts` it is too small by the number of ranks.
 */
export function averageGradients(
  communicator: Communicator,
  arrays: readonly Gradient[],
  options?: GradientOptions,
): Promise<void> {
  return runSteps(sums('averageGradients', communicator, arrays, options))
}

/** {@link averageGradients} on the calling thread. */
export function averageGradientsSync(
  communicator: Communicator,
  arrays: readonly Gradient[],
  options?: GradientOptions,
): void {
  runStepsSync(sums('averageGradients', communicator, arrays, options))
}

function* sums(
  call: 'sumGradients' | 'averageGradients',
  communicator: Communicator,
  arrays: readonly Gradient[],
  given: GradientOptions | undefined,
): Steps<void> {
  let views: Gradient[] = []
  let bytes = 0
  yield* agreed(communicator, () => {
    const { bucketBytes = DEFAULT_BYTES, signal } = optionsObject(given, 'options', OPTIONS)
    if (signal !== undefined) checkedSignal(signal).throwIfAborted()
    bytes = integer(bucketBytes, 'options.bucketBytes', 8, 2 ** 31 - 1)
    views = checked(arrays)
    const sizes = views.map(({ length, BYTES_PER_ELEMENT }) => `${length}x${BYTES_PER_ELEMENT}`).join()
    return { call, equal: { 'options.bucketBytes': bytes, 'the sizes and types of its arrays': hashOfText(sizes) } }
  })
  for (const pieces of bucketsOf(views, bytes)) {
    const bucket = pieces.length === 1 ? pieces[0] : joined(pieces)
    yield* sum(communicator, bucket)
    if (call === 'averageGradients') for (let i = 0; i < bucket.length; i++) bucket[i] /= communicator.size
    if (pieces.length > 1) spread(bucket, pieces)
  }
}

/** Views of our own, of host memory that no two of them share. */
function checked(arrays: readonly Gradient[]): Gradient[] {
  if (!Array.isArray(arrays)) throw invalidType('arrays', 'a list of Float32Arrays or Float64Arrays', arrays)
  const views = arrays.map((array: unknown, i): Gradient => {
    const kind = viewKind(array)
    if (kind !== 'Float32Array' && kind !== 'Float64Array') {
      throw invalidType(`arrays[${i}]`, 'a Float32Array or a Float64Array', array)
    }
    const view = array as View
    checkView(view, `arrays[${i}]`)
    return viewAs<Gradient>(kind === 'Float32Array' ? Float32Array : Float64Array, view, viewLength(view))
  })
  refuseOverlap(views)
  return views
}

/** An element in two of the arrays would be added up twice. */
function refuseOverlap(views: readonly Gradient[]): void {
  const ofBuffers = new Map<ArrayBufferLike, number[]>()
  for (const [i, { buffer }] of views.entries()) {
    const others = ofBuffers.get(buffer)
    if (others) others.push(i)
    else ofBuffers.set(buffer, [i])
  }
  for (const indices of ofBuffers.values()) {
    indices.sort((a, b) => views[a].byteOffset - views[b].byteOffset)
    for (const [k, i] of indices.slice(1).entries()) {
      const before = views[indices[k]]
      if (before.byteOffset + before.byteLength > views[i].byteOffset) {
        throw invalidValue(`arrays[${i}]`, `shares memory with arrays[${indices[k]}]`)
      }
    }
  }
}

/** Pieces of the arrays that are sent together: neighbours of one type. */
function bucketsOf(views: readonly Gradient[], bytes: number): Gradient[][] {
  const buckets: Gradient[][] = []
  let left = 0
  let size = 0
  for (const view of views) {
    const { BYTES_PER_ELEMENT, length } = view
    if (BYTES_PER_ELEMENT !== size) left = 0
    size = BYTES_PER_ELEMENT
    for (let start = 0; start < length; ) {
      if (left === 0) {
        buckets.push([])
        left = Math.floor(bytes / size)
      }
      const end = Math.min(length, start + left)
      buckets.at(-1)!.push(view.subarray(start, end))
      left -= end - start
      start = end
    }
  }
  return buckets
}

function joined(pieces: readonly Gradient[]): Gradient {
  const size = pieces.reduce((sum, { length }) => sum + length, 0)
  const bucket = pieces[0] instanceof Float32Array ? new Float32Array(size) : new Float64Array(size)
  let start = 0
  for (const piece of pieces) {
    bucket.set(piece, start)
    start += piece.length
  }
  return bucket
}

function spread(bucket: Gradient, pieces: readonly Gradient[]): void {
  let start = 0
  for (const piece of pieces) {
    piece.set(bucket.subarray(start, start + piece.length))
    start += piece.length
  }
}
