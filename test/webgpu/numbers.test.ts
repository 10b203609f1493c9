/**
 * The arithmetic of the shaders: exponentials, logarithms and two-float numbers against float64, and tests of NaN and
 * infinities, which compilers of shaders like to assume away.
 */
import { afterAll, describe, expect, test } from 'vitest'
import numbers from '../../lib/backends/webgpu/kernels/numbers.wgsl'
import rounding from '../../lib/backends/webgpu/kernels/rounding.wgsl'
import { shader } from '../../lib/backends/webgpu/shader.js'
import { fromTwoFloats, temperatureConstants, twoFloats } from '../../lib/backends/webgpu/two-floats.js'
import { encode, random, ulp } from '../support.js'
import { DEVICE } from './device.js'
import { Dispatches } from './dispatches.js'

const { NaN: nan, POSITIVE_INFINITY: inf } = Number
const dispatches = new Dispatches(DEVICE!)
afterAll(() => dispatches.free())
const next = random(9)

/** Rounded to float32, this or more is infinite. */
const OVERFLOW = 2 ** 128 * (1 - 2 ** -25)
const SMALLEST_NORMAL = 2 ** -126

/** `out` of each element: an expression in a, b and c, two-float numbers, and the temperature t. */
async function onDevice(
  expression: string,
  inputs: readonly ArrayLike<number>[],
  temperature = 1,
): Promise<Float32Array> {
  const { length } = inputs[0]
  const columns = Float32Array.from({ length: 6 * length })
  inputs.forEach((values, k) => {
    for (let i = 0; i < length; i++) columns.set(twoFloats([values[i]]), 6 * i + 2 * k)
  })
  const main = `
    struct Params { t: Temperature, zero: u32, count: u32 }
    @group(0) @binding(0) var<uniform> params: Params;
    @group(0) @binding(1) var<storage, read> inputs: array<array<TwoFloat, 3>>;
    @group(0) @binding(2) var<storage, read_write> outs: array<TwoFloat>;
    @compute @workgroup_size(WORKGROUP)
    fn main(@builtin(global_invocation_id) id: vec3u) {
      hiddenZero = params.zero;
      let t = params.t;
      if (id.x >= params.count) { return; }
      let a = inputs[id.x][0];
      let b = inputs[id.x][1];
      let c = inputs[id.x][2];
      outs[id.x] = ${expression};
    }`
  const words = new Uint32Array(8)
  new Float32Array(words.buffer).set(temperatureConstants(temperature))
  words[5] = length
  const outs = dispatches.storage(8 * length)
  const buffers = [dispatches.uniform(words), dispatches.storage(columns), outs]
  await dispatches.run(shader(expression, {}, [numbers, rounding, main]), buffers, Math.ceil(length / 256))
  const results = await dispatches.read(outs)
  dispatches.free()
  return results.subarray(0, 2 * length)
}

const bits = new Uint32Array(1)
const float = new Float32Array(bits.buffer)
const floatOf = (pattern: number) => {
  bits[0] = pattern
  return float[0]
}

/** Numbers of all exponents and both signs, the ends of the subnormal and of the normal numbers, infinities and NaN. */
function floats(perExponent: number): Float64Array {
  const found = [0, -0, inf, -inf, nan, 1, -1, 2 ** -149, SMALLEST_NORMAL, floatOf(0x7f7fffff)]
  for (let exponent = 0; exponent < 255; exponent++) {
    for (let k = 0; k < perExponent; k++) {
      const x = floatOf(exponent * 2 ** 23 + Math.floor(next() * 2 ** 23))
      found.push(x, -x)
    }
  }
  return Float64Array.from(found)
}

const between = (low: number, high: number, count: number) =>
  Float64Array.from({ length: count }, () => Math.fround(low + (high - low) * next()))

/** The largest distance in ULP; fails where it is beyond `most`. A device may flush subnormal numbers. */
function expectUlps(got: Float32Array, wanted: (i: number) => number, inputs: ArrayLike<number>, most: number): void {
  for (let i = 0; i < inputs.length; i++) {
    const value = wanted(i)
    const high = got[2 * i]
    if (Number.isNaN(value) || Math.abs(value) >= OVERFLOW) {
      if (!Object.is(high, Number.isNaN(value) ? nan : Math.sign(value) * inf)) {
        expect.fail(`of ${inputs[i]} it is ${high}, not ${value}`)
      }
    } else if (!(high === 0 && Math.abs(value) < SMALLEST_NORMAL)) {
      const distance = Math.abs(high - value) / ulp(value)
      if (!(distance <= most)) expect.fail(`of ${inputs[i]} it is ${high}, ${distance} ULP from ${value}`)
    }
  }
}

