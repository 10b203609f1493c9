/**
 * Warnings about calls that are valid but probably unintended, each given once.
 */
import { emitWarning, type WarningCode } from './warning.js'

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
