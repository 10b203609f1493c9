/**
 * The installed package: imported by its name in both module systems, with and without its native binary. Uses dist. Its
 * types are in package-types.test.ts.
 */
import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { LOSSES } from '../lib/backends/js/losses.js'
import * as library from '../lib/index.js'
import { installedProject } from './installed-project.js'

const execute = promisify(execFile)
const root = fileURLToPath(new URL('..', import.meta.url))
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const FUNCTIONS = [
  'close',
  'crossEntropy',
  'crossEntropySync',
  'fusedLinearPreferenceLoss',
  'fusedLinearPreferenceLossSync',
  'fusedLinearUnpairedPreferenceLoss',
  'fusedLinearUnpairedPreferenceLossSync',
  'fusedPreferenceLoss',
  'fusedPreferenceLossSync',
  'fusedUnpairedPreferenceLoss',
  'fusedUnpairedPreferenceLossSync',
  'getBackends',
  'linearCrossEntropy',
  'linearCrossEntropySync',
  'linearSequenceLogProbs',
  'linearSequenceLogProbsSync',
  'loadWasm',
  'preferenceLoss',
  'preferenceLossSync',
  'runningRewardMean',
  'sequenceLogProbs',
  'sequenceLogProbsSync',
  'unpairedPreferenceLoss',
  'unpairedPreferenceLossSync',
]

/** Runs code in a child whose working directory is `cwd`. */
async function run(code: string, type: 'module' | 'commonjs', cwd: string, env: Record<string, string> = {}) {
  const { stdout, stderr } = await execute(process.execPath, [`--input-type=${type}`, '-e', code], {
    cwd,
    env: { ...process.env, NODE_OPTIONS: '', FUSED_PREFERENCE_LOSS_INSTRUCTION_SET: '', ...env },
  })
  return { result: JSON.parse(stdout), stderr }
}

const LOAD = {
  module: `import * as fpl from 'fused-preference-loss';`,
  commonjs: `const fpl = require('fused-preference-loss');`,
}

/** The exported names, a known loss, a known gradient, and the backends. */
const USE = `
  const data = Float32Array.of(0, 0, Math.log(3), 0)
  const result = fpl.fusedPreferenceLossSync({ data, shape: [2, 1, 2] }, Int32Array.of(0, 0), {
    shift: false, lossType: 'cpo', beta: 1, gradient: true
  })
  const summary = {
    names: Object.keys(fpl).sort(),
    chosen: result.chosenLogProbs[0],
    loss: result.loss,
    gradient: Array.from(result.gradLogits.data),
    backends: fpl.getBackends(),
  }
`

function expectRight({ names, chosen, loss, gradient }: Record<string, unknown> & { gradient: number[] }): void {
  expect(names).toEqual(FUNCTIONS)
  expect(chosen).toBeCloseTo(-Math.LN2, 12)
  // z = log(1/2) - log(3/4), the loss log(1 + e^-z), its slope -1 / (1 + e^z).
  expect(loss).toBeCloseTo(Math.log(2.5), 6)
  const wanted = [-0.6 * 0.5, 0.6 * 0.5, 0.6 * 0.25, -0.6 * 0.25]
  for (const [i, x] of gradient.entries()) expect(x).toBeCloseTo(wanted[i], 6)
}

test('the sources export the functions of the package', () => {
  expect(Object.keys(library).sort()).toEqual(FUNCTIONS)
})

describe.each(['module', 'commonjs'] as const)('imported by its name as %s', (type) => {
  test('the functions, on the native backend, without a word', async () => {
    const { result, stderr } = await run(`${LOAD[type]} ${USE} console.log(JSON.stringify(summary))`, type, root)
    expectRight(result)
    expect(result.backends.cpu).toEqual(JSON.parse(JSON.stringify(library.getBackends().cpu)))
    expect(result.backends.cpu.available).toBe(true)
    expect(stderr).toBe('')
  })

  test('the environment may force an instruction set', async () => {
    const ask = `${LOAD[type]} console.log(JSON.stringify(fpl.getBackends().cpu))`
    for (const set of library.getBackends().cpu.instructionSets!) {
      const { result } = await run(ask, type, root, { FUSED_PREFERENCE_LOSS_INSTRUCTION_SET: set })
      expect(result).toMatchObject({ available: true, instructionSet: set })
    }
    const { result, stderr } = await run(ask, type, root, { FUSED_PREFERENCE_LOSS_INSTRUCTION_SET: 'mmx' })
    expect(result).toEqual({ available: false, reason: expect.stringContaining('mmx') })
    expect(stderr).toBe('')
  })
})

