/**
 * The packed tarball, installed by npm into an empty project; its binary is the one compiled on this machine. All
 * package managers, runtimes and platforms: `npm run test:package`.
 */
import { cpSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { getBackends } from '../lib/index.js'
import { WASM_FILES } from '../scripts/shipped.mjs'
import {
  cleanUp,
  installed,
  manifest,
  npm,
  ONLINE,
  pack,
  project,
  root,
  run,
  runReadmeProgram,
  runSmoke,
  scratch,
  stage,
} from './package/support.mjs'

const folder = `prebuilds/${process.platform}-${process.arch}`
const libc = process.platform === 'linux' ? '.glibc' : ''
const binary = `${folder}/fused-preference-loss${libc}.node`
const tool = (name: string) => [process.execPath, join(root, 'node_modules/.bin', name)]

let packed: ReturnType<typeof pack>
let app: string

beforeAll(() => {
  packed = pack(stage())
  app = project('app', { dependencies: { [manifest.name]: `file:${packed.tarball}` } })
  run([...npm, 'install'], app, ONLINE)
}, 60_000)
afterAll(cleanUp, 60_000)

test('what is inside: no install script, nothing that makes npm compile', () => {
  expect(packed.files).toEqual(
    expect.arrayContaining([
      'dist/index.mjs',
      'dist/browser/index.mjs',
      'CMakeLists.txt',
      'native/sources.txt',
      binary,
    ]),
  )
  const modules = getBackends().wasm.available ? WASM_FILES.map((file) => `prebuilds/${file}`) : []
  expect(packed.files.filter((file) => file.endsWith('.wasm')).sort()).toEqual([...modules].sort())
  expect(packed.files).not.toContain('binding.gyp')
  expect(packed.files.filter((file) => /(^|\/)(build|test|scripts|node_modules)\//.test(file))).toEqual([])
  expect(manifest.gypfile).toBe(false)
  expect(Object.keys(manifest.scripts)).not.toEqual(
    expect.arrayContaining([expect.stringMatching(/install$|^prepare$/)]),
  )
})

test('publint and attw find nothing', () => {
  run([...tool('publint'), 'run', '--strict', packed.tarball], scratch)
  run([...tool('attw'), '--profile', 'node16', packed.tarball], scratch)
})

test.each(['smoke.mjs', 'smoke.cjs'])('%s: every backend, a promise, a worker thread', (program) => {
  const { backends } = runSmoke([process.execPath, program], app, { binary })
  expect(backends.cpu.available).toBe(true)
})

test('the first program of the README', () => {
  expect(runReadmeProgram([process.execPath], app)).not.toContain('Warning')
})

describe.runIf(getBackends().wasm.available)('the same on wasm, with one warning', () => {
  const expectOneWarning = (output: string) => {
    expect(output.match(/Warning|FUSED_PREFERENCE_LOSS_\w+/g)).toEqual(['FUSED_PREFERENCE_LOSS_NO_BINARY', 'Warning'])
    expect(output).toContain('in WebAssembly, a few times slower')
  }

  test('where no addon may be loaded', () => {
    expectOneWarning(runReadmeProgram([process.execPath, '--no-addons'], app))
  })

  test('where the binary is gone', () => {
    const copy = join(scratch, 'no-binary')
    cpSync(app, copy, { recursive: true })
    rmSync(join(installed(copy), binary))
    expectOneWarning(runReadmeProgram([process.execPath], copy))
  })
})

test('npm ci, without scripts', () => {
  const again = project('again', { dependencies: { [manifest.name]: `file:${packed.tarball}` } })
  cpSync(join(app, 'package-lock.json'), join(again, 'package-lock.json'))
  run([...npm, 'ci', '--ignore-scripts', '--offline'], again, ONLINE)
  runSmoke([process.execPath, 'smoke.mjs'], again, { binary })
})

describe('a damaged installation: wasm serves, or js without it, with one warning', () => {
  test.each<[string, (file: string, directory: string) => void, RegExp]>([
    ['missing', (file) => rmSync(file), /no such file/],
    ['truncated', (file) => truncateSync(file, 100_000), /100000 bytes instead of \d+/],
    ['of another platform', (file) => writeFileSync(file, 'MZ'), /2 bytes instead of \d+/],
    [
      'of another platform, with no list of sizes',
      (file, directory) => {
        rmSync(join(directory, 'prebuilds/sizes.json'))
        writeFileSync(file, 'MZ'.padEnd(100_000))
      },
      /invalid ELF header|not a mach-o|not a valid Win32/i,
    ],
  ])('%s', (name, damage, problem) => {
    const copy = join(scratch, name.replace(/\W+/g, '-'))
    cpSync(app, copy, { recursive: true })
    damage(join(installed(copy), binary), installed(copy))
    const { backends, warnings } = runSmoke([process.execPath, 'smoke.mjs'], copy)
    expect(backends.cpu.available).toBe(false)
    expect(backends.wasm.available).toBe(getBackends().wasm.available)
    expect(backends.cpu.reason).toContain(binary.split('/').at(-1))
    expect(backends.cpu.reason).toMatch(problem)
    expect(backends.cpu.reason).toContain('npx fused-preference-loss build')
    expect(warnings).toEqual(['FUSED_PREFERENCE_LOSS_NO_BINARY'])
  })
})

test('inspect says what was loaded and what was tried', () => {
  const cli = join(installed(app), manifest.bin[manifest.name])
  const facts = JSON.parse(run([process.execPath, cli, 'inspect', '--json'], app))
  expect(facts).toMatchObject({ version: manifest.version, platform: folder.split('/')[1] })
  expect(facts.tried).toEqual([{ path: facts.binary }])
  expect(facts.binary.replaceAll('\\', '/')).toContain(binary)
})
