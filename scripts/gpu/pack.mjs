/**
 * `npm run gpu:pack`: makes one folder, gpu-pack/, with everything that an offline Linux x64 host with an NVIDIA GPU
 * needs to test and measure this repository: Node, the built addon and CUDA library, tests, benchmarks and their
 * imports. There, `gpu-pack/run.sh [output folder]` runs all of it. Needs tar and xz; a GPU is not needed for packing.
 *
 *   --wheel FILE      a Python package that is installed there, for peers of the benchmarks; may be repeated
 *   --variant FILE    a patch of native/, of which the kernels are compiled, checked and measured there, too; may be repeated
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { CUDA_LIBRARY, librariesOf, oldestGlibc, PARTS } from './parts.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const target = join(root, 'gpu-pack')
const tree = join(target, 'tree')
const LIMIT = 60 * 2 ** 20

/** What benchmarks have written or installed on this machine. */
const LOCAL = /[\\/]bench[\\/](out|peers[\\/]python)$/
/** The packages that the tests and benchmarks import there; their own dependencies are packed too. */
const PACKAGES = ['vitest', 'fast-check', 'node-gyp-build']

const { values } = parseArgs({
  options: {
    wheel: { type: 'string', multiple: true, default: [] },
    variant: { type: 'string', multiple: true, default: [] },
  },
})
/** Folders of the tree, and the files that are put there. */
const GIVEN = {
  wheels: { files: values.wheel, extension: '.whl' },
  variants: { files: values.variant, extension: '.patch' },
}

const stop = (/** @type {string} */ reason) => {
  console.error(`gpu:pack: ${reason}`)
  process.exit(1)
}
for (const { files, extension } of Object.values(GIVEN)) {
  for (const file of files) {
    if (!file.endsWith(extension)) stop(`${file} must end in ${extension}`)
    if (!existsSync(file)) stop(`${file} is missing`)
  }
}
if (!existsSync(join(root, CUDA_LIBRARY))) stop(`${CUDA_LIBRARY} is missing; it is built where nvcc is on the PATH`)
rmSync(target, { recursive: true, force: true })
mkdirSync(tree, { recursive: true })
for (const part of PARTS) {
  mkdirSync(dirname(join(tree, part)), { recursive: true })
  // The tools of test/package and the peers of bench are large and of no use there.
  const filter = (/** @type {string} */ path) => basename(path) !== 'node_modules' && !LOCAL.test(path)
  cpSync(join(root, part), join(tree, part), { recursive: true, filter })
}
for (const name of withDependencies(PACKAGES)) {
  cpSync(join(root, name), join(tree, name), { recursive: true, dereference: true })
}
for (const [folder, { files }] of Object.entries(GIVEN)) {
  for (const file of files) cpSync(file, join(tree, folder, basename(file)))
}
mkdirSync(join(tree, 'bin'))
copyFileSync(process.execPath, join(tree, 'bin', 'node'))
execFileSync('strip', [join(tree, 'bin', 'node')])
// What Node.js needs of the system besides the C library, for a host without a compiler's run-time libraries.
mkdirSync(join(tree, 'bin', 'lib'))
for (const path of librariesOf(process.execPath)) copyFileSync(path, join(tree, 'bin', 'lib', basename(path)))
execFileSync('tar', ['-C', tree, '--use-compress-program', 'xz -6 -T2', '-cf', join(target, 'tree.tar.xz'), '.'])
rmSync(tree, { recursive: true })
for (const file of ['run.sh', 'README']) copyFileSync(join(root, 'scripts/gpu', file), join(target, file))

const { size } = statSync(join(target, 'tree.tar.xz'))
const binaries = PARTS.filter((part) => part.startsWith('build/')).map((part) => join(root, part))
const glibc = oldestGlibc([process.execPath, ...binaries])
console.log(
  `gpu-pack/: ${(size / 2 ** 20).toFixed(1)} MB. On the GPU host, which needs glibc ${glibc}: gpu-pack/run.sh`,
)
if (size > LIMIT) stop(`that is more than ${LIMIT / 2 ** 20} MB`)

/** Folders in node_modules of these packages and of all their dependencies, as far as they are installed. */
function withDependencies(/** @type {string[]} */ names) {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'))
  const found = new Set()
  const add = (/** @type {string} */ name, /** @type {string} */ from) => {
    // The nearest node_modules above the importing package.
    for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf('/node_modules/')))) {
      const path = `${folder ? `${folder}/` : ''}node_modules/${name}`
      if (packages[path]) {
        if (found.has(path) || !existsSync(join(root, path)) || readdirSync(join(root, path)).length === 0) return
        found.add(path)
        const { dependencies = {}, optionalDependencies = {} } = packages[path]
        for (const next of Object.keys({ ...dependencies, ...optionalDependencies })) add(next, path)
        return
      }
      if (folder === '') return
    }
  }
  for (const name of names) add(name, '')
  return found
}
