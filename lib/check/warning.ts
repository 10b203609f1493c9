/**
 * Warnings: of the process, where there is one.
 */

/** The codes of warnings. */
export type WarningCode =
  | 'FUSED_PREFERENCE_LOSS_AVERAGED_REFERENCE'
  | 'FUSED_PREFERENCE_LOSS_DATA'
  | 'FUSED_PREFERENCE_LOSS_NO_ACTIVE_TOKENS'
  | 'FUSED_PREFERENCE_LOSS_NO_BINARY'
  | 'FUSED_PREFERENCE_LOSS_NO_WORKERS'
  | 'FUSED_PREFERENCE_LOSS_POSITIVE_REFERENCE'
  | 'FUSED_PREFERENCE_LOSS_ZERO_REFERENCE'

/** Warns the process; a browser has none, and there the console is warned. */
export function emitWarning(message: string, code: WarningCode): void {
  const { process: host } = globalThis as { process?: Partial<NodeJS.Process> }
  // What bundlers put in the place of a process cannot warn.
  if (typeof host?.emitWarning === 'function') host.emitWarning(message, { code })
  else console.warn(message)
}
