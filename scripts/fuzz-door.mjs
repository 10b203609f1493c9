/**
 * Random calls from JavaScript with hostile values in them: every call returns its result or throws an error of this
 * package, a call that throws leaves every array unchanged that it could have written, and an honest call in between
 * always returns the same result. Part of `npm run fuzz`; to run it alone:
 *
 *   node scripts/fuzz-door.mjs [--seconds N | --calls N]    10 seconds by default
 */
import { parseArgs } from 'node:util'
import fc from 'fast-check'
import * as index from '../dist/index.mjs'

/** The names of options. They are not part of the public API, so their modules have no types. */
const inDist = (/** @type {string} */ path) => import(new URL(`../dist/${path}`, import.meta.url).href)
const { HEAD_GRADIENT_OPTIONS } = await inDist('call/head-gradients.mjs')
const { PAIRED_OPTIONS } = await inDist('call/paired-call.mjs')
const { UNPAIRED_OPTIONS } = await inDist('call/unpaired-call.mjs')

/** The package as an object, whose functions are called by name with any arguments. */
const fpl = /** @type {Record<string, (...given: unknown[]) => any>} */ (/** @type {object} */ (index))

const { values: limits } = parseArgs({ options: { seconds: { type: 'string' }, calls: { type: 'string' } } })
const seconds = Number(limits.seconds ?? (limits.calls === undefined ? 10 : Number.POSITIVE_INFINITY))
const calls = Number(limits.calls ?? Number.POSITIVE_INFINITY)
if (!(seconds > 0 && calls > 0)) throw new Error('--seconds and --calls must be numbers > 0')
const CODES =
  /^ERR_(INVALID_ARG_TYPE|INVALID_ARG_VALUE|OUT_OF_RANGE|SHAPE_MISMATCH|LABEL_OUT_OF_RANGE|BACKEND_UNAVAILABLE|DISPOSED)$/
if (!fpl.getBackends().cpu.available) throw new Error(fpl.getBackends().cpu.reason)

const [batch, time, vocab, width] = [2, 3, 20, 4]
const size = batch * time * vocab
const pristine = Float32Array.from({ length: size }, (_, i) => ((i * 37) % 101) / 16)
const honestLabels = Int32Array.from({ length: batch * time }, (_, i) => (7 * i) % vocab)

/** An error of the caller's own code, which a call may pass on to the caller. */
const THROWN = new Error('thrown by the caller')
function detached(/** @type {ArrayBufferView} */ array) {
  try {
    structuredClone(array.buffer, { transfer: [/** @type {ArrayBuffer} */ (array.buffer)] })
  } catch {
    // the memory is shared, or already gone
  }
  return array
}

// Functions make new values for each call, because some values do not survive a call.
const plain = [
  undefined,
  null,
  true,
  false,
  0,
  -0,
  -1,
  1,
  2,
  1.5,
  1e300,
  NaN,
  Infinity,
  -Infinity,
  2 ** 31,
  2 ** 32,
  2 ** 53,
]
const words = [
  '',
  'x',
  'in-place',
  'sigmoid',
  'simpo',
  'bco_pair',
  'dpo',
  'label_smoothing',
  'js',
  'nan',
  'error',
  'wpo',
  'cpu',
  'float16',
  '__proto__',
  'length',
  1n,
  -(2n ** 70n),
  Symbol('s'),
  () => 0,
]
const lengths = [0, 1, 2, 3, 6, 20, 120, 121]
const kinds = [Float32Array, Float64Array, Uint16Array, Int32Array, Uint8Array, BigInt64Array]
const typed = fc.tuple(fc.constantFrom(...kinds), fc.constantFrom(...lengths)).map(
  ([Kind, n]) =>
    () =>
      new Kind(n),
)
const shared = typed.map((make) => () => {
  const { constructor: Kind, byteLength, length } = /** @type {any} */ (make())
  return new Kind(new SharedArrayBuffer(byteLength), 0, length)
})
const resizable = typed.map((make) => () => {
  const { constructor: Kind, byteLength } = /** @type {any} */ (make())
  return new Kind(new /** @type {any} */ (ArrayBuffer)(byteLength, { maxByteLength: byteLength + 64 }))
})
const subclassed = typed.map((make) => () => {
  const array = /** @type {any} */ (make())
  const Kind = class extends array.constructor {
    get length() {
      return 10_000
    }
    get byteLength() {
      return 8
    }
  }
  return new /** @type {any} */ (Kind)(array.length)
})
const LIES = [
  'length',
  'byteLength',
  'byteOffset',
  'buffer',
  Symbol.toStringTag,
  Symbol.iterator,
  'constructor',
  'subarray',
]
const lying = fc
  .tuple(typed, fc.constantFrom(...LIES), fc.constantFrom(0, 7, 2 ** 40, 'Float32Array', 'Int32Array', undefined, null))
  .map(
    ([make, name, value]) =>
      () =>
        Object.defineProperty(make(), name, { value }),
  )
