/**
 * `npm run test:stress`: life cycle, memory and scale, each part in processes of its own.
 *
 *   npm run test:stress [-- --quick] [-- --only lifecycle|memory|scale]
 *
 * Prints the number of attempts of each kind. The full form needs 5 GB of free memory, for scale.
 */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values } = parseArgs({ options: { quick: { type: 'boolean' }, only: { type: 'string' } } })
const parts = ['lifecycle', 'memory', 'scale'].filter((part) => !values.only || part === values.only)
for (const part of parts) {
  const path = fileURLToPath(new URL(`${part}.mjs`, import.meta.url))
  const flags = ['--expose-gc', path, ...(values.quick ? ['--quick'] : [])]
  const { status, signal } = spawnSync(process.execPath, flags, { stdio: 'inherit' })
  if (status !== 0) {
    console.error(`${part} ended with ${signal ?? status}`)
    process.exit(1)
  }
}
