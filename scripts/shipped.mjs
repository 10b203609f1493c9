/**
 * The parts that the package ships besides its documents, and the check that all are there and made from the current
 * sources. Each build step records a fingerprint of the sources beside its output: prebuilds/sources.json,
 * dist/sources.json.
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { linked } from './links.mjs'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const NAME = 'fused-preference-loss'

/** <platform>-<arch>, on Linux with -<libc>. */
export const TARGETS = [
  'linux-x64-glibc',
  'linux-x64-musl',
  'linux-arm64-glibc',
  'linux-arm64-musl',
  'darwin-x64',
  'darwin-arm64',
  'win32-x64',
  'win32-arm64',
]
export const CUDA_LIBRARY = 'fused_preference_loss_cuda'
export const CUDA_PLATFORM = 'linux-x64'

/** The file of a target, relative to prebuilds/. */
export function binaryOf(target) {
  const [platform, arch, libc] = target.split('-')
  return `${platform}-${arch}/${[NAME, libc, 'node'].filter(Boolean).join('.')}`
}

/** The file of the CUDA library, relative to prebuilds/. */
export const CUDA_FILE = `${CUDA_PLATFORM}/${CUDA_LIBRARY}.so`

/** The WebAssembly modules, relative to prebuilds/: for one thread, and for threads that share its memory. */
export const WASM_FILES = /** @type {const} */ ([
  'wasm/fused-preference-loss.wasm',
  'wasm/fused-preference-loss.threads.wasm',
])

/** The required parts besides dist: a name for `--without`, a file of prebuilds/, and its sources. */
const PARTS = [
  ...TARGETS.map((target) => ({ name: target, file: binaryOf(target), of: 'addon' })),
  { name: 'cuda', file: CUDA_FILE, of: 'cuda' },
  ...WASM_FILES.map((file) => ({ name: 'wasm', file, of: 'wasm' })),
]

/** The names of the parts that may be left out. */
export const PART_NAMES = [...new Set(PARTS.map(({ name }) => name))]

/** The sources of each part: files and folders, paths below them that do not count, and fields of package.json. */
const SOURCES = {
  addon: {
    from: ['native', 'scripts/cross-compile.mjs', 'scripts/zig.mjs', 'scripts/toolchain/package-lock.json'],
    except: /^native\/(wasm\/|cuda\/(host\/|.*\.cu$|sources\.txt$|exports\.map$))/,
  },
  cuda: {
    from: [
      ...['native/cuda', 'native/core', 'CMakeLists.txt', 'scripts/link-cuda.mjs', 'scripts/zig.mjs'],
      ...['scripts/toolchain/newer-glibc.c', 'scripts/toolchain/package-lock.json'],
    ],
    except: /^native\/cuda\/host\//,
  },
  wasm: {
    from: ['native', 'scripts/build-wasm.mjs', 'scripts/toolchain/package-lock.json'],
    except: /^native\/(addon|cuda)\//,
  },
  // Dependencies are not bundled into dist; the version is read at run time.
  dist: { from: ['lib', 'tsdown.config.ts', 'tsconfig.json'], fields: ['type', 'dependencies', 'peerDependencies'] },
}

/** A hash of the names and contents of a part's sources. */
function fingerprint(of, root) {
  const { from, except, fields = [] } = SOURCES[of]
  const hash = createHash('sha256')
  for (const path of from.flatMap((path) => filesBelow(root, path))) {
    if (!except?.test(path))
      hash
        .update(`${path}\0`)
        .update(readFileSync(join(root, path)))
        .update('\0')
  }
  const manifest = readJson(join(root, 'package.json'))
  hash.update(JSON.stringify(fields.map((field) => manifest[field])))
  return hash.digest('hex')
}

/** Whether dist is there and made from the current sources. */
export function distIsCurrent(root = ROOT) {
  return readJson(join(root, 'dist/sources.json')).dist === fingerprint('dist', root)
}

/** Whether the WebAssembly modules are there and made from the current sources. */
export function wasmIsCurrent(root = ROOT) {
  const made = readJson(join(root, 'prebuilds/sources.json'))
  return WASM_FILES.every(
    (file) => existsSync(join(root, 'prebuilds', file)) && made[file] === fingerprint('wasm', root),
  )
}

/**
 * The files under a path, or the path itself if it is a file, relative to `root` and sorted; an empty list if the path
 * does not exist.
 */
function filesBelow(root, path) {
  const full = join(root, path)
  if (!existsSync(full)) return []
  if (!statSync(full).isDirectory()) return [path]
  return readdirSync(full)
    .sort()
    .flatMap((name) => filesBelow(root, `${path}/${name}`))
}

/** Records that files of `folder` were made from the current sources. */
export function recordSources(folder, files, of, root = ROOT) {
  const record = join(folder, 'sources.json')
  const all = { ...readJson(record), ...Object.fromEntries(files.map((file) => [file, fingerprint(of, root)])) }
  writeFileSync(record, `${JSON.stringify(Object.fromEntries(Object.entries(all).sort()), null, 2)}\n`)
}