const list = fc
  .tuple(fc.constantFrom(...lengths), fc.constantFrom(0, 1, 3, -2, 0.5, NaN, '1', null, 1n, 0n, -(2n ** 63n), true, -0))
  .map(
    ([n, value]) =>
      () =>
        new Array(n).fill(value),
  )
const arrayLike = fc
  .constantFrom(-1, 0, 1, 6, 2 ** 31, 2 ** 53 - 1, NaN, '6', 1.5)
  .map((length) => () => ({ length, 0: 1 }))
const revoked = fc.constant(() => {
  const { proxy, revoke } = Proxy.revocable([], {})
  revoke()
  return proxy
})
const simple = fc.oneof(
  fc.constantFrom(...plain, ...words).map((value) => () => value),
  typed,
  shared,
  resizable,
  subclassed,
  lying,
  list,
  arrayLike,
  revoked,
  typed.map((make) => () => detached(make())),
  fc.constantFrom(
    () => ({}),
    () => new Map(),
    () => Object.create(null),
    () => new Date(),
    () => new String('cpu'),
  ),
)
/** Lists and objects whose answers change, or that throw. */
const shifty = fc.tuple(simple, simple, fc.nat({ max: 3 })).map(([make, other, times]) => () => {
  const value = make()
  if (typeof value !== 'object' || value === null) return value
  let asked = 0
  return new Proxy(value, {
    get(of, key) {
      if (++asked > 3 * times + 1) {
        if (times === 0) throw THROWN
        if (typeof key === 'string' && key !== 'constructor') return other()
      }
      return Reflect.get(of, key, of)
    },
  })
})
const hostile = fc.oneof({ weight: 5, arbitrary: simple }, { weight: 2, arbitrary: shifty })

const OPTIONS = [
  ...new Set([...PAIRED_OPTIONS, ...UNPAIRED_OPTIONS, ...HEAD_GRADIENT_OPTIONS, 'bias', 'gradient', 'other']),
]
const TENSOR = ['data', 'shape', 'dtype', 'strides']
const PAIRS = ['chosen', 'rejected', 'referenceChosen', 'referenceRejected', 'chosenTokenCounts', 'rejectedTokenCounts']
const REFERENCE = [
  'chosen',
  'rejected',
  'logProbs',
  'tokenCounts',
  'backward',
  'backwardSync',
  'logits',
  'hidden',
  'weight',
  'then',
  'logps',
]
const ARGUMENT = ['logits', 'weight', 'labels', 'options', 'pairs']
const of = (/** @type {string[]} */ names, /** @type {string} */ owner) => names.map((name) => `${owner} ${name}`)
const PLACES = [
  ...ARGUMENT,
  ...TENSOR,
  ...of(TENSOR, 'weight'),
  ...of(PAIRS, 'pairs'),
  ...of(REFERENCE, 'reference'),
  ...OPTIONS,
]
/**
 * How an option gets its value: as a plain property, by a getter, or by a getter that first throws or takes memory
 * away; for all options or some.
 */
const change = fc.tuple(
  fc.constantFrom(...PLACES),
  hostile,
  fc.constantFrom('value', 'value', 'value', 'getter', 'throws', 'takes', 'takes one'),
)
const call = fc.record({
  name: fc.constantFrom(
    'fusedPreferenceLoss',
    'sequenceLogProbs',
    'preferenceLoss',
    'fusedLinearPreferenceLoss',
    'unpairedPreferenceLoss',
    'fusedUnpairedPreferenceLoss',
    'linearSequenceLogProbs',
    'backward',
    'linearBackward',
  ),
  reference: fc.constantFrom('by pair', 'by pair', 'by sequence', 'result', 'model', 'none'),
  lossType: fc.constantFrom(undefined, undefined, 'cpo', 'sigmoid_norm', 'dpop', 'rpo_sq', 'rpo_bwd_kl', 'rpo_fwd_kl', [
    { lossType: 'simpo' },
    { lossType: 'sft', weight: 0.5 },
  ]),
  /** Whether the constants of pairs are arrays. */
  each: fc.boolean(),
  changes: fc.array(change, { maxLength: 3 }),
  gradient: fc.constantFrom(undefined, true, 'in-place', 'out'),
})

/**
 * A generated call.
 * @typedef {object} Given
 * @property {string} name
 * @property {string} reference
 * @property {unknown} lossType
 * @property {boolean} each
 * @property {[place: string, make: () => unknown, how: string][]} changes
 * @property {boolean | string | undefined} gradient
 *
 * @typedef {{ logits: object, weight: object, labels: Int32Array, pairs: object, options: Record<string, unknown> }} Parts
 * @typedef {ReturnType<typeof build>} Built
 */

