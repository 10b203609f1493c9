/**
 * Helpers of the tests of the packed tarball: packing, empty projects, and running programs in them.
 */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))
export const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const smoke = fileURLToPath(new URL('smoke', import.meta.url))

/** A folder for everything, and no compiler on the PATH in it: nothing but Node. */
export const scratch = mkdtempSync(join(tmpdir(), 'fused-preference-loss-package-'))
const path = join(scratch, 'bin')
mkdirSync(path)
symlinkSync(process.execPath, join(path, 'node'))

/** Deletes the scratch folder. */
export function cleanUp() {
  rmSync(scratch, { recursive: true, force: true })
}

// npm itself reports its path, which need not be beside the Node that runs this.
const npmCli = execFileSync('npm', ['exec', '--call', 'node -p process.env.npm_execpath'], { encoding: 'utf8' }).trim()
/** npm as a program of Node, which needs no PATH. */
export const npm = [process.execPath, npmCli]
const registry = execFileSync('npm', ['config', 'get', 'registry'], { encoding: 'utf8' }).trim()

/** The environment for filling the caches of package managers. */
export const ONLINE = {
  ...{ npm_config_registry: registry, YARN_NPM_REGISTRY_SERVER: registry, BUN_CONFIG_REGISTRY: registry },
  ...Object.fromEntries(
    Object.entries(process.env).filter(([name]) => /^(NODE_EXTRA_CA_CERTS|SSL_CERT_FILE)$/.test(name)),
  ),
}
/**
 * The environment for installing from the caches: a proxy that does not exist, for package managers without an offline
 * option.
 */
const NO_PROXY = 'http://127.0.0.1:9'
export const OFFLINE = { ...ONLINE, npm_config_offline: 'true', HTTP_PROXY: NO_PROXY, HTTPS_PROXY: NO_PROXY }

/** Runs a program in `cwd`; throws an error with its output when it fails. Returns its output. */
export function run(
  /** @type {string[]} */ [program, ...args],
  /** @type {string} */ cwd,
  /** @type {Record<string, string>} */ env = {},
) {
  // Into a file: node.exe under Wine cannot write to a pipe.
  const file = join(scratch, 'output.txt')
  const output = openSync(file, 'w')
  const { status, signal, error } = spawnSync(program, args, {
    cwd,
    env: { HOME: scratch, PATH: path, TMPDIR: tmpdir(), npm_config_cache: join(scratch, 'npm-cache'), CI: '1', ...env },
    stdio: ['ignore', output, output],
    timeout: 300_000,
  })
  closeSync(output)
  const printed = readFileSync(file, 'utf8')
  if (status !== 0) {
    throw new Error(`${[program, ...args].join(' ')}: ${error ?? signal ?? `exit code ${status}`}\n${printed}`)
  }
  return printed
}

/** Packs a folder of the package; returns the tarball. */
export function pack(/** @type {string} */ folder) {
  const [command, script] = npm
  const output = execFileSync(command, [script, 'pack', '--json', '--ignore-scripts', '--pack-destination', scratch], {
    cwd: folder,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const [{ filename, files, size }] = JSON.parse(output)
  const paths = files.map((/** @type {{ path: string }} */ { path }) => path)
  return { tarball: join(scratch, filename), files: paths, size }
}

/** The content of the package, with the addon compiled on this machine as its only binary. */
export function stage() {
  const folder = join(scratch, 'stage')
  mkdirSync(folder)
  for (const name of ['package.json', ...manifest.files]) {
    if (name !== 'prebuilds' && existsSync(join(root, name)))
      cpSync(join(root, name), join(folder, name), { recursive: true })
  }
  execFileSync(process.execPath, [join(root, 'scripts/prebuild.mjs'), '--from-build', folder])
  return folder
}

/**
 * An empty project: a package.json and the programs of smoke/.
 * @param {string} name
 * @param {object} contents
 */
export function project(name, contents = {}) {
  const folder = join(scratch, name)
  cpSync(smoke, folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name, private: true, ...contents }))
  return folder
}

/**
 * Runs the first program of the README, whose results are known. Returns its output, warnings included.
 * @param {string[]} runtime
 * @param {string} folder
 * @param {Record<string, string>} [env]
 */
export function runReadmeProgram(runtime, folder, env) {
  const readme = readFileSync(join(root, 'README.md'), 'utf8')
  const [, program] = /```js\n(.*?)```/s.exec(readme) ?? assert.fail('README.md has no program')
  writeFileSync(join(folder, 'readme.mjs'), program)
  const output = run([...runtime, 'readme.mjs'], folder, env)
  const [, ...numbers] = /^([\d.]+) ([\d.]+) (\d+)$/m.exec(output) ?? assert.fail(output)
  const [loss, margin, length] = numbers.map(Number)
  // Both sequences are equally likely, the reference prefers the rejected one by 5: margin 5β, loss log(1 + e^-margin).
  assert(Math.abs(margin - 0.5) < 1e-9, output)
  assert(Math.abs(loss - Math.log1p(Math.exp(-0.5))) < 1e-9, output)
  assert.equal(length, 2 * 128 * 50257)
  return output
}

/**
 * Runs a program of smoke/ and returns its result. `binary` is a part of the path that must have been loaded.
 * @param {string[]} command
 * @param {string} folder
 */
export function runSmoke(
  command,
  folder,
  { env, binary } = /** @type {{ env?: Record<string, string>, binary?: string }} */ ({}),
) {
  const file = join(folder, 'result.json')
  rmSync(file, { force: true })
  run(command, folder, env)
  const result = JSON.parse(readFileSync(file, 'utf8'))
  if (binary) {
    const { path: loaded = '', reason } = result.backends.cpu
    assert(loaded.replaceAll('\\', '/').includes(binary), `loaded ${loaded || `nothing: ${reason}`}, not ${binary}`)
    assert.deepEqual(result.inWorker.cpu, result.backends.cpu)
    assert.deepEqual(result.warnings, [])
  }
  return result
}

/** Where an installed package lies under npm's layout. */
export function installed(/** @type {string} */ folder) {
  return join(folder, 'node_modules', manifest.name)
}
