/**
 * A share of the vocabulary: the options of a call that several ranks make together.
 */
import type { DeviceRange } from '../backends/device-memory.js'
import { integer, oneOf, optionsObject } from '../check/options.js'
import { invalidValue, outOfRange } from '../errors.js'
import type { Shard } from '../job.js'
import type { ShardOptions } from '../types/index.js'
import { LARGEST_SIZE } from './tensor.js'

/** The names of {@link ShardOptions}. */
export const SHARD_OPTIONS = ['shard', 'communicator', 'segments'] as const

const NAMES = new Set(['start', 'vocab'])
const SEGMENTS = ['exact', 'merged'] as const

/** The share that a call has, of which these are the `columns`; undefined where it has the whole vocabulary. */
export function shardOf(
  { shard: given, communicator, segments }: ShardOptions,
  columns: number,
  device: DeviceRange | undefined,
): Shard | undefined {
  oneOf(segments, 'options.segments', SEGMENTS, 'exact')
  if (given === undefined) {
    if (communicator !== undefined) throw invalidValue('options.communicator', 'needs options.shard')
    if (segments !== undefined) throw invalidValue('options.segments', 'needs options.shard')
    return undefined
  }
  if (communicator === undefined) throw invalidValue('options.shard', 'needs options.communicator')
  if (device?.kind === 'webgpu') {
    throw invalidValue('options.shard', 'needs logits, or hidden and weight, in host memory or in memory of CUDA')
  }
  const shard = optionsObject(given, 'options.shard', NAMES)
  const vocab = integer(shard.vocab, 'options.shard.vocab', 1, LARGEST_SIZE)
  const start = integer(shard.start, 'options.shard.start', 0, LARGEST_SIZE)
  if (start + columns > vocab) {
    throw outOfRange('options.shard.start', `at most ${vocab} less the ${columns} columns that are here`, start)
  }
  return { start, vocab }
}