/** References in all their forms. */
function referenceOf(/** @type {string} */ form, /** @type {boolean} */ linear) {
  if (form === 'by pair') return { chosen: [-3], rejected: [-4] }
  if (form === 'by sequence') return { logProbs: new Float64Array(2).fill(-3), tokenCounts: BigInt64Array.of(2n, 2n) }
  const data = pristine.slice(0, linear ? batch * time * width : size)
  const tensor = { data, shape: [batch, time, linear ? width : vocab] }
  const matrix = { data: pristine.slice(0, vocab * width), shape: [vocab, width] }
  if (form === 'model') return linear ? { hidden: tensor, weight: matrix } : { logits: tensor }
  if (form !== 'result') return undefined
  return linear
    ? fpl.linearSequenceLogProbsSync(tensor, matrix, honestLabels)
    : fpl.sequenceLogProbsSync(tensor, honestLabels)
}

/** The loss options of a call, each constant of pairs a number or an array. */
function lossOptions(/** @type {unknown} */ lossType, /** @type {boolean} */ each) {
  const name = String(typeof lossType === 'string' ? lossType : 'sigmoid')
  const of = (/** @type {number} */ value) => (each ? [value] : value)
  return {
    ...(lossType !== undefined && { lossType }),
    ...(name.startsWith('rpo') && { targetMargin: of(0.5) }),
    ...(name === 'dpop' && { dpopLambda: 3, offset: of(0.5) }),
    ...(each && { beta: Float64Array.of(0.2), pairWeights: [0.5] }),
  }
}

/** Those of single sequences. */
function unpairedOptions(/** @type {boolean} */ each) {
  if (!each) return { desirable: [true, false], lossType: 'bco' }
  return { desirable: [1, 0], lossType: 'regression', targets: [0.5, -1], beta: [0.1, 0.2], sequenceWeights: [1, 2] }
}

function build(/** @type {Given} */ { name, changes, gradient, reference, lossType, each }) {
  const linear = /linear/i.test(name)
  const data = pristine.slice(0, linear ? batch * time * width : size)
  const weightData = pristine.slice(0, vocab * width)
  const out = new Float32Array(linear ? vocab * width : size).fill(5)
  const logits = { data, shape: [batch, time, linear ? width : vocab] }
  const weight = { data: weightData, shape: [vocab, width] }
  const unpaired = /unpaired/i.test(name)
  const model = referenceOf(unpaired && reference === 'by pair' ? 'by sequence' : reference, linear)
  const pairs = { chosen: [-3], rejected: [-4] }
  /** @type {Parts} */
  const parts = { logits, weight, labels: honestLabels.slice(), pairs, options: {} }
  if (name.startsWith('fused')) {
    parts.options.reference = model
    Object.assign(parts.options, unpaired ? unpairedOptions(each) : lossOptions(lossType, each))
    const into = linear ? { hidden: true, weight: out } : out
    if (gradient) parts.options.gradient = gradient === 'out' ? into : gradient
  }
  if (name === 'backward' && gradient) parts.options.gradient = gradient === 'out' ? out : gradient
  if (name === 'linearBackward') {
    parts.options.gradient = [undefined, true, false, { weight: out }][changes.length]
  }
  if (name === 'preferenceLoss') {
    Object.assign(parts.options, lossOptions(lossType ?? 'cpo', each))
    if (reference !== 'none') Object.assign(pairs, { referenceChosen: [-3], referenceRejected: [-4] })
    if (lossType !== undefined)
      Object.assign(pairs, { chosenTokenCounts: [9], rejectedTokenCounts: BigInt64Array.of(8n) })
  }
  if (name === 'unpairedPreferenceLoss') {
    Object.assign(parts.options, unpairedOptions(each))
    parts.pairs = { logProbs: [-3, -4], referenceLogProbs: [-3, -3] }
  }
  let taken = false
  for (const [place, make, how] of changes) {
    const [owner, part] = place.includes(' ') ? place.split(' ') : ['', place]
    /** @type {Record<string, unknown>} */
    const owners = { weight, pairs, reference: model }
    const own = ARGUMENT.includes(part) ? parts : TENSOR.includes(part) ? logits : parts.options
    const target = owner === '' ? own : owners[owner]
    const name = part
    if (typeof target !== 'object' || target === null) continue
    const value = make()
    const get = () => {
      if (how === 'throws') throw THROWN
      if (how.startsWith('takes')) {
        const arrays = [data, weightData, out, parts.labels]
        const some = how === 'takes' ? arrays : [arrays[place.length % 4]]
        for (const array of some) if (ArrayBuffer.isView(array) && array.length > 0) detached(array)
        taken = true
      }
      return value
    }
    try {
      if (how === 'value' || target === parts) Object.assign(target, { [name]: value })
      else Object.defineProperty(target, name, { get, enumerable: true, configurable: true })
    } catch {
      // a proxy or a frozen object, which cannot be written
    }
  }
  return {
    parts,
    upstream: changes.length > 1 ? changes[0][1]() : undefined,
    data,
    weightData,
    out,
    taken: () => taken,
  }
}

