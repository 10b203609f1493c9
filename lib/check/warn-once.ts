/**
 * Warnings about calls that are valid but probably unintended, each given once.
 */
import { emitWarning } from './warning.js'

/** The codes of these warnings. */
export type WarningCode =
  | 'FUSED_PREFERENCE_LOSS_AVERAGED_REFERENCE'
  | 'FUSED_PREFERENCE_LOSS_NO_ACTIVE_TOKENS'
  | 'FUSED_PREFERENCE_LOSS_NO_BINARY'
  | 'FUSED_PREFERENCE_LOSS_NO_WORKERS'
  | 'FUSED_PREFERENCE_LOSS_POSITIVE_REFERENCE'
  | 'FUSED_PREFERENCE_LOSS_ZERO_REFERENCE'

// On the global object, so that the ESM and the CommonJS copy of this file warn once between them.
const given = Symbol.for('fused-preference-loss.warnings')

/** Emits the warning, unless this thread has emitted it before. */
export function warnOnce(code: WarningCode, message: string): void {
  const holder = globalThis as { [given]?: Set<string> }
  holder[given] ??= new Set()
  if (holder[given].has(code)) return
  holder[given].add(code)
  emitWarning(message, code)
}
