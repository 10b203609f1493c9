/**
 * The check of a communicator, by its shape: users may bring their own.
 */
import { invalidType, invalidValue, outOfRange } from '../errors.js'
import type { Communicator } from '../types/index.js'

const METHODS = ['allGather', 'allReduceSum', 'barrier', 'abort'] as const
const SYNC_METHODS = ['allGatherSync', 'allReduceSumSync', 'barrierSync'] as const

/** A communicator with the methods of the promise forms. */
export function communicatorOf(value: unknown, name: string): Communicator {
  if (typeof value !== 'object' || value === null) throw invalidType(name, 'a Communicator', value)
  const { rank, size, ...given } = pick(value)
  for (const method of METHODS) {
    if (typeof given[method] !== 'function') throw invalidType(`${name}.${method}`, 'a function', given[method])
  }
  if (!isCount(size) || size < 1) throw outOfRange(`${name}.size`, 'an integer >= 1', size)
  if (!isCount(rank) || rank >= size) throw outOfRange(`${name}.rank`, `an integer in [0, ${size})`, rank)
  return value as Communicator
}

/** A communicator that has the methods of the Sync forms, too. */
export type SyncCommunicator = Required<Communicator>

/** Refuses a communicator without the methods of the Sync forms. */
export function syncCommunicator(communicator: Communicator, name: string): SyncCommunicator {
  for (const method of SYNC_METHODS) {
    if (typeof communicator[method] !== 'function') {
      throw invalidValue(`${name}.${method}`, 'is missing: a Sync function needs it; the promise form does without')
    }
  }
  return communicator as SyncCommunicator
}

function pick(value: object): Record<string, unknown> {
  const found: Record<string, unknown> = {}
  for (const key of ['rank', 'size', ...METHODS]) found[key] = (value as Record<string, unknown>)[key]
  return found
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}
