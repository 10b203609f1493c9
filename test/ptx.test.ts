/**
 * The kernels of the cuda backend as nvcc has compiled them: their PTX, carried out on the host by the machine of
 * test/ptx. It stops where an access is out of bounds, a race or a barrier that not all threads come to, and counts.
 */
import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it, test } from 'vitest'
import { cudaProcess } from './cuda-process.js'
import { TESTS_GPU } from './platform.js'
import { CUDA } from './support.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const PTX = join(root, 'build/ptx')
const UNIT = join(root, 'build/Release/fused_preference_loss_ptx_unit')
const onHost = CUDA.length > 0 && !TESTS_GPU
const hasPtx = existsSync(PTX) && readdirSync(PTX).length > 0
if (onHost && !hasPtx) console.log('PTX left out: npm run setup makes it where nvcc is on the PATH')

it.skipIf(!onHost)('has a machine that computes, counts and refuses as it says', () => {
  expect(execFileSync(UNIT, { encoding: 'utf8' })).toContain('all checks passed')
})

test.runIf(onHost && process.env.CI)('PTX is there', () => {
  expect(hasPtx).toBe(true)
})

/** Calls that start every kernel on logits, in each type, and what comes of them. */
const CALLS = `
  const { createHash } = await import('node:crypto')
  const bfloat16 = (x) => Uint16Array.from(new Uint32Array(x.buffer), (bits) => (bits + 0x8000) >>> 16)
  const results = {}
  const digest = (value) => {
    const hash = createHash('sha1')
    const visit = (v) => {
      if (ArrayBuffer.isView(v)) hash.update(new Uint8Array(v.buffer, v.byteOffset, v.byteLength))
      else if (typeof v === 'number') hash.update(new Uint8Array(Float64Array.of(v).buffer))
      else if (v && typeof v === 'object') for (const key of Object.keys(v)) visit(v[key])
    }
    visit(value)
    return hash.digest('hex')
  }
  const outputs = ['tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'logSumExp', 'sumSquaredProbs', 'tokenMeanLogits']
  const base = { backend: 'cuda', gradient: true, reference: { chosen: [-20, -21], rejected: [-19, -22] } }
  for (const dtype of ['float32', 'float16', 'bfloat16']) {
    for (const vocab of [1027, 16392]) {
      const values = fill(B * T * vocab, 4, 1.1)
      const data = dtype === 'bfloat16' ? bfloat16(values) : dtype === 'float16' ? toHalf(values) : values
      const logits = { data, dtype, shape: [B, T, vocab] }
      const labels = Int32Array.from({ length: B * T }, (_, i) => i % 5 === 1 ? -100 : (i * 7919) % vocab)
      const at = dtype + ' ' + vocab
      results[at] = digest(fusedPreferenceLossSync(logits, labels, base))
      results[at + ' all'] = digest(
        fusedPreferenceLossSync(logits, labels, { ...base, outputs, logitSoftcap: 30, temperature: 0.7 }),
      )
    }
  }
  const logits = { data: host.logits, dtype: 'float32', shape }
  results.device = digest(fusedPreferenceLossSync(
    { data: there(host.logits), dtype: 'float32', shape }, there(host.labels), { ...base, outputs: [], gradient: false },
  ))
  // Logits and gradient that begin at different places between 16-byte boundaries, and end where their memory does.
  const apart = there(Float32Array.of(0, ...host.logits)).slice(4)
  const out = new DeviceBuffer(host.logits.byteLength)
  fusedPreferenceLossSync({ data: apart, dtype: 'float32', shape }, host.labels, { ...base, shift: false, gradient: out })
  results.apart = digest(read(out, host.logits))
  // Blocks share sequences of more than 256 rows, and the last one sums them.
  const long = { data: fill(4 * 700 * 9, 4, 1.7), dtype: 'float32', shape: [4, 700, 9] }
  const of = Int32Array.from({ length: 4 * 700 }, (_, i) => (i % 700 > 690 - 300 * (i / 700 | 0) || i % 7 === 3 ? -100 : i % 9))
  results.long = digest(fusedPreferenceLossSync(long, of, { ...base, outputs, reference: { logits: long } }))
  results.unpaired = digest(fpl.fusedUnpairedPreferenceLossSync(logits, host.labels, {
    backend: 'cuda', gradient: true, desirable: [true, false, true, true], reference: { logProbs: [-20, -21, -19, -22] }, kl: 0.1,
  }))
  results.tokens = digest(fpl.crossEntropySync(logits, host.labels, { backend: 'cuda', gradient: true, labelSmoothing: 0.1 }))
  const half = (array) => ({ data: toHalf(array), dtype: 'float16' })
  const narrow = (array) => ({ data: bfloat16(array), dtype: 'bfloat16' })
  // Rows that are read and written in one go: several at a time, and one of several segments. They begin between 16-byte
  // boundaries, and the last one ends where its memory does.
  for (const [name, type] of [['float32', (array) => ({ data: array, dtype: 'float32' })], ['float16', half], ['bfloat16', narrow]]) {
    for (const vocab of name === 'float32' ? [1027] : [1027, 33_003]) {
      const { data, dtype } = type(fill(1 + B * T * vocab, 4, 1.3))
      const memory = there(data)
      const { gradLogits, ...numbers } = fpl.crossEntropySync(
        { data: memory.slice(data.BYTES_PER_ELEMENT), dtype, shape: [B, T, vocab] }, host.labels,
        { gradient: 'in-place', shift: false, deferredScale: vocab !== 1027, outputs: vocab === 1027 ? outputs.slice(0, 5) : [] },
      )
      results['rows ' + name + ' ' + vocab] = [digest(numbers), digest(read(memory, data))]
    }
  }
  results.labels = thrown(() => {
    sequenceLogProbsSync({ data: there(host.logits), shape }, there(host.labels.map((x) => x + V)), { backend: 'cuda' })
  })
  for (const [name, typed] of [['float32', (data) => ({ data, dtype: 'float32' })], ['float16', half], ['bfloat16', narrow]]) {
    for (const products of name === 'float32' ? ['own', 'tf32'] : ['own']) {
      results['head ' + name + ' ' + products] = digest(
        fpl.fusedLinearPreferenceLossSync(
          { ...typed(host.hidden), shape: [B, T, D] }, { ...typed(host.weight), shape: [V, D] }, host.labels,
          { ...base, bias: typed(host.bias).data, mask: host.mask, products },
        ),
      )
    }
  }
  tell(results)
`