describe('float32', () => {
  const xs = Float64Array.from([...floats(40), ...between(-110, 90, 20_000), ...between(-1, 1, 10_000)])

  test('exp', async () => {
    const got = await onDevice('two(expInUnits(a.x, 0, t))', [xs])
    expectUlps(got, (i) => Math.exp(xs[i]), xs, 1)
    expect(got[0]).toBe(1)
  })

  test.each([0.7, 30])('exp at temperature %d, in units of 2^-40 and 2^30', async (temperature) => {
    const logits = xs.map((x) => Math.fround(x * temperature))
    for (const exponent of [-40, 30]) {
      const got = await onDevice(`two(expInUnits(a.x, ${exponent}, t))`, [logits], temperature)
      expectUlps(got, (i) => Math.exp(logits[i] / temperature - exponent * Math.LN2), logits, 1.25)
    }
  })

  test('powers of two, the subnormal ones rounded once', async () => {
    const exponents = Float64Array.from({ length: 560 }, (_, i) => i - 280)
    const got = await onDevice('two(timesPowerOfTwo(a.x, i32(b.x)))', [exponents.map(() => 1.5), exponents])
    expectUlps(got, (i) => 1.5 * 2 ** exponents[i], exponents, 0.5)
    const parts = await onDevice('TwoFloat(binaryOf(a.x).mantissa, f32(binaryOf(a.x).exponent))', [xs])
    for (let i = 0; i < xs.length; i++) {
      if (!(xs[i] >= SMALLEST_NORMAL && xs[i] < inf)) continue
      const [mantissa, exponent] = [parts[2 * i], parts[2 * i + 1]]
      expect(mantissa * 2 ** exponent).toBe(xs[i])
      expect(mantissa).toBeGreaterThan(Math.SQRT1_2 - 1e-6)
      expect(mantissa).toBeLessThan(Math.SQRT2 + 1e-6)
    }
  })

  test('rounded to bfloat16, ties to even', async () => {
    const ties = Array.from({ length: 1000 }, (_, i) => floatOf(0x3f808000 + 0x10000 * i))
    const some = Float64Array.from([...xs, ...ties, nan, inf, -inf]).filter((x) => !(Math.abs(x) < SMALLEST_NORMAL))
    const wanted = Array.from(some, (x) => encode.bfloat16(x))
    for (const bits of ['bfloat16Bits(a.x)', '(bfloat16Pair(1, a.x) >> 16)', '(bfloat16Pair(a.x, -1) & 0xffff)']) {
      const got = await onDevice(`two(f32(${bits}))`, [some])
      expect(Array.from(wanted, (_, i) => got[2 * i])).toEqual(wanted)
    }
  })

  test('NaN and infinities are told apart, and made', async () => {
    const tests = ['isNan', 'isFinite', 'isInfinity', 'isMinusInfinity']
    const expected: ((x: number) => boolean)[] = [
      ...[Number.isNaN, Number.isFinite, (x: number) => x === inf, (x: number) => x === -inf],
    ]
    const some = floats(1)
    for (const [k, name] of tests.entries()) {
      // Of sums and products, which an optimiser may think about.
      for (const x of ['a.x', '(a.x + b.x)', '(a.x * c.x)']) {
        const got = await onDevice(`two(f32(${name}(${x})))`, [some, some.map(() => 0), some.map(() => 1)])
        const tested = Array.from(some, (_, i) => got[2 * i] === 1)
        expect(tested, `${name} of ${x}`).toEqual(Array.from(some, (value) => expected[k](value)))
      }
    }
    const made = await onDevice('TwoFloat(infinity(), -infinity())', [[0]])
    expect(Array.from(made)).toEqual([inf, -inf])
    expect(await onDevice('two(notANumber())', [[0]])).toEqual(Float32Array.of(nan, 0))
  })
})

