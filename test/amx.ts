/**
 * The products of AMX, where this machine has it. No assertions here.
 */
import { linearSequenceLogProbsSync } from '../lib/index.js'
import type { Target } from './support.js'

/** Why they cannot be had; undefined where they can. */
export const AMX_PROBLEM = problemOf()

/** Calls with these products, or none. */
export const AMX: readonly Target[] =
  AMX_PROBLEM === undefined
    ? [{ name: 'cpu, products of AMX', run: { backend: 'cpu', products: 'amx' } as Target['run'], dtype: 'bfloat16' }]
    : []
if (AMX_PROBLEM !== undefined) console.log(`products of AMX left out: ${AMX_PROBLEM}`)

function problemOf(): string | undefined {
  const hidden = { data: Uint16Array.of(0), shape: [1, 1, 1], dtype: 'bfloat16' } as const
  const weight = { data: Uint16Array.of(0, 0), shape: [2, 1], dtype: 'bfloat16' } as const
  try {
    linearSequenceLogProbsSync(hidden, weight, Int32Array.of(0), { backend: 'cpu', products: 'amx' })
    return undefined
  } catch (error) {
    const { code, message } = error as { code?: string; message: string }
    // A CPU whose sums are others than those of the manual has a fault to look into.
    if (code !== 'ERR_BACKEND_UNAVAILABLE' || message.includes('another order')) throw error
    return message
  }
}
