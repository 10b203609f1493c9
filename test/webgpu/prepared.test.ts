/**
 * Prepared calls: recorded in encoders and passes of the caller's, run again on what buffers hold by then, read when asked.
 */
import { expect, test } from 'vitest'
import { fusedLinearPreferenceLoss, fusedPreferenceLoss } from '../../lib/index.js'
import {
  type PreparedCall,
  prepareFusedLinearPreferenceLoss,
  prepareFusedPreferenceLoss,
} from '../../lib/webgpu/index.js'
import { bytes, gaussian, random } from '../support.js'
import { AS_SOFTWARE, download, upload } from './device.js'
import { watch } from './watch.js'

const gpuDevice = AS_SOFTWARE!

const [BATCH, TIME, WIDTH, VOCAB] = [4, 30, 24, 65]
const ROWS = BATCH * TIME
const next = random(5)
const some = (length: number) => Float32Array.from({ length }, () => gaussian(next))
const labels = Int32Array.from({ length: ROWS }, (_, i) => (i % 7 === 0 ? -100 : (i * 31) % VOCAB))
const reference = { chosen: [-80, -90], rejected: [-85, -81] }
const outputs = ['tokenLogProbs'] as const
const put = (values: Float32Array) => upload(gpuDevice, bytes(values))
const room = (length: number) => upload(gpuDevice, new Uint8Array(4 * length))

type Encoded = Pick<PreparedCall<unknown>, 'encode'>

/** Submits what each of these records, in a pass of its own, or all in one of the caller's. */
function submit(calls: readonly Encoded[], inOnePass = false): void {
  const encoder = gpuDevice.createCommandEncoder()
  if (inOnePass) {
    const pass = encoder.beginComputePass()
    for (const call of calls) call.encode(pass)
    pass.end()
  } else {
    for (const call of calls) call.encode(encoder)
  }
  gpuDevice.queue.submit([encoder.finish()])
}

/** The first of each pair of a range, as shaders see it. */
async function numbersIn({ buffer, byteOffset, byteLength }: PreparedCall<unknown>['buffers']['loss']) {
  const all = new Float32Array((await download(gpuDevice, buffer as GPUBuffer)).buffer as ArrayBuffer)
  return all.subarray(byteOffset! / 4, (byteOffset! + byteLength!) / 4).filter((_, i) => i % 2 === 0)
}

test('of logits: runs see what buffers hold, and give what the call gives', async () => {
  const data = put(some(ROWS * VOCAB))
  const logits = { data, shape: [BATCH, TIME, VOCAB] }
  const [gradient, other] = [room(ROWS * VOCAB), room(ROWS * VOCAB)]
  const options = { reference, outputs, gpuDevice }
  const step = await prepareFusedPreferenceLoss(logits, labels, { ...options, gradient })
  for (let run = 0; run < 2; run++) {
    gpuDevice.queue.writeBuffer(data, 0, some(ROWS * VOCAB) as Float32Array<ArrayBuffer>)
    const wanted = await fusedPreferenceLoss(logits, labels, { ...options, gradient: other })
    submit([step], run === 1)
    const { loss, chosenLogProbs, tokenLogProbs } = await step.read()
    expect({ loss, chosenLogProbs, tokenLogProbs }).toEqual({
      loss: wanted.loss,
      chosenLogProbs: wanted.chosenLogProbs,
      tokenLogProbs: wanted.tokenLogProbs,
    })
    expect(bytes(await download(gpuDevice, gradient)).equals(await download(gpuDevice, other))).toBe(true)
    expect((await numbersIn(step.buffers.loss))[0]).toBe(Math.fround(loss))
  }
  step.dispose()
  expect(() => submit([step])).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }))
  await expect(step.read()).rejects.toMatchObject({ code: 'ERR_DISPOSED' })
})

/** An output layer on the device, and destinations of its gradients. */
function layer() {
  const hidden = { data: put(some(ROWS * WIDTH)), shape: [BATCH, TIME, WIDTH] }
  const weight = { data: put(some(VOCAB * WIDTH)), shape: [VOCAB, WIDTH] }
  return { hidden, weight, bias: put(some(VOCAB)) }
}
const gradients = () => ({ hidden: room(ROWS * WIDTH), weight: room(VOCAB * WIDTH), bias: room(VOCAB) })

