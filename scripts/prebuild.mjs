/**
 * Makes the binaries that the package ships, prebuilds/<platform>-<arch>/, all from this machine:
 *
 *   node scripts/prebuild.mjs [target …]            targets as in TARGETS of shipped.mjs; defaults to all
 *   node scripts/prebuild.mjs --from-build FOLDER   the addon compiled on this machine instead, and the WebAssembly
 *                                                   modules if there are any, under FOLDER, for tests
 *
 * The same sources give the same bytes. prebuildify names and places the files; scripts/cross-compile.mjs compiles them.
 * Beside each binary stands <libc>.cjs, a subpath through which a bundler includes it; sizes.json lets the loader
 * detect a truncated file.
 */
import { execFileSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import prebuildify from 'prebuildify'
import { cmakeOptions, forgetMissingNvcc, nvcc } from './cmake-options.mjs'
import { linkCuda } from './link-cuda.mjs'
import { binaryOf, CUDA_FILE, CUDA_LIBRARY, CUDA_PLATFORM, recordSources, TARGETS, WASM_FILES } from './shipped.mjs'
import { installZig } from './zig.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const { values, positionals } = parseArgs({ options: { 'from-build': { type: 'string' } }, allowPositionals: true })
const prebuilds = join(values['from-build'] ?? root, 'prebuilds')
const { name } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

if (values['from-build']) copyBuild()
else await crossCompile(positionals.length > 0 ? positionals : TARGETS)
writeSizes()

async function crossCompile(/** @type {readonly string[]} */ targets) {
  const unknown = targets.find((target) => !TARGETS.includes(target))
  if (unknown) throw new Error(`'${unknown}' is not a target; the targets are ${TARGETS.join(', ')}`)
  installZig('prebuild')
  for (const target of targets) {
    console.log(`prebuild: ${target}`)
    const [platform, arch, libc] = target.split('-')
    const file = join(prebuilds, binaryOf(target))
    // In a separate folder: in the repository's, a foreign binary would hide the one compiled for this machine.
    const cwd = mkdtempSync(join(tmpdir(), `${name}-`))
    await promisify(prebuildify)({
      ...{ cwd, out: root, name, platform, arch, libc, tagLibc: libc !== undefined },
      ...{ napi: true, targets: [process.versions.node], nodeGyp: join(root, 'scripts/cross-compile.mjs') },
    })
    rmSync(cwd, { recursive: true })
    writeSubpath(file, libc)
    recordSources(prebuilds, [binaryOf(target)], 'addon')
  }
  if (targets.some((target) => target.startsWith(CUDA_PLATFORM))) addCuda()
}

function copyBuild() {
  const libc = process.platform === 'linux' ? 'glibc' : undefined
  const target = [process.platform, process.arch, libc].filter(Boolean).join('-')
  const file = join(prebuilds, binaryOf(target))
  mkdirSync(dirname(file), { recursive: true })
  copyFileSync(join(root, 'build/Release/fused_preference_loss.node'), file)
  writeSubpath(file, libc)
  recordSources(prebuilds, [binaryOf(target)], 'addon')
  for (const module of WASM_FILES.filter((module) => existsSync(join(root, 'prebuilds', module)))) {
    mkdirSync(dirname(join(prebuilds, module)), { recursive: true })
    copyFileSync(join(root, 'prebuilds', module), join(prebuilds, module))
    recordSources(prebuilds, [module], 'wasm')
  }
}

/**
 * Writes the module through which a bundler includes the binary: it names the file in a literal require.
 * @param {string} file
 * @param {string | undefined} libc
 */
function writeSubpath(file, libc) {
  const module = join(dirname(file), libc ?? 'addon')
  writeFileSync(
    `${module}.cjs`,
    `globalThis[Symbol.for('fused-preference-loss.addon')] = require('./${basename(file)}')\n`,
  )
  writeFileSync(`${module}.d.cts`, 'export {}\n')
}

/** Builds the CUDA library, if there is a CUDA compiler, and puts it beside the addon, which opens it on demand. */
function addCuda() {
  if (nvcc() === undefined) {
    console.log('prebuild: no CUDA library, because nvcc is not on the PATH; node scripts/install-nvcc.mjs installs it')
    return
  }
  console.log('prebuild: CUDA')
  const cmake = (/** @type {string[]} */ ...args) =>
    execFileSync(join(root, 'node_modules/.bin/cmake-js'), args, { cwd: root, stdio: 'inherit' })
  forgetMissingNvcc(join(root, 'build'))
  cmake('configure', ...cmakeOptions())
  cmake('compile', '--target', CUDA_LIBRARY, ...cmakeOptions())
  linkCuda(join(root, 'build'), join(prebuilds, CUDA_FILE))
  recordSources(prebuilds, [CUDA_FILE], 'cuda')
}

function writeSizes() {
  /** @type {Record<string, number>} */
  const sizes = {}
  for (const file of readdirSync(prebuilds, { recursive: true, encoding: 'utf8' }).sort()) {
    if (/\.(node|so|dll)$/.test(file)) sizes[file.replaceAll('\\', '/')] = statSync(join(prebuilds, file)).size
  }
  writeFileSync(join(prebuilds, 'sizes.json'), `${JSON.stringify(sizes, null, 2)}\n`)
}
