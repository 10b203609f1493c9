/**
 * The types of the installed package, as programs of several settings see them: under strict ones, in both module systems,
 * with and without the types of Node.js. Uses dist.
 */
import { execFile } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, expect, test } from 'vitest'
import { installedProject } from './installed-project.js'

const project = installedProject()
afterAll(() => rmSync(project, { recursive: true }))

/** The TypeScript compiler's messages about these files, and its exit code where it fails. */
async function compile(files: string[], options: object): Promise<string> {
  const compilerOptions = { module: 'NodeNext', target: 'ES2022', strict: true, noEmit: true, ...options }
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }))
  const compiler = createRequire(import.meta.url).resolve('typescript/bin/tsc')
  const { stdout, code } = await promisify(execFile)(process.execPath, [compiler, '--project', project]).then(
    ({ stdout }) => ({ stdout, code: 0 }),
    (error) => error,
  )
  return code === 0 ? stdout : `${stdout}exit code ${code}`
}

test('types for both module systems, under strict settings', async () => {
  const body = `
    const logits: Logits = { data: new Float32Array(8), shape: [2, 2, 2] }
    const result: FusedPreferenceLoss = fusedPreferenceLossSync(logits, new Int32Array(4), { lossType: 'simpo', gradient: 'in-place' })
    const losses: Float64Array = result.losses
    // @ts-expect-error no such loss
    fusedPreferenceLossSync(logits, new Int32Array(4), { lossType: 'none' })
    export const backends: boolean = getBackends().cpu.available && losses.length > 0
  `
  const names = `fusedPreferenceLossSync, getBackends, type FusedPreferenceLoss, type Logits`
  writeFileSync(join(project, 'a.mts'), `import { ${names} } from 'fused-preference-loss'\n${body}`)
  writeFileSync(join(project, 'b.cts'), `import { ${names} } from 'fused-preference-loss'\n${body}`)
  expect(await compile(['a.mts', 'b.cts'], { types: ['node'] })).toBe('')
})

test('types that are checked themselves, without those of Node.js', async () => {
  const names = ['', '/cuda', '/data', '/distributed', '/metrics', '/mpi', '/onnxruntime'].map(
    (name) => `'fused-preference-loss${name}'`,
  )
  const imports = names.map((name, i) => `import * as part${i} from ${name}\nexport { part${i} }`)
  writeFileSync(join(project, 'all.mts'), imports.join('\n'))
  const options = { types: [], skipLibCheck: false }
  expect(await compile(['all.mts'], { ...options, lib: ['ES2022', 'DOM'] })).toBe('')
  const using = `
    import { DeviceBuffer, Stream } from 'fused-preference-loss/cuda'
    export function use(): Disposable {
      using buffer = new DeviceBuffer(4)
      using stream = new Stream()
      return buffer.byteLength > 0 ? buffer : stream
    }
  `
  writeFileSync(join(project, 'using.mts'), using)
  expect(await compile(['all.mts', 'using.mts'], { ...options, lib: ['ESNext', 'DOM'] })).toBe('')
})

test.each([
  ['NodeNext', 'NodeNext'],
  ['ESNext', 'Bundler'],
])('what functions give goes into others, with exact optional properties, by %s and %s', async (module, resolution) => {
  const program = `
    import * as fpl from 'fused-preference-loss'
    import { preferenceBatches, type PreferenceRecord } from 'fused-preference-loss/data'
    import { stepMetrics } from 'fused-preference-loss/metrics'
    declare const records: PreferenceRecord[]
    declare const model: (ids: Int32Array) => { data: Float32Array; shape: number[] }
    declare const known: { beta?: number; mask?: number[] }
    export async function train(step: number): Promise<Float32Array> {
      const tokenizer = (text: string) => Array.from(text, (letter) => letter.charCodeAt(0))
      for await (const batch of preferenceBatches(records, { tokenizer, batchSize: 2 })) {
        const { labels, pairs, sequenceOffsets } = batch
        const tokens = { pairs, sequenceOffsets, mask: known.mask }
        const logits = model(batch.inputIds)
        const sums = fpl.sequenceLogProbsSync(logits, labels, { ...tokens, outputs: ['tokenLogProbs'] })
        sums.backwardSync({ tokenLogProbs: sums.tokenLogProbs, logSumExp: sums.logSumExp })
        const options = { ...tokens, beta: known.beta, outputs: ['tokenEntropies', 'tokenArgmax'] } as const
        const result = await fpl.fusedPreferenceLoss(logits, labels, { ...options, reference: sums, gradient: true })
        stepMetrics(result, batch, { step })
        const again: fpl.Logits = result.gradLogits
        fpl.crossEntropySync(result.gradLogits, labels, { sequenceOffsets: result.layout.sequenceOffsets })
        if (step > 1) return result.gradLogits.data.map((x) => x + again.shape.length + result.tokenEntropies.length)
      }
      throw new Error('no batch')
    }
  `
  writeFileSync(join(project, 'train.mts'), program)
  const strict = {
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    types: [],
  }
  const options = { ...strict, module, moduleResolution: resolution, lib: ['ES2022', 'DOM'] }
  expect(await compile(['train.mts'], options)).toBe('')
})
