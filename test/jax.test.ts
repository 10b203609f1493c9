/**
 * The jax-js adapter: its results, the ownership of arrays, and the arguments it refuses. Gradients of a whole model
 * are in trainers.test.ts.
 */
import { type Array as JaxArray, jit, numpy as np, tree } from '@jax-js/jax'
import { describe, expect, it } from 'vitest'
import {
  fusedLinearPreferenceLossValueAndGrad,
  fusedLinearUnpairedPreferenceLossValueAndGrad,
  fusedPreferenceLossValueAndGrad,
  fusedUnpairedPreferenceLossValueAndGrad,
} from '../lib/adapters/jax/index.js'
import {
  fusedLinearPreferenceLossSync,
  fusedLinearUnpairedPreferenceLossSync,
  fusedPreferenceLossSync,
  fusedUnpairedPreferenceLossSync,
} from '../lib/index.js'
import { liveBuffers } from './jax-buffers.js'
import { gaussian, random } from './support.js'

const [BATCH, TIME, VOCAB] = [4, 3, 11]
const next = random(5)
const elements = Float32Array.from({ length: BATCH * TIME * VOCAB }, () => gaussian(next))
const labels = Int32Array.from({ length: BATCH * TIME }, (_, i) => (i === 4 ? -100 : (i * 7) % VOCAB))
const options = { reference: { chosen: [-6, -5], rejected: [-7, -5] }, beta: 0.3 }

/** The parameters are the logits; the batch scales them. */
const apply = ({ logits }: { logits: JaxArray }, scale: JaxArray) => logits.mul(scale)
const step = fusedPreferenceLossValueAndGrad(apply)
const parameters = (shape = [BATCH, TIME, VOCAB]) => ({ logits: np.array(elements, { shape }) })
const scale = () => np.array(Float32Array.of(2))

const expected = fusedPreferenceLossSync({ data: elements.map((x) => 2 * x), shape: [BATCH, TIME, VOCAB] }, labels, {
  ...options,
  gradient: true,
})

