/**
 * Where the package is installed, whose binaries the backends load.
 */
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

/** The name of the package. */
export const NAME = 'fused-preference-loss'

/**
 * The package's folder: two above this file or, when this file is part of a bundle, the folder where the package is
 * installed.
 */
export function packageRoot(): string | undefined {
  const above = fileURLToPath(new URL('../..', codeUrl()))
  if (isPackage(above)) return above
  try {
    return dirname(createRequire(codeUrl()).resolve(`${NAME}/package.json`))
  } catch {
    return undefined
  }
}

function isPackage(folder: string): boolean {
  const manifest = join(folder, 'package.json')
  return existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).name === NAME
}

/**
 * The URL of this file, or of the bundle that it is part of. Bundlers that write CommonJS may leave `import.meta.url`
 * undefined; the program's main file then stands in.
 */
export function codeUrl(): string {
  return import.meta.url ?? pathToFileURL(process.argv[1] ?? join(process.cwd(), 'bundle.js')).href
}
