/**
 * Communicators of NCCL's, which work on streams: how calls know them.
 */
import type { NcclRanks } from '../../types/index.js'
import { cudaCall } from './calls.js'
import { cudaFunctions } from './open.js'

// Communicators of one copy of this package may be used with the calls of another.
const MARK = Symbol.for('fused-preference-loss.nccl')

/** Marks the objects of a class as communicators of NCCL's. */
export function markRanks(prototype: NcclRanks): void {
  Object.defineProperty(prototype, MARK, { value: true })
}

/** Whether this is a communicator of NCCL's. */
export function isNcclRanks(value: unknown): value is NcclRanks {
  return typeof value === 'object' && value !== null && (value as { [MARK]?: boolean })[MARK] === true
}

/**
 * What jobs know a communicator by. Throws `ERR_DISPOSED` once it has been disposed of, and `ERR_NCCL` where it cannot be
 * used any more.
 */
export function addressOfRanks({ handle }: NcclRanks): bigint {
  return cudaCall(() => cudaFunctions().addressOf(handle))
}