test('everything the manifest points to is there, with types for both module systems', () => {
  const targets = (value: unknown): string[] =>
    typeof value === 'string' ? [value] : Object.values(value as object).flatMap(targets)
  const exported = targets(manifest.exports).filter((path) => !path.includes('*'))
  for (const path of [...exported, manifest.main, manifest.types]) {
    expect([path, existsSync(join(root, path))]).toEqual([path, true])
  }
  for (const [name, entry] of Object.entries<Record<string, Record<string, string>>>(manifest.exports)) {
    if (typeof entry === 'string') continue
    expect([name, entry.import.types, entry.require.types]).toEqual([
      name,
      expect.stringMatching(/\.d\.mts$/),
      expect.stringMatching(/\.d\.cts$/),
    ])
  }
})

test('the files for browsers import each other and peers alone, find their files, and compile no text', () => {
  const folder = join(root, 'dist/browser')
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.mjs'))
  expect(files.length).toBeGreaterThan(6)
  const [imports, urls] = [/^(?:import|export)\b[^'"]*["']([^"']+)["']/gm, /new URL\("([^"]+)", import\.meta\.url\)/g]
  const found = files.flatMap((file) => {
    const code = readFileSync(join(folder, file), 'utf8')
    expect(code).not.toMatch(/\beval\(|\bnew Function\b|\brequire\(|\bimport\(/)
    return [imports, urls].flatMap((pattern) =>
      [...code.matchAll(pattern)].map(([, target]) => ({ target, path: join(folder, dirname(file), target) })),
    )
  })
  expect(found.filter(({ target }) => target.endsWith('.wasm'))).toHaveLength(2)
  for (const { target, path } of found) {
    if (!target.startsWith('.')) expect(target).toMatch(/^@(tensorflow|jax-js)\//)
    else if (!target.endsWith('.wasm') || library.getBackends().wasm.available)
      expect([path, existsSync(path)]).toEqual([path, true])
  }
})

test.each(['module', 'commonjs'] as const)('the adapters, as %s', async (type) => {
  const load = (name: string) =>
    type === 'module' ? `await import('fused-preference-loss/${name}')` : `require('fused-preference-loss/${name}')`
  const names = (name: string) => `Object.keys(${load(name)}).sort()`
  const code = `console.log(JSON.stringify([${['tfjs', 'jax', 'onnxruntime'].map(names)}]))`
  const { result } = await run(code, type, root)
  expect(result).toEqual([
    [
      'crossEntropy',
      'crossEntropyVariableGrads',
      'fusedLinearPreferenceLoss',
      'fusedLinearPreferenceLossVariableGrads',
      'fusedLinearUnpairedPreferenceLoss',
      'fusedLinearUnpairedPreferenceLossVariableGrads',
      'fusedPreferenceLoss',
      'fusedPreferenceLossVariableGrads',
      'fusedUnpairedPreferenceLoss',
      'fusedUnpairedPreferenceLossVariableGrads',
      'linearCrossEntropy',
      'linearCrossEntropyVariableGrads',
      'linearSequenceLogProbs',
      'linearTokenLogProbs',
      'linearTokenOutputs',
      'sequenceLogProbs',
      'sparseSoftmaxCrossEntropy',
      'tokenLogProbs',
      'tokenOutputs',
    ],
    [
      'crossEntropyValueAndGrad',
      'fusedLinearPreferenceLossValueAndGrad',
      'fusedLinearUnpairedPreferenceLossValueAndGrad',
      'fusedPreferenceLossValueAndGrad',
      'fusedUnpairedPreferenceLossValueAndGrad',
      'linearCrossEntropyValueAndGrad',
      'linearTokenLossValueAndGrad',
      'tokenLossValueAndGrad',
    ],
    ['readReferenceLogProbs', 'referenceLogProbs', 'toLogits', 'writeReferenceLogProbs'],
  ])
})

describe('in a project of its own', () => {
  let project: string
  beforeAll(() => {
    project = installedProject()
  })
  afterAll(() => rmSync(project, { recursive: true }))

  const WATCH = `
    const warnings = []
    process.on('warning', ({ name, code, message }) => warnings.push({ name, code, message }))
  `
  const REPORT = `setTimeout(() => console.log(JSON.stringify({ ...summary, warnings })), 20)`

  test.each(['module', 'commonjs'] as const)('as %s without a binary: js serves, with one warning', async (type) => {
    // With PREBUILDS_ONLY, not even a binary built on this machine would be looked for.
    const env = { PREBUILDS_ONLY: '1', NODE_NO_WARNINGS: '1' }
    const again = `${USE.replaceAll('const ', 'var ')} fpl.preferenceLoss({ chosen: [-1], rejected: [-2] }, { lossType: 'cpo' })`
    const code = `${LOAD[type]} ${WATCH} fpl.getBackends(); ${again}; ${again}; ${REPORT}`
    const { result } = await run(code, type, project, env)
    expectRight(result)
    const { cpu, js } = result.backends
    expect(cpu).toEqual({ available: false, reason: expect.any(String) })
    expect(cpu.reason).toContain('No native binary loads on')
    expect(js).toEqual({ available: true })
    expect(result.warnings).toHaveLength(1)
    expect(result.warnings[0].code).toBe('FUSED_PREFERENCE_LOSS_NO_BINARY')
    expect(result.warnings[0].message).toContain(cpu.reason.split('\n')[0])
    // Nor are the modules of WebAssembly in this package.
    expect(result.warnings[0].message).toContain('in plain JavaScript, hundreds of times slower')
  })

  test('onnxruntime is not imported by its adapter', async () => {
    const { result } = await run(
      `const { toLogits } = require('fused-preference-loss/onnxruntime')
       console.log(JSON.stringify(toLogits({ type: 'float32', dims: [1, 1, 2], data: new Float32Array(2) }).shape))`,
      'commonjs',
      project,
    )
    expect(result).toEqual([1, 1, 2])
  })

  test('both copies in one process warn once between them; getBackends and a chosen backend never', async () => {
    const both = `
      import { createRequire } from 'node:module'
      const other = createRequire(process.cwd() + '/x.js')('fused-preference-loss')
      ${WATCH}
      const pairs = { chosen: [-1], rejected: [-2] }
      fpl.preferenceLossSync(pairs, { lossType: 'cpo', backend: 'js' })
      other.getBackends()
      await new Promise((resolve) => setTimeout(resolve, 5))
      const before = warnings.length
      let code
      try { other.preferenceLossSync(pairs, { lossType: 'cpo', backend: 'cpu' }) } catch (error) { code = error.code }
      for (const { preferenceLossSync } of [fpl, other, fpl]) preferenceLossSync(pairs, { lossType: 'cpo' })
      const summary = { before, code }
    `
    const { result } = await run(`${LOAD.module} ${both} ${REPORT}`, 'module', project, { NODE_NO_WARNINGS: '1' })
    expect(result).toMatchObject({ before: 0, code: 'ERR_BACKEND_UNAVAILABLE' })
    expect(result.warnings).toHaveLength(1)
  })
})

test('the addon knows the losses of the js backend, in the same order', () => {
  const { path } = library.getBackends().cpu
  const addon = createRequire(import.meta.url)(path!)
  expect(addon.lossNames).toEqual(Object.keys(LOSSES))
  expect(addon.instructionSets).toEqual(library.getBackends().cpu.instructionSets)
})

// Other addons in the process have a C++ library of their own, or another version of the same.
test.skipIf(process.platform !== 'linux')(
  'the addon compiled here shows its entry points and nothing else',
  async () => {
    const built = join(root, 'build/Release/fused_preference_loss.node')
    const { stdout } = await execute('nm', ['--dynamic', '--defined-only', built])
    expect(Array.from(stdout.matchAll(/(\S+)$/gm), ([name]) => name).sort()).toEqual([
      'napi_register_module_v1',
      'node_api_module_get_api_version_v1',
    ])
  },
)
