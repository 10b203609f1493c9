/**
 * Finds the native addon: compiled on this machine, shipped with the package, or carried along by a bundler. Keeps a
 * record of every file it looked at. index.ts uses the addon.
 */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { codeUrl, NAME, packageRoot } from '../package-root.js'

/** A file that was tried, and the problem with it. */
export interface Tried {
  path: string
  problem?: string
}

/** The addon and its file, or the reason why there is none. */
export type Loaded<Addon> = { tried: Tried[] } & ({ addon: Addon; path: string } | { reason: string })

/** The folder of prebuilds/ for this process, and the C library its binary needs ('' where there is only one). */
export function platformOfBinary(): { folder: string; libc: string } {
  return { folder: `${process.platform}-${process.arch}`, libc: process.platform === 'linux' ? libcOfProcess() : '' }
}

/** Decided by the library that this process has loaded: a machine may have both. */
function libcOfProcess(): string {
  try {
    return /\/libc(\.so\.6|-2\.\d+\.so)$/m.test(readFileSync('/proc/self/maps', 'latin1')) ? 'glibc' : 'musl'
  } catch {
    return 'glibc'
  }
}

/**
 * Loads the first binary that works.
 * @param problemOf returns the problem with an addon that has loaded, if there is one
 */
export function loadAddon<Addon>(problemOf: (addon: Addon) => string | undefined): Loaded<Addon> {
  const tried: Tried[] = []
  for (const { path, load } of candidates()) {
    let problem: string | undefined
    try {
      const addon = load() as Addon
      problem = problemOf(addon)
      if (problem === undefined) {
        tried.push({ path })
        return { addon, path, tried }
      }
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      problem = message.replace(`${path}: `, '').split('\n')[0]
    }
    tried.push({ path, problem })
  }
  const { folder, libc } = platformOfBinary()
  const lines = [
    `No native binary loads on ${folder}${libc && `, ${libc}`}. Tried:`,
    ...tried.map(({ path, problem }) => `  ${path}: ${problem}`),
    `Install ${NAME} again, or compile it here: npx ${NAME} build`,
  ]
  return { reason: lines.join('\n'), tried }
}

interface Candidate {
  path: string
  /** The addon; throws an error that describes the problem with the file. */
  load(): unknown
}

function candidates(): Candidate[] {
  // Put there by prebuilds/<platform>-<arch>/<libc>.cjs, which a bundle may include.
  const bundled = (globalThis as { [key: symbol]: unknown })[Symbol.for(`${NAME}.addon`)]
  if (bundled !== undefined) return [{ path: '(in the bundle)', load: () => bundled }]
  return files().map((path) => ({ path, load: () => loadFile(path) }))
}

function files(): string[] {
  const { folder, libc } = platformOfBinary()
  const prebuild = join('prebuilds', folder, [NAME, libc, 'node'].filter(Boolean).join('.'))
  const build = join('build', 'Release', 'fused_preference_loss.node')
  const root = packageRoot()
  if (root === undefined) return [join(dirname(fileURLToPath(codeUrl())), prebuild)]
  const own = process.env.PREBUILDS_ONLY ? [join(root, prebuild)] : [join(root, build), join(root, prebuild)]
  return [...new Set([...chosenByNodeGypBuild(root), ...own])]
}

// node-gyp-build tells musl from glibc by the distribution, and gives up when an old build does not load: hence our own
// list after its choice. In a bundle the package is missing.
function chosenByNodeGypBuild(root: string): string[] {
  try {
    const { path } = createRequire(codeUrl())('node-gyp-build') as { path(directory: string): string }
    return [path(root)]
  } catch {
    return []
  }
}

function loadFile(path: string): unknown {
  if (!existsSync(path)) throw new Error('no such file')
  // A truncated binary must not be opened: it may load, and crash when used.
  const list = join(dirname(path), '..', 'sizes.json')
  if (existsSync(list)) {
    const wanted = (JSON.parse(readFileSync(list, 'utf8')) as Record<string, number>)[
      `${basename(dirname(path))}/${basename(path)}`
    ]
    const { size } = statSync(path)
    if (size !== wanted) throw new Error(`${size} bytes instead of ${wanted}`)
  }
  return createRequire(codeUrl())(path)
}