// Logits that are kept, and chunks of them that are not.
test.each([2 ** 20, 0])('of the output layer, with a budget of %i bytes', async (logitsBudget) => {
  const { hidden, weight, bias } = layer()
  const [gradient, other] = [gradients(), gradients()]
  const options = { reference, outputs, bias, logitsBudget, gpuDevice }
  const watched = watch(gpuDevice)
  const step = await prepareFusedLinearPreferenceLoss(hidden, weight, labels, { ...options, gradient })
  expect(step.workspaceBytes).toBe([...watched.live].reduce((sum, { size }) => sum + size, 0))
  for (let run = 0; run < 2; run++) {
    gpuDevice.queue.writeBuffer(hidden.data, 0, some(ROWS * WIDTH) as Float32Array<ArrayBuffer>)
    gpuDevice.queue.writeBuffer(weight.data, 0, some(VOCAB * WIDTH) as Float32Array<ArrayBuffer>)
    watched.forget()
    submit([step], run === 1)
    expect({ peak: watched.peak, copies: watched.copies }).toEqual({ peak: 0, copies: [] })
    const { loss, chosenLogProbs, tokenLogProbs } = await step.read()
    const wanted = await fusedLinearPreferenceLoss(hidden, weight, labels, { ...options, gradient: other })
    expect({ loss, chosenLogProbs, tokenLogProbs }).toEqual({
      loss: wanted.loss,
      chosenLogProbs: wanted.chosenLogProbs,
      tokenLogProbs: wanted.tokenLogProbs,
    })
    for (const name of ['hidden', 'weight', 'bias'] as const) {
      const found = bytes(await download(gpuDevice, gradient[name]))
      expect(new Set(found).size, name).toBeGreaterThan(50)
      expect(found.equals(await download(gpuDevice, other[name])), name).toBe(true)
    }
    expect((await numbersIn(step.buffers.logProbs)).subarray(0, 2)).toEqual(Float32Array.from(chosenLogProbs))
  }
  watched.stop()
  step.dispose()
})

test('gradients of two runs are added up, and two calls run in one pass', async () => {
  const { hidden, weight, bias } = layer()
  const [once, twice] = [gradients(), gradients()]
  const options = { reference, bias, gpuDevice } as const
  const first = await prepareFusedLinearPreferenceLoss(hidden, weight, labels, { ...options, gradient: once })
  const adding = await prepareFusedLinearPreferenceLoss(hidden, weight, labels, {
    ...options,
    gradient: twice,
    accumulate: true,
  })
  submit([first, adding, adding], true)
  expect((await adding.read()).loss).toBe((await first.read()).loss)
  for (const name of ['hidden', 'bias'] as const) {
    const single = new Float32Array((await download(gpuDevice, once[name])).buffer as ArrayBuffer)
    const doubled = new Float32Array((await download(gpuDevice, twice[name])).buffer as ArrayBuffer)
    expect(doubled).toEqual(single.map((x) => 2 * x))
  }
  first.dispose()
  adding.dispose()
})

test('what cannot be prepared', async () => {
  const { hidden, weight } = layer()
  const options = { reference, gpuDevice }
  const onDevice = upload(gpuDevice, bytes(labels))
  await expect(prepareFusedLinearPreferenceLoss(hidden, weight, onDevice as never, options)).rejects.toMatchObject({
    code: 'ERR_INVALID_ARG_VALUE',
    message: expect.stringContaining('labels must be in host memory'),
  })
  const [inHost, ofHost] = [
    { data: some(ROWS * WIDTH), shape: [BATCH, TIME, WIDTH] },
    { data: some(VOCAB * WIDTH), shape: [VOCAB, WIDTH] },
  ]
  const onWebGpu = { ...options, backend: 'webgpu' } as const
  await expect(prepareFusedLinearPreferenceLoss(inHost, ofHost, labels, onWebGpu)).rejects.toMatchObject({
    code: 'ERR_INVALID_ARG_VALUE',
    message: expect.stringContaining('hidden.data must be a GPUBuffer'),
  })
})