/** The numbers of float16 that float32 ones are next to, without Float16Array, which Node.js 20 lacks. */
const HALVES = `
  const toHalf = (values) => Uint16Array.from(values, (x) => {
    const bits = new Uint32Array(Float32Array.of(x).buffer)[0], magnitude = bits & 0x7fffffff
    return (bits >>> 16 & 0x8000) | (magnitude < 0x38800000 ? 0 : (magnitude - 0x38000000 + 0x1000) >>> 13)
  })
`

/** Of golden and edge cases, those that show the most in the least time. */
const CASES = /unaligned|label anywhere|shift (true|false)|padded|without tokens|coefficients of|values of each pair/

interface Counts {
  kernel: string
  blocks: number
  warpInstructions: number
  loaded: number
  stored: number
}

/** Runs a program with the machine; what it tells, and the counts of its launches. */
function carriedOut(program: string): { told: unknown; launches: Counts[] } {
  const folder = mkdtempSync(join(tmpdir(), 'ptx-'))
  try {
    const counts = join(folder, 'counts')
    const told = cudaProcess(program, { FPL_HOST_PTX: PTX, FPL_HOST_PTX_COUNTS: counts })
    const launches = readFileSync(counts, 'utf8').trim().split('\n')
    return { told, launches: launches.map((line) => JSON.parse(line)) }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

describe.runIf(onHost && hasPtx)('the kernels’ PTX', () => {
  it('gives the bits of the kernels’ source, and starts every kernel of stages 0 to 4', () => {
    const { told, launches } = carriedOut(HALVES + CALLS)
    expect(told).toEqual(cudaProcess(HALVES + CALLS))
    const started = new Set(launches.map(({ kernel }) => /(\w+Kernel)/.exec(kernel)?.[1]))
    for (const kernel of ['targets', 'order', 'sweep', 'finish', 'sequences', 'values', 'gradient', 'row']) {
      expect(started).toContain(`${kernel}Kernel`)
    }
    for (const kernel of ['narrow', 'columns', 'labelsApart', 'link', 'labelsToHidden', 'labelsToWeight']) {
      expect(started).toContain(`${kernel}Kernel`)
    }
    // Without a loss, with one of pairs, of single sequences and of single tokens.
    expect(new Set(launches.map(({ kernel }) => kernel).filter((name) => name.includes('sequencesKernel'))).size).toBe(
      4,
    )
  }, 300_000)

  // Instructions of PTX, of which a GPU's own are some more or fewer.
  it.each([
    {
      dtype: 'float32',
      array: 'Float32Array',
      bytes: 4,
      most: { sweepKernel: 29.5, gradientKernel: 22 },
      shifted: [30.5, 22.5],
    },
    {
      dtype: 'bfloat16',
      array: 'Uint16Array',
      bytes: 2,
      most: { sweepKernel: 12, gradientKernel: 20.5 },
      shifted: [12.5, 20.5],
    },
  ])('reads $dtype logits once for log-probs and once for the gradient, in so many instructions', (row) => {
    const launchesOf = (vocab: number) => {
      const { launches } = carriedOut(`
        const data = new ${row.array}(2 * ${vocab})
        fusedPreferenceLossSync({ data, dtype: '${row.dtype}', shape: [2, 1, ${vocab}] }, Int32Array.of(5, 6), {
          backend: 'cuda', gradient: true, shift: false, reference: { chosen: [-1], rejected: [-1] },
        })
        tell(0)
      `)
      const of = (name: string) => launches.filter(({ kernel }) => kernel.includes(`::${name}`))
      return { sweep: of('sweepKernel'), gradient: of('gradientKernel') }
    }
    const logits = 2 * 128256
    const { sweep, gradient } = launchesOf(128256)
    expect([sweep.length, gradient.length]).toEqual([1, 1])
    // Beside the logits each thread loads its row's target and, for the gradient, one thread of a block the row's state and
    // coefficient, and where its sequence begins: each block has a segment or a piece of one row.
    expect(sweep[0].loaded).toBe(logits * row.bytes + sweep[0].blocks * 256 * 4)
    expect(gradient[0].loaded).toBe(logits * row.bytes + gradient[0].blocks * (256 * 4 + 24 + 8 + 4))
    // The label's value is written over another one.
    expect(gradient[0].stored).toBe((logits + 2) * row.bytes)
    expect((32 * sweep[0].warpInstructions) / logits).toBeLessThanOrEqual(row.most.sweepKernel)
    // One warp of a block makes what the row is written with, which was a launch of its own before: 250 instructions. They
    // are among those of a block that writes 8 logits, which come to no more in each of its eight warps.
    const [few] = launchesOf(8).gradient
    const ofBlock = few.warpInstructions / few.blocks
    expect(ofBlock).toBeGreaterThan(250)
    expect(ofBlock).toBeLessThanOrEqual(8 * 250)
    const writing = gradient[0].warpInstructions - gradient[0].blocks * 250
    expect((32 * writing) / logits).toBeLessThanOrEqual(row.most.gradientKernel)
    // The second of these rows begins between two Quads: its loads are still of 16 bytes, and shifted.
    const odd = launchesOf(128257)
    expect((32 * odd.sweep[0].warpInstructions) / logits).toBeLessThanOrEqual(row.shifted[0])
    expect((32 * odd.gradient[0].warpInstructions) / logits).toBeLessThanOrEqual(row.shifted[1])
  })

  // Of 512 rows in one chunk and of twice as many, with 64 different labels or with one.
  it.each([64, 1])('goes over the rows of an output layer’s chunk once for the weights of %i labels', (different) => {
    const countOf = (rows: number) => {
      const { launches } = carriedOut(`
        const bfloat16 = (x) => Uint16Array.from(new Uint32Array(x.buffer), (bits) => bits >>> 16)
        const hidden = { data: bfloat16(fill(${rows} * 8, 1, 1.1)), dtype: 'bfloat16', shape: [1, ${rows}, 8] }
        const weight = { data: bfloat16(fill(64 * 8, 1, 1.3)), dtype: 'bfloat16', shape: [64, 8] }
        const labels = Int32Array.from({ length: ${rows} }, (_, i) => i % ${different})
        fpl.linearCrossEntropySync(hidden, weight, labels, { backend: 'cuda', shift: false, gradient: { weight: true } })
        tell(0)
      `)
      const of = (name: string) => launches.filter(({ kernel }) => kernel.includes(`::${name}Kernel`))
      expect([of('link').length, of('labelsToWeight').length]).toEqual([1, 1])
      return [of('link')[0], of('labelsToWeight')[0]]
    }
    const [few, many] = [countOf(512), countOf(1024)]
    for (const [i, { warpInstructions, loaded }] of few.entries()) {
      expect(many[i].warpInstructions).toBeLessThan(2.1 * warpInstructions)
      expect(many[i].loaded).toBeLessThan(2.1 * loaded)
    }
  })

  it('passes golden and edge cases', async () => {
    const args = ['run', '--typecheck.enabled=false', '--reporter=json', 'test/golden.test.ts', 'test/edges.test.ts']
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [join(root, 'node_modules/vitest/vitest.mjs'), ...args, '-t', CASES.source],
      { cwd: root, env: { ...process.env, FPL_HOST_PTX: PTX }, maxBuffer: 1 << 28 },
    )
    const { success, numPassedTests } = JSON.parse(stdout.slice(stdout.indexOf('{"num')))
    expect(success).toBe(true)
    expect(numPassedTests).toBeGreaterThan(20)
  }, 300_000)
})
