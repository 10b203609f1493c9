/**
 * Which backend runs a call.
 */
import { failure } from '../errors.js'
import type { InstructionSet, RunOptions } from '../types.js'
import type { Backend } from './backend.js'
import { jsBackend } from './js/index.js'
import { loadNative } from './native.js'

/** Why 'cuda' is missing. */
export const NO_CUDA = 'this version has no CUDA backend'

/** The backend by that name. 'auto' is 'cpu' where the addon loads, else 'js' with one warning per process. */
export function pickBackend(name: NonNullable<RunOptions['backend']>, instructionSet?: InstructionSet): Backend {
  if (name === 'cuda') throw failure('ERR_BACKEND_UNAVAILABLE', `options.backend 'cuda' is not available: ${NO_CUDA}`)
  if (name === 'js') return portable(instructionSet)
  const native = loadNative()
  if ('reason' in native) {
    if (name === 'cpu') {
      throw failure('ERR_BACKEND_UNAVAILABLE', `options.backend 'cpu' is not available: ${native.reason}`)
    }
    warnOnce(native.reason)
    return portable(instructionSet)
  }
  const { instructionSets } = native.info
  if (instructionSet !== undefined && !instructionSets.includes(instructionSet)) {
    const problem = `options.instructionSet '${instructionSet}' is not available: this CPU has ${instructionSets.join(', ')}`
    throw failure('ERR_BACKEND_UNAVAILABLE', problem)
  }
  return native.backend
}

function portable(instructionSet?: InstructionSet): Backend {
  if (instructionSet === undefined) return jsBackend
  const problem = `options.instructionSet '${instructionSet}' is not available: the js backend has none`
  throw failure('ERR_BACKEND_UNAVAILABLE', problem)
}

// On the global object, so that the ESM and the CommonJS copy of this file warn once between them.
const warned = Symbol.for('fused-preference-loss.warned')

function warnOnce(reason: string): void {
  const flags = globalThis as { [warned]?: boolean }
  if (flags[warned]) return
  flags[warned] = true
  process.emitWarning(`fused-preference-loss runs without its native binary, many times slower: ${reason}`, {
    code: 'FUSED_PREFERENCE_LOSS_NO_BINARY',
  })
}