function readJson(file) {
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {}
}

/**
 * The problems of the package in `folder` (the repository itself or an unpacked tarball), compared with the sources in
 * `root`: one line each, an empty list if it may be published. `without` names parts that may be missing.
 */
export function problemsOf(folder, { root = ROOT, without = [] } = {}) {
  const there = (path) => existsSync(join(folder, path)) && statSync(join(folder, path)).size > 0
  const manifest = readJson(join(folder, 'package.json'))
  const parts = PARTS.filter(({ name }) => !without.includes(name))
  const wanted = [
    ...targetsOf([manifest.exports, manifest.main, manifest.types, manifest.bin]),
    ...(manifest.files ?? []).filter((path) => path !== 'prebuilds' || parts.length > 0),
    ...parts.map(({ file }) => `prebuilds/${file}`),
    ...parts.filter(({ file }) => there(`prebuilds/${file}`)).flatMap(({ file }) => subpathOf(file)),
  ]
  const missing = [...new Set(wanted)].filter((path) => !there(path))
  return [
    ...missing.map((path) => `${path} is missing`),
    ...stale(folder, root, parts),
    ...wrongSizes(folder),
    ...otherSources(folder, root),
  ]
}

/** The files that fields of package.json name. */
function targetsOf(value) {
  if (typeof value === 'string') return value.includes('*') ? [] : [value.replace(/^\.\//, '')]
  return Object.values(value ?? {}).flatMap(targetsOf)
}

/** The module beside a binary through which bundlers include it, and its types. */
function subpathOf(file) {
  if (!file.endsWith('.node')) return []
  const [folder, name] = file.split('/')
  const [, libc] = /\.(\w+)\.node$/.exec(name) ?? []
  return ['cjs', 'd.cts'].map((ending) => `prebuilds/${folder}/${libc ?? 'addon'}.${ending}`)
}

function stale(folder, root, parts) {
  const prebuilds = readJson(join(folder, 'prebuilds/sources.json'))
  const made = [
    ...parts.map(({ file, of }) => ({ path: `prebuilds/${file}`, of, from: prebuilds[file] })),
    { path: 'dist', of: 'dist', from: readJson(join(folder, 'dist/sources.json')).dist },
  ]
  return made
    .filter(({ path, of, from }) => existsSync(join(folder, path)) && from !== fingerprint(of, root))
    .map(({ path }) => `${path} is older than its sources`)
}

/** The loader refuses a binary whose size differs from the listed one. */
function wrongSizes(folder) {
  const sizes = readJson(join(folder, 'prebuilds/sizes.json'))
  const binaries = filesBelow(folder, 'prebuilds').filter((path) => /\.(node|so|dll)$/.test(path))
  return binaries
    .filter((path) => sizes[path.slice('prebuilds/'.length)] !== statSync(join(folder, path)).size)
    .map((path) => `prebuilds/sizes.json does not list the size of ${path}`)
}

/**
 * A tarball must contain the manifest, and the sources that `build` compiles, of the repository against which it is
 * checked.
 */
function otherSources(folder, root) {
  const read = (from, path) => readFileSync(join(from, path))
  const same = (path) => existsSync(join(folder, path)) && read(folder, path).equals(read(root, path))
  return [...filesBelow(root, 'native'), 'CMakeLists.txt', 'package.json']
    .filter((path) => !same(path))
    .map((path) => `${path} differs from the repository`)
}

/**
 * The tasks left before a release, one line each. `repository` is the repository that makes the release, if it is
 * known.
 */
export function releaseProblems({ root = ROOT, repository } = {}) {
  const manifest = readJson(join(root, 'package.json'))
  const url = manifest.repository?.url ?? ''
  const [, name] = /^git\+https:\/\/github\.com\/([^/]+\/[^/]+)\.git$/.exec(url) ?? []
  const problems = []
  if (name === undefined) problems.push(`package.json: repository.url is '${url}', not git+https://github.com/….git`)
  else if (name.startsWith('OWNER/'))
    problems.push('package.json: OWNER stands where the owner of the repository belongs')
  else if (repository && repository !== name)
    problems.push(`package.json names the repository ${name}; this is ${repository}`)
  const page = `https://github.com/${name}`
  if (manifest.homepage !== `${page}#readme`) problems.push(`package.json: homepage is not ${page}#readme`)
  if (manifest.bugs?.url !== `${page}/issues`) problems.push(`package.json: bugs.url is not ${page}/issues`)
  if (name !== undefined) {
    const readme = readFileSync(join(root, 'README.md'), 'utf8')
    if (linked(readme, page) !== readme)
      problems.push(`README.md links to another repository than ${page}: npm run docs:links`)
  }
  const heading = new RegExp(`^## ${manifest.version.replaceAll('.', '\\.')} \\(\\d{4}-\\d\\d-\\d\\d\\)$`, 'm')
  if (!heading.test(readFileSync(join(root, 'CHANGELOG.md'), 'utf8'))) {
    problems.push(`CHANGELOG.md has no heading '## ${manifest.version} (<date>)'`)
  }
  return problems
}