function expected(/** @type {any} */ error) {
  if (error === THROWN || CODES.test(error?.code)) return true
  // A revoked proxy throws on any access; a caller's object may not convert to a number or a string.
  return (
    error instanceof TypeError &&
    /revoked|convert|proxy|not a function|Method get|called on incompatible/.test(error.message)
  )
}

const counts = { calls: 0, returned: 0, refused: 0 }

function settled(/** @type {any} */ error, /** @type {Built} */ built) {
  counts.calls++
  if (error === undefined) {
    counts.returned++
    return
  }
  counts.refused++
  if (!expected(error)) throw error
  const same = (/** @type {Float32Array} */ array, /** @type {(i: number) => number} */ wanted) =>
    array.length === 0 || array.every((x, i) => x === wanted(i))
  const inputs = [built.data, built.weightData]
  if (!inputs.every((array) => same(array, (i) => pristine[i])) || !same(built.out, () => 5)) {
    throw new Error(`a call that threw has written: ${error.stack}`)
  }
}

/** @type {Record<string, (parts: Parts) => unknown[]>} */
const ARGUMENTS = {
  fusedPreferenceLoss: ({ logits, labels, options }) => [logits, labels, options],
  sequenceLogProbs: ({ logits, labels, options }) => [logits, labels, options],
  preferenceLoss: ({ pairs, options }) => [pairs, options],
  unpairedPreferenceLoss: ({ pairs, options }) => [pairs, options],
  fusedUnpairedPreferenceLoss: ({ logits, labels, options }) => [logits, labels, options],
  fusedLinearPreferenceLoss: ({ logits, weight, labels, options }) => [logits, weight, labels, options],
  linearSequenceLogProbs: ({ logits, weight, labels, options }) => [logits, weight, labels, options],
}

/** The result of a forward pass for `backward`, whose arguments follow. */
function forBackward(/** @type {string} */ name, /** @type {Built} */ { data, weightData, upstream = [1, 2], parts }) {
  const weight = { data: weightData, shape: [vocab, width] }
  const sums =
    name === 'backward'
      ? fpl.sequenceLogProbsSync({ data, shape: [batch, time, vocab] }, honestLabels)
      : fpl.linearSequenceLogProbsSync({ data, shape: [batch, time, width] }, weight, honestLabels)
  return [sums, upstream, parts.options]
}

function sync(/** @type {Given} */ given) {
  const built = build(given)
  let error
  try {
    if (/backward/i.test(given.name)) {
      const [sums, upstream, options] = forBackward(given.name, built)
      sums.backwardSync(upstream, options)
    } else {
      fpl[`${given.name}Sync`](...ARGUMENTS[given.name](built.parts))
    }
  } catch (caught) {
    error = caught ?? new Error('threw nothing')
  }
  settled(error, built)
}

function start(/** @type {string} */ name, /** @type {Built} */ built) {
  if (!/backward/i.test(name)) return fpl[name](...ARGUMENTS[name](built.parts))
  const [sums, upstream, options] = forBackward(name, built)
  return sums.backward(upstream, options)
}

async function later(/** @type {Given} */ given) {
  const built = build(given)
  await start(given.name, built).then(
    () => settled(undefined, built),
    (/** @type {unknown} */ error) => settled(error ?? new Error('rejected with a value that is not an error'), built),
  )
}

const honest = () => {
  const options = { reference: { chosen: [-3], rejected: [-4] }, gradient: true }
  return JSON.stringify(
    fpl.fusedPreferenceLossSync({ data: pristine, shape: [batch, time, vocab] }, honestLabels, options),
  )
}
const wanted = honest()

const end = Date.now() + 1000 * seconds
const seed = Date.now() & 0x7fffffff
let round = 0
while (Date.now() < end && counts.calls < calls) {
  const settings = { numRuns: 2000, seed: seed + round++, endOnFailure: false }
  fc.assert(fc.property(call, sync), settings)
  await fc.assert(fc.asyncProperty(call, later), { ...settings, numRuns: 300 })
  if (honest() !== wanted) throw new Error('an honest call no longer returns its earlier result')
}
console.log(
  `door: ${counts.calls} calls from seed ${seed}, ${counts.returned} gave a result, ${counts.refused} were refused: 0 wrong`,
)
