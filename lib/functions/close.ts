/**
 * `close`: gives back what backends keep between calls.
 */
import { closeWasm } from '../backends/wasm/index.js'

/**
 * Ends the workers of the wasm backend and frees the memory of its modules, which otherwise stays as large as a call has
 * needed. Calls that run are waited for, and a later call begins anew. Nothing has to be closed: no worker keeps a process
 * alive. The other backends keep nothing.
 */
export function close(): Promise<void> {
  return closeWasm()
}
