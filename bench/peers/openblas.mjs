/**
 * The OpenBLAS of `npm run bench:peers`, which `products: 'blas'` takes in the benchmark unless FUSED_PREFERENCE_LOSS_BLAS
 * names another library: the one of the wheels of NumPy and SciPy, newer than most systems'.
 */
import { existsSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const VARIABLE = 'FUSED_PREFERENCE_LOSS_BLAS'

/** The wheel's library; undefined where `npm run bench:peers` has not put one. */
function inWheel() {
  const folder = fileURLToPath(new URL('python/lib', import.meta.url))
  if (!existsSync(folder)) return undefined
  const found = readdirSync(folder).map(
    (python) => `${folder}/${python}/site-packages/scipy_openblas32/lib/libscipy_openblas.so`,
  )
  return found.find((path) => existsSync(path))
}

/** Chooses it, where nobody has chosen. */
export function chooseBlas() {
  process.env[VARIABLE] ??= inWheel() ?? ''
  return process.env[VARIABLE]
}
