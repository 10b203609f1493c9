/**
 * Warnings: of the process, where there is one.
 */

/** Warns the process; a browser has none, and there the console is warned. */
export function emitWarning(message: string, code: string): void {
  const { process: host } = globalThis as { process?: Partial<NodeJS.Process> }
  // What bundlers put in the place of a process cannot warn.
  if (typeof host?.emitWarning === 'function') host.emitWarning(message, { code })
  else console.warn(message)
}
