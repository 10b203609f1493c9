/**
 * The jax-js adapter: what it gives, whose arrays are whose, and what it refuses. Gradients of a whole model are in
 * trainers.test.ts.
 */
import { type Array as JaxArray, jit, numpy as np, tree } from '@jax-js/jax'
import { describe, expect, it } from 'vitest'
import { preferenceValueAndGrad } from '../lib/adapters/jax.js'
import { fusedPreferenceLossSync } from '../lib/index.js'
import { liveBuffers } from './jax-buffers.js'
import { gaussian, random } from './support.js'

const [BATCH, TIME, VOCAB] = [4, 3, 11]
const next = random(5)
const elements = Float32Array.from({ length: BATCH * TIME * VOCAB }, () => gaussian(next))
const labels = Int32Array.from({ length: BATCH * TIME }, (_, i) => (i === 4 ? -100 : (i * 7) % VOCAB))
const options = { reference: { chosen: [-6, -5], rejected: [-7, -5] }, beta: 0.3 }

/** The parameters are the logits; the batch scales them. */
const apply = ({ logits }: { logits: JaxArray }, scale: JaxArray) => logits.mul(scale)
const step = preferenceValueAndGrad(apply)
const parameters = (shape = [BATCH, TIME, VOCAB]) => ({ logits: np.array(elements, { shape }) })
const scale = () => np.array(Float32Array.of(2))

const expected = fusedPreferenceLossSync({ data: elements.map((x) => 2 * x), shape: [BATCH, TIME, VOCAB] }, labels, {
  ...options,
  gradient: true,
})

describe('preferenceValueAndGrad', () => {
  it('gives loss, metrics and the gradient of the parameters', async () => {
    const { loss, metrics, gradParams } = await step(parameters(), scale(), labels, options)
    expect(loss).toBe(expected.loss)
    expect(metrics).toEqual({ ...expected, gradLogits: undefined })
    expect(gradParams.logits.shape).toEqual([BATCH, TIME, VOCAB])
    const gradient = expected.gradLogits!.data as Float32Array
    expect(await gradParams.logits.data()).toEqual(gradient.map((x) => 2 * x))
  })

  it('takes a jitted model, and packed sequences', async () => {
    const packed = { ...options, sequenceOffsets: [0, 3, 6, 9, 12] }
    const jitted = jit(apply)
    const { loss, gradParams } = await preferenceValueAndGrad<{ logits: JaxArray }, JaxArray>(jitted)(
      parameters([BATCH * TIME, VOCAB]),
      scale(),
      labels,
      packed,
    )
    expect(loss).toBeCloseTo(expected.loss, 6)
    expect(gradParams.logits.shape).toEqual([BATCH * TIME, VOCAB])
    gradParams.logits.dispose()
    jitted.dispose()
  })

  it('hands a batch that is no array through', async () => {
    const plain = preferenceValueAndGrad(({ logits }: { logits: JaxArray }, factor: number) => logits.mul(factor))
    const { loss, gradParams } = await plain(parameters(), 2, labels, options)
    expect(loss).toBe(expected.loss)
    tree.dispose(gradParams)
  })

  it('uses up what it is given, and nothing else', async () => {
    const before = liveBuffers()
    const params = parameters()
    const { gradParams } = await step(tree.ref(params), scale(), labels, options)
    expect(params.logits.refCount).toBe(1)
    expect(await params.logits.ref.data()).toEqual(elements)
    tree.dispose([params, gradParams])
    expect(liveBuffers()).toBe(before)
  })
})

describe('bad input', () => {
  type Model = (params: { logits: JaxArray }, scale: JaxArray) => JaxArray
  const inATree = ((...given: Parameters<Model>) => [apply(...given)]) as unknown as Model
  const rejection = async (model: Model, given: Parameters<typeof step>) => {
    const error = await preferenceValueAndGrad(model)(...given).catch((reason) => reason)
    expect(error).toBeInstanceOf(Error)
    return error
  }

  it.each<[string, string, RegExp, Model, Int32Array, object]>([
    ['another dtype', 'ERR_INVALID_ARG_TYPE', /float32.*float16/, (p, s) => apply(p, s).astype(np.float16), labels, {}],
    ['another rank', 'ERR_SHAPE_MISMATCH', /logits.*\[132\]/, (p, s) => apply(p, s).reshape([-1]), labels, {}],
    ['a tree', 'ERR_INVALID_ARG_TYPE', /apply/, inATree, labels, {}],
    ['labels of another shape', 'ERR_SHAPE_MISMATCH', /labels/, apply, labels.subarray(1), {}],
    ['a label that is no token', 'ERR_LABEL_OUT_OF_RANGE', /labels/, apply, labels.map(() => VOCAB), {}],
    ['no reference', 'ERR_INVALID_ARG_VALUE', /reference/, apply, labels, { reference: undefined }],
    ['an unknown option', 'ERR_INVALID_ARG_VALUE', /'beta'/, apply, labels, { betta: 1 }],
  ])('%s', async (_, code, message, model, ids, more) => {
    const before = liveBuffers()
    const params = parameters()
    const error = await rejection(model, [tree.ref(params), scale(), ids, { ...options, ...more }])
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) })
    expect(await params.logits.data()).toEqual(elements)
    expect(liveBuffers()).toBe(before)
  })

  it('parameters that were used up', async () => {
    const params = parameters()
    params.logits.dispose()
    const error = await rejection(apply, [params, scale(), labels, options])
    expect(error).toMatchObject({ code: 'ERR_DISPOSED', message: expect.stringContaining('.ref') })
  })

  it('a model that is no function', () => {
    expect(() => preferenceValueAndGrad({} as never)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }))
  })
})
