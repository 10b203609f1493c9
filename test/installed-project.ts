/** A project that has the package as a dependency: dist, without build and prebuilds. No assertions here. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/** Makes one, with the package's dependencies and the types of Node.js, in a new folder, and returns its path. */
export function installedProject(): string {
  const project = mkdtempSync(join(tmpdir(), 'fused-preference-loss-'))
  const installed = join(project, 'node_modules', 'fused-preference-loss')
  mkdirSync(installed, { recursive: true })
  cpSync(join(root, 'dist'), join(installed, 'dist'), { recursive: true })
  cpSync(join(root, 'package.json'), join(installed, 'package.json'))
  const load = createRequire(import.meta.url)
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  for (const name of [...Object.keys(dependencies), '@types/node', 'undici-types']) {
    const link = join(project, 'node_modules', name)
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(dirname(load.resolve(`${name}/package.json`)), link, 'junction')
  }
  return project
}