describe('two-float numbers', () => {
  const COUNT = 20_000
  const size = () => 2 ** (60 * (next() - 0.5))
  const wild = () => Float64Array.from({ length: COUNT }, () => (next() - 0.5) * size())
  const held = (values: Float64Array) => fromTwoFloats(twoFloats(values))

  /** Within 2^power of the result or, where given, of `terms`. */
  async function expectNear(
    expression: string,
    inputs: Float64Array[],
    exact: (...values: number[]) => number,
    power: number,
    terms: (...values: number[]) => number = () => 0,
  ): Promise<void> {
    const exactly = inputs.map(held)
    const got = fromTwoFloats(await onDevice(expression, exactly))
    for (let i = 0; i < got.length; i++) {
      const values = exactly.map((column) => column[i])
      const wanted = exact(...values)
      if (Object.is(got[i] + 0, wanted + 0)) continue
      const bound = 2 ** power * Math.max(Math.abs(wanted), terms(...values)) + 2e-38
      if (!(Math.abs(got[i] - wanted) <= bound)) {
        expect.fail(`${expression} of ${values} is ${got[i]}, not ${wanted} ± ${bound}`)
      }
    }
  }

  test('sums, products and quotients', async () => {
    const [x, y] = [wild(), wild()]
    await expectNear(
      'add(a, b)',
      [x, y],
      (a, b) => a + b,
      -46,
      (a, b) => Math.max(Math.abs(a), Math.abs(b)),
    )
    // Of a number and one of float32, whichever is the larger.
    await expectNear(
      'addFloat(a, b.x)',
      [x, y.map(Math.fround)],
      (a, b) => a + b,
      -46,
      (a, b) => Math.max(Math.abs(a), Math.abs(b)),
    )
    await expectNear('sub(a, b)', [x, x.map((value) => value * (1 + 1e-9))], (a, b) => a - b, -46, Math.abs)
    await expectNear('mul(a, b)', [x, y], (a, b) => a * b, -45)
    await expectNear('div(a, b)', [x, y], (a, b) => a / b, -43)
    // Nothing is left of a difference of equals.
    await expectNear('sub(a, a)', [x], () => 0, -inf)
  })

  test('infinities and NaN have no low part, and pass through as in float64', async () => {
    const some = [0, 1, -2.5, inf, -inf, nan, 1e38, -1e38]
    const [x, y] = [some.flatMap((a) => some.map(() => a)), some.flatMap(() => some)]
    const rounded = (value: number) => (Math.abs(value) >= OVERFLOW ? Math.sign(value) * inf : value)
    const operations: Record<string, (a: number, b: number) => number> = {
      add: (a, b) => a + b,
      sub: (a, b) => a - b,
      mul: (a, b) => a * b,
      div: (a, b) => a / b,
    }
    for (const [name, exact] of Object.entries(operations)) {
      const got = await onDevice(`${name}(a, b)`, [x, y])
      x.forEach((a, i) => {
        const wanted = rounded(exact(a, y[i]))
        if (Number.isFinite(wanted)) return
        // The sign of a zero is not kept.
        const of = (value: number) => (name === 'div' && y[i] === 0 ? Math.abs(value) : value)
        expect([of(got[2 * i]), got[2 * i + 1]], `${name}(${a}, ${y[i]})`).toEqual([of(wanted), 0])
      })
    }
    const pairs = await onDevice('TwoFloat(f32(less(a, b)), f32(equal(a, b)))', [x, y])
    x.forEach((a, i) => {
      expect([pairs[2 * i], pairs[2 * i + 1]]).toEqual([Number(a < y[i]), Number(a === y[i])])
    })
  })

  test('exp and log', async () => {
    const edges = Float64Array.of(0, -0, inf, -inf, nan, 1e-30, -1e-30, 200, -200)
    const wide = Float64Array.from([...edges, ...between(-60, 88, COUNT)])
    const near = Float64Array.from([...between(-1, 1, COUNT), ...between(-1e-3, 1e-3, COUNT)])
    const infinite = (x: number) => (x > 88.8 ? inf : x)
    for (const xs of [wide, near]) {
      // An error of half an ULP of x, 2^-49 of it, is one of as much times x of e^x.
      await expectNear('expOf(a)', [xs], (x) => Math.exp(infinite(x)), -43)
      await expectNear('expm1Of(a)', [xs], (x) => Math.expm1(infinite(x)), -43)
      const logistic = (z: number) => 1 / (1 + Math.exp(-z))
      await expectNear('sigmoidOf(a)', [xs], (z) => (z < 0 ? Math.exp(z) / (1 + Math.exp(z)) : logistic(z)), -43)
      const logSigmoid = (z: number) => Math.min(z, 0) - Math.log1p(Math.exp(-Math.abs(z)))
      await expectNear('logisticOf(a).yes.value', [xs], logSigmoid, -43)
      await expectNear('logisticOf(a).no.value', [xs], (z) => logSigmoid(-z), -43)
    }
    const positive = Float64Array.from([0, inf, nan, ...wild().map(Math.abs), ...between(0.5, 2, COUNT)])
    await expectNear('logOf(a)', [positive], Math.log, -44)
    await expectNear('log1pOf(a)', [positive], Math.log1p, -44)
    await expectNear('log1pOf(a)', [between(-0.99, 0.5, COUNT)], Math.log1p, -44)
    const log1mexp = (x: number) => (x > -Math.LN2 ? Math.log(-Math.expm1(x)) : Math.log1p(-Math.exp(x)))
    const negative = Float64Array.from([-inf, ...between(-60, 0, COUNT), ...between(-1e-6, 0, COUNT)])
    await expectNear('log1mexpOf(a)', [negative], log1mexp, -43)
    expect((await onDevice('logOf(a)', [[-1]]))[0]).toBeNaN()
  })
})
