/**
 * Devices with subgroups: what threads put together by them is what they put together without.
 */
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { fusedPreferenceLoss, sequenceLogProbs } from '../../lib/index.js'
import { bytes, gaussian, random, ulp } from '../support.js'
import { AS_SOFTWARE, asHardware, DEVICE, download, newDevice, subgroupFeatures, upload } from './device.js'
import { watch } from './watch.js'

const features = await subgroupFeatures()
if (features.length === 0) console.log('subgroups left out, as this implementation has none that know their number')

const [BATCH, TIME] = [2, 6]
const reference = { chosen: [-40], rejected: [-45] }

/** Rows of normal numbers, of wide ones, without any probability but the label's, with a NaN, and with none. */
function valuesOf(vocab: number): Float32Array {
  const next = random(vocab)
  const values = Float32Array.from({ length: BATCH * TIME * vocab }, () => gaussian(next))
  const row = (at: number) => values.subarray(at * vocab, (at + 1) * vocab)
  row(1).forEach((x, i, all) => {
    all[i] = 1000 * x
  })
  row(2).fill(Number.NEGATIVE_INFINITY)
  row(2)[labelsOf(vocab)[3]!] = 3
  row(7)[vocab - 1] = Number.NaN
  row(8).fill(Number.NEGATIVE_INFINITY)
  return values
}

const labelsOf = (vocab: number) => Int32Array.from({ length: BATCH * TIME }, (_, i) => (i * 7919) % vocab)

describe.skipIf(features.length === 0).each(['software', 'a GPU'])('on %s', (kind) => {
  // Without subgroups, and with them.
  const devices: GPUDevice[] = []
  const codes: string[] = []
  beforeAll(async () => {
    const device = await newDevice({}, features)
    if (kind === 'a GPU') asHardware(device)
    devices.push(kind === 'a GPU' ? DEVICE! : AS_SOFTWARE!, device)
    const { createShaderModule } = device
    device.createShaderModule = (descriptor) => {
      codes.push(descriptor.code)
      return createShaderModule.call(device, descriptor)
    }
  })
  afterAll(() => devices[1]!.destroy())

  const forward = (gpuDevice: GPUDevice, vocab: number, values: Float32Array, batch = BATCH, first = 0) => {
    const rows = values.subarray(first * TIME * vocab, (first + batch) * TIME * vocab)
    const data = upload(gpuDevice, bytes(rows))
    const labels = labelsOf(vocab).subarray(first * TIME, (first + batch) * TIME)
    return sequenceLogProbs({ data, shape: [batch, TIME, vocab] }, labels, { gpuDevice, outputs: ['tokenLogProbs'] })
  }

  test.each([7, 4100, 40_001])('rows of %i tokens have the same log-probs', async (vocab) => {
    const values = valuesOf(vocab)
    const [plain, found] = await Promise.all(devices.map((device) => forward(device, vocab, values)))
    expect(codes.some((code) => code.startsWith('enable subgroups'))).toBe(true)
    const [wanted, got] = [plain!.tokenLogProbs!, found!.tokenLogProbs!]
    expect(wanted.filter(Number.isNaN).length).toBe(2)
    for (let i = 0; i < wanted.length; i++) {
      if (Number.isFinite(wanted[i])) expect(Math.abs(got[i]! - wanted[i]!)).toBeLessThanOrEqual(ulp(wanted[i]!))
      else expect(got[i]).toBe(wanted[i])
    }
    expect(found!.logProbs[0]! / plain!.logProbs[0]!).toBeCloseTo(1, 11)
    // The bits of a sequence are its own.
    const alone = await forward(devices[1]!, vocab, values, 1, 1)
    expect([...alone.tokenLogProbs!]).toEqual([...got.subarray(TIME - 1)])
  })

  test('and gradients, in less memory', async () => {
    const vocab = 1000
    const next = random(vocab)
    const values = Float32Array.from({ length: BATCH * TIME * vocab }, () => gaussian(next))
    const found = await Promise.all(
      devices.map(async (gpuDevice) => {
        const logits = { data: upload(gpuDevice, bytes(values)), shape: [BATCH, TIME, vocab] }
        const watched = watch(gpuDevice)
        await fusedPreferenceLoss(logits, labelsOf(vocab), { reference, gradient: 'in-place', gpuDevice })
        const { peak } = watched
        watched.stop()
        return { peak, gradient: new Float32Array((await download(gpuDevice, logits.data)).buffer as ArrayBuffer) }
      }),
    )
    const [plain, own] = found as [(typeof found)[0], (typeof found)[0]]
    expect(new Set(own.gradient).size).toBeGreaterThan(1000)
    plain.gradient.forEach((x, i) => {
      if (Math.abs(own.gradient[i]! - x) > 2 * ulp(x)) expect(own.gradient[i]).toBe(x)
    })
    // 64 parts of 16 bytes for each row become 16.
    expect(plain.peak - own.peak).toBe(kind === 'software' ? BATCH * TIME * 48 * 16 : 0)
  })
})

