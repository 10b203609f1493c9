/**
 * Finds a library of BLAS: the one that the user names, else the first that can be used.
 */
import { failure } from '../../errors.js'
import type { BlasFunctions } from './addon.js'

/** Environment variable with the path of the library, or its name for the dynamic linker. */
export const VARIABLE = 'FUSED_PREFERENCE_LOSS_BLAS'

const NAMES: { [platform: string]: readonly string[] } = {
  linux: [
    'libopenblas.so.0',
    'libopenblas.so',
    'libmkl_rt.so.3',
    'libmkl_rt.so.2',
    'libmkl_rt.so',
    'libblis.so.4',
    'libblis.so',
  ],
  darwin: ['/System/Library/Frameworks/Accelerate.framework/Accelerate'],
  win32: ['libopenblas.dll', 'openblas.dll', 'mkl_rt.3.dll', 'mkl_rt.2.dll', 'libblis.dll'],
}

const TO_INSTALL = `Install one:
  apt install libopenblas0-pthread
  dnf install openblas-threads
  brew install openblas (macOS has Accelerate without it)
  pip install scipy-openblas32, or: pip install mkl
or name it: ${VARIABLE}, with the path of the library.`

/** The numbers of libraries that are open, by what was asked for. */
type Opened = Map<string, number>
const opened = new WeakMap<BlasFunctions, Opened>()

/**
 * Opens it, once.
 *
 * @throws Error `ERR_BACKEND_UNAVAILABLE`, with what was tried and what to install.
 */
export function openBlas(blas: BlasFunctions): number {
  const chosen = process.env[VARIABLE] ?? ''
  const known = opened.get(blas) ?? new Map<string, number>()
  opened.set(blas, known)
  const before = known.get(chosen)
  if (before !== undefined) return before
  const tried: string[] = []
  for (const path of chosen === '' ? (NAMES[process.platform] ?? []) : [chosen]) {
    const found = blas.open(path)
    if (typeof found === 'number') {
      known.set(chosen, found)
      return found
    }
    tried.push(found.startsWith(path) ? found : `${path}: ${found}`)
  }
  const lines = ['No library of BLAS can be used. Tried:', ...tried.map((line) => `  ${line}`), TO_INSTALL]
  throw failure('ERR_BACKEND_UNAVAILABLE', lines.join('\n'))
}
