/**
 * The installed package, as the commands see it.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The package's folder, two above this file. */
export const packageRoot = fileURLToPath(new URL('../..', import.meta.url))

/** Its package.json. */
export const manifest: { version: string; devDependencies: Record<string, string> } = JSON.parse(
  readFileSync(join(packageRoot, 'package.json'), 'utf8'),
)