/** A shader whose subgroups have that many threads, in an order of their own; they swap by memory of the workgroup. */
function emulated(code: string, size: number): string {
  const swaps = { 'unit.base': 'Float', 'unit.exponent': 'Integer', sum: 'Pair' }
  const plain = code
    .replace(/^(enable|requires) .*$/gm, '')
    .replace(/@builtin\(subgroup_id\)[^}]*/, '@builtin(local_invocation_index) index: u32,\n')
    .replaceAll('invocation.subgroup', `(WORKGROUP / ${size} - 1 - invocation.index / ${size})`)
    .replaceAll('invocation.size', `${size}u`)
    .replaceAll('invocation.lane', `(invocation.index % ${size})`)
    .replace('let thread = threadOf(invocation);', 'let thread = threadOf(invocation); numbered = thread;')
    .replace(
      /quadSwap([XY])\((\w+)\.(unit\.base|unit\.exponent|sum)\)/g,
      (_, way, of, field: keyof typeof swaps) => `swap${swaps[field]}(${of}.${field}, ${way === 'X' ? 1 : 2})`,
    )
  return `${plain}
var<private> numbered: u32;
var<workgroup> swapped: array<vec2f, WORKGROUP>;
fn swapPair(x: vec2f, by: u32) -> vec2f {
  workgroupBarrier();
  swapped[numbered] = x;
  workgroupBarrier();
  return swapped[numbered ^ by];
}
fn swapFloat(x: f32, by: u32) -> f32 { return swapPair(vec2f(x), by).x; }
fn swapInteger(x: i32, by: u32) -> i32 { return bitcast<i32>(swapFloat(bitcast<f32>(x), by)); }`
}

describe.skipIf(features.length > 0).each(['software', 'a GPU'])('emulated on %s', (kind) => {
  test('bits do not depend on the size of subgroups', async () => {
    const { gpu } = (globalThis as unknown as { navigator: { gpu: GPU } }).navigator
    const known = Object.getOwnPropertyDescriptor(gpu, 'wgslLanguageFeatures')
    Object.defineProperty(gpu, 'wgslLanguageFeatures', { value: new Set(['subgroup_id']), configurable: true })
    onTestFinished(() => {
      if (known) Object.defineProperty(gpu, 'wgslLanguageFeatures', known)
      else Reflect.deleteProperty(gpu, 'wgslLanguageFeatures')
    })
    const vocab = 4100
    const logProbs = async (gpuDevice: GPUDevice) => {
      const data = upload(gpuDevice, bytes(valuesOf(vocab)))
      const given = { gpuDevice, outputs: ['tokenLogProbs'] } as const
      return [...(await sequenceLogProbs({ data, shape: [BATCH, TIME, vocab] }, labelsOf(vocab), given)).tokenLogProbs]
    }
    const found: number[][] = []
    for (const size of [4, 32]) {
      const device = Object.defineProperty(await newDevice(), 'features', { value: new Set(['subgroups']) })
      if (kind === 'a GPU') asHardware(device)
      const { createShaderModule } = device
      let count = 0
      device.createShaderModule = ({ code }) => {
        const isEmulated = code.startsWith('enable subgroups')
        if (isEmulated) count++
        return createShaderModule.call(device, { code: isEmulated ? emulated(code, size) : code })
      }
      found.push(await logProbs(device))
      expect(count).toBe(1)
      device.destroy()
    }
    expect(found[1]).toEqual(found[0])
    const plain = await logProbs(kind === 'a GPU' ? DEVICE! : AS_SOFTWARE!)
    for (const [i, wanted] of plain.entries()) {
      if (Number.isFinite(wanted)) expect(Math.abs(found[0]![i]! - wanted)).toBeLessThanOrEqual(ulp(wanted))
      else expect(found[0]![i]).toBe(wanted)
    }
  })
})