describe('fusedPreferenceLossValueAndGrad', () => {
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
    const { loss, gradParams } = await fusedPreferenceLossValueAndGrad<{ logits: JaxArray }, JaxArray>(jitted)(
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
    const plain = fusedPreferenceLossValueAndGrad(({ logits }: { logits: JaxArray }, factor: number) =>
      logits.mul(factor),
    )
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

describe('fusedLinearPreferenceLossValueAndGrad', () => {
  const WIDTH = 5
  const hidden = elements.slice(0, BATCH * TIME * WIDTH)
  const weight = elements.slice(BATCH * TIME * WIDTH, BATCH * TIME * WIDTH + VOCAB * WIDTH)
  const bias = elements.slice(0, VOCAB)
  const params = () => ({
    hidden: np.array(hidden, { shape: [BATCH, TIME, WIDTH] }),
    weight: np.array(weight, { shape: [VOCAB, WIDTH] }),
    bias: np.array(bias),
  })
  type Params = ReturnType<typeof params>
  const linear = fusedLinearPreferenceLossValueAndGrad(({ hidden, weight, bias }: Params, factor: number) => ({
    hidden: hidden.mul(factor),
    weight,
    bias,
  }))
  const wanted = fusedLinearPreferenceLossSync(
    { data: hidden.map((x) => 2 * x), shape: [BATCH, TIME, WIDTH] },
    { data: weight, shape: [VOCAB, WIDTH] },
    labels,
    { ...options, bias, gradient: true },
  )

  it('gives loss, metrics and the gradients of the parameters, and keeps no arrays', async () => {
    const before = liveBuffers()
    const { loss, metrics, gradParams } = await linear(params(), 2, labels, options)
    expect(loss).toBe(wanted.loss)
    expect(metrics.margin).toBe(wanted.margin)
    expect(Object.keys(metrics).filter((name) => name.startsWith('grad'))).toEqual(['gradLogProbs'])
    const of = (array: Float32Array, factor: number) => array.map((x) => factor * x)
    expect(await gradParams.hidden.data()).toEqual(of(wanted.gradHidden!.data as Float32Array, 2))
    expect(await gradParams.weight.data()).toEqual(wanted.gradWeight!.data)
    expect(await gradParams.bias.data()).toEqual(wanted.gradBias)
    expect(liveBuffers()).toBe(before)
  })

  it('takes a transposed weight without a bias, and a tied one', async () => {
    const tied = fusedLinearPreferenceLossValueAndGrad(({ table }: { table: JaxArray }, _: number) => ({
      hidden: np.broadcastTo(table.ref.slice([0, TIME]), [BATCH, TIME, WIDTH]),
      weight: table.transpose(),
    }))
    const table = np.array(weight, { shape: [VOCAB, WIDTH] })
    const { loss, gradParams } = await tied({ table }, 0, labels, { ...options, transposed: true })
    const states = Float32Array.from({ length: BATCH * TIME * WIDTH }, (_, i) => weight[i % (TIME * WIDTH)]!)
    const plain = fusedLinearPreferenceLossSync(
      { data: states, shape: [BATCH, TIME, WIDTH] },
      { data: weight, shape: [VOCAB, WIDTH] },
      labels,
      { ...options, gradient: true },
    )
    expect(loss).toBeCloseTo(plain.loss, 5)
    const gradient = (plain.gradWeight!.data as Float32Array).slice()
    ;(plain.gradHidden!.data as Float32Array).forEach((x, i) => {
      gradient[i % (TIME * WIDTH)]! += x
    })
    const got = await gradParams.table.data()
    for (let i = 0; i < gradient.length; i++) expect(got[i]).toBeCloseTo(gradient[i]!, 5)
  })

  it('refuses what does not chain, and keeps no arrays', async () => {
    const before = liveBuffers()
    const wrong = fusedLinearPreferenceLossValueAndGrad(({ hidden, weight, bias }: Params, _: number) => {
      bias.dispose()
      return { hidden, weight: weight.transpose() }
    })
    await expect(wrong(params(), 0, labels, options)).rejects.toMatchObject({ code: 'ERR_SHAPE_MISMATCH' })
    const none = fusedLinearPreferenceLossValueAndGrad(({ hidden, weight, bias }: Params, _: number) => {
      bias.dispose()
      weight.dispose()
      return hidden as never
    })
    await expect(none(params(), 0, labels, options)).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_TYPE' })
    expect(liveBuffers()).toBe(before)
  })
})

describe('bad input', () => {
  type Model = (params: { logits: JaxArray }, scale: JaxArray) => JaxArray
  const inATree = ((...given: Parameters<Model>) => [apply(...given)]) as unknown as Model
  const rejection = async (model: Model, given: Parameters<typeof step>) => {
    const error = await fusedPreferenceLossValueAndGrad(model)(...given).catch((reason) => reason)
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

  describe('uses up what it is given, and nothing else, when', () => {
    const shape = [BATCH, TIME, VOCAB]
    type Pair = { a: JaxArray; b: JaxArray }
    const throwing = () => {
      throw new Error('no model')
    }
    const layer = ({ a, b }: Pair, of: JaxArray) => ({ hidden: a.mul(of), weight: b.reshape([-1, VOCAB]) })
    const cases: [
      string,
      (params: Pair, batch: JaxArray, labels: Int32Array, options: never) => Promise<unknown>,
      string | RegExp,
      object | null,
    ][] = [
      ['apply throws at once', fusedPreferenceLossValueAndGrad(throwing), 'no model', {}],
      [
        'apply throws when it has used up some',
        fusedPreferenceLossValueAndGrad(({ a }: Pair) => {
          a.dispose()
          throw new Error('half a model')
        }),
        'half a model',
        {},
      ],
      [
        'apply throws when it has taken references',
        fusedPreferenceLossValueAndGrad(({ a, b }: Pair, of: JaxArray) => {
          void [a.ref, b.ref.ref, of.ref]
          throw new Error('half a model')
        }),
        'half a model',
        {},
      ],
      [
        'apply gives nothing',
        fusedPreferenceLossValueAndGrad(() => undefined as never),
        /apply\(params, batch\) must be an array/,
        {},
      ],
      [
        'apply gives a promise',
        fusedPreferenceLossValueAndGrad((async () => 0) as never),
        /at once; got an instance of Promise/,
        {},
      ],
      [
        'apply gives a list with text',
        fusedPreferenceLossValueAndGrad((({ a }: Pair, of: JaxArray) => [a.mul(of), 'b']) as never),
        /got 'b'/,
        {},
      ],
      ['options are null', fusedPreferenceLossValueAndGrad(({ a }: Pair) => a), /options must be an object/, null],
      ['an option does not exist', fusedPreferenceLossValueAndGrad(({ a }: Pair) => a), /'beta'/, { betta: 1 }],
      ['options are null (linear)', fusedLinearPreferenceLossValueAndGrad(layer), /options must be an object/, null],
      [
        'transposed is no boolean',
        fusedLinearPreferenceLossValueAndGrad(layer),
        /options.transposed must be a boolean/,
        { transposed: 1 },
      ],
      ['apply throws (linear)', fusedLinearPreferenceLossValueAndGrad(throwing), 'no model', {}],
      [
        'apply gives more than a layer',
        fusedLinearPreferenceLossValueAndGrad((params: Pair, of: JaxArray) => ({
          scale: params.a.ref,
          ...layer(params, of),
        })),
        /^scale of apply\(params, batch\) is no part of a layer/,
        {},
      ],
      [
        'the layer is the other way round',
        fusedLinearPreferenceLossValueAndGrad(layer),
        new RegExp(`weight must be \\[${VOCAB}, vocab\\].*got \\[12, ${VOCAB}\\], which needs transposed: false`),
        { transposed: true },
      ],
    ]
    it.each(cases)('%s', async (_, step, message, given) => {
      const before = liveBuffers()
      const params = { a: np.array(elements, { shape }), b: np.array(elements, { shape }) }
      const kept = params.b.ref
      const batch = np.array(elements, { shape })
      const error = await step(params, batch, labels, given as never).catch((reason) => reason)
      expect((error as Error).message).toMatch(message)
      expect([params.a.refCount, kept.refCount, batch.refCount]).toEqual([0, 1, 0])
      kept.dispose()
      expect(liveBuffers()).toBe(before)
    })

    it('a parameter is dead, or stands in more places than it has references', async () => {
      const before = liveBuffers()
      for (const prepare of [({ a }: Pair) => a.dispose(), (params: Pair) => params.b.dispose()]) {
        const params = { a: np.array(elements, { shape }), b: np.array(elements, { shape }) }
        prepare(params)
        const error = await fusedPreferenceLossValueAndGrad(({ a }: Pair) => a)(
          params,
          np.array(elements) as never,
          labels,
        ).catch((e) => e)
        expect(error).toMatchObject({ code: 'ERR_DISPOSED', message: expect.stringContaining('pass a .ref') })
        expect(liveBuffers()).toBe(before)
      }
      const one = np.array(elements, { shape })
      const both = fusedPreferenceLossValueAndGrad(({ a, b }: Pair) => a.add(b))
      await expect(both({ a: one, b: one }, scale() as never, labels)).rejects.toMatchObject({ code: 'ERR_DISPOSED' })
      expect(liveBuffers()).toBe(before)
      const two = np.array(elements, { shape })
      tree.dispose((await both({ a: two.ref, b: two }, 0 as never, labels, options)).gradParams)
      expect(liveBuffers()).toBe(before)
    })
  })

  it('a layer whose bias is undefined has none', async () => {
    const without = fusedLinearPreferenceLossValueAndGrad((x: JaxArray) => ({
      hidden: x.ref,
      weight: x.reshape([12, VOCAB]),
      bias: undefined,
    }))
    const before = liveBuffers()
    const ids = labels.map((label) => Math.min(label, 11))
    const { gradParams } = await without(np.array(elements, { shape: [BATCH, TIME, VOCAB] }), 0, ids, options)
    gradParams.dispose()
    expect(liveBuffers()).toBe(before)
  })

  it('parameters that were used up', async () => {
    const params = parameters()
    params.logits.dispose()
    const error = await rejection(apply, [params, scale(), labels, options])
    expect(error).toMatchObject({ code: 'ERR_DISPOSED', message: expect.stringContaining('.ref') })
  })

  it('a model that is no function', () => {
    expect(() => fusedPreferenceLossValueAndGrad({} as never)).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG_TYPE' }),
    )
  })
})

describe('sequences that stand alone', () => {
  const unpaired = { desirable: [1, 0, 0, 1], reference: { logProbs: [-6, -5, -7, -5] }, kl: 0.4, beta: 0.3 }
  const WIDTH = 5
  const hidden = elements.slice(0, BATCH * TIME * WIDTH)
  const weight = elements.slice(BATCH * TIME * WIDTH, BATCH * TIME * WIDTH + VOCAB * WIDTH)
  const of = (array: Float32Array, factor: number) => array.map((x) => factor * x)

  it('from logits: loss, metrics and the gradient of the parameters, and keeps no arrays', async () => {
    const before = liveBuffers()
    const doubled = { data: elements.map((x) => 2 * x), shape: [BATCH, TIME, VOCAB] }
    const wanted = fusedUnpairedPreferenceLossSync(doubled, labels, { ...unpaired, gradient: true })
    const alone = fusedUnpairedPreferenceLossValueAndGrad(apply)
    const { loss, metrics, gradParams } = await alone(parameters(), scale(), labels, unpaired)
    expect(loss).toBe(wanted.loss)
    expect(metrics).toEqual({ ...wanted, gradLogits: undefined })
    expect(await gradParams.logits.data()).toEqual(of(wanted.gradLogits!.data as Float32Array, 2))
    expect(liveBuffers()).toBe(before)
    const wrong = { ...unpaired, gradient: 'in-place' } as typeof unpaired
    await expect(alone(parameters(), scale(), labels, wrong)).rejects.toMatchObject({ code: 'ERR_INVALID_ARG_VALUE' })
    const paired = { ...unpaired, pairs: [0, 1] } as typeof unpaired
    await expect(alone(parameters(), scale(), labels, paired)).rejects.toThrow('options.pairs is not an option')
    expect(liveBuffers()).toBe(before)
  })

  it('from an output layer', async () => {
    const before = liveBuffers()
    const state = { data: hidden.map((x) => 2 * x), shape: [BATCH, TIME, WIDTH] }
    const matrix = { data: weight, shape: [VOCAB, WIDTH], strides: [1, VOCAB] }
    const wanted = fusedLinearUnpairedPreferenceLossSync(state, matrix, labels, { ...unpaired, gradient: true })
    type Params = { hidden: JaxArray; weight: JaxArray }
    const linear = fusedLinearUnpairedPreferenceLossValueAndGrad(({ hidden, weight }: Params, factor: number) => ({
      hidden: hidden.mul(factor),
      weight,
    }))
    const params = {
      hidden: np.array(hidden, { shape: [BATCH, TIME, WIDTH] }),
      weight: np.array(weight, { shape: [WIDTH, VOCAB] }),
    }
    const { loss, metrics, gradParams } = await linear(params, 2, labels, { ...unpaired, transposed: true })
    expect(loss).toBe(wanted.loss)
    expect(metrics.rewards).toEqual(wanted.rewards)
    expect(await gradParams.hidden.data()).toEqual(of(wanted.gradHidden!.data as Float32Array, 2))
    expect(await gradParams.weight.data()).toEqual(wanted.gradWeight!.data)
    expect(liveBuffers()).toBe(before)
  })
})
