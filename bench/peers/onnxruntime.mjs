/**
 * onnxruntime-node: LogSoftmax and GatherElements, forward only (it has no gradients in Node). The model is three
 * nodes, written here as the bytes of its protocol buffer.
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const TYPES = { float32: 1, int64: 7, float16: 10 }

/** A field of a protocol buffer: a number, or bytes with their length (text, or another message's fields). */
function field(/** @type {number} */ id, /** @type {number | string | Uint8Array[]} */ value) {
  if (typeof value === 'number') return Buffer.from([...varint(id << 3), ...varint(value)])
  const bytes = typeof value === 'string' ? Buffer.from(value) : Buffer.concat(value)
  return Buffer.concat([Buffer.from([...varint((id << 3) | 2), ...varint(bytes.length)]), bytes])
}

/** @returns {number[]} */
function varint(/** @type {number} */ value) {
  return value < 128 ? [value] : [(value & 127) | 128, ...varint(value >>> 7)]
}

/** The ids are those of onnx.proto3. */
function node(
  /** @type {string} */ type,
  /** @type {string[]} */ inputs,
  /** @type {string} */ output,
  /** @type {[string, number]} */ [attribute, value],
) {
  const integer = 2
  return field(1, [
    ...inputs.map((input) => field(1, input)),
    field(2, output),
    field(4, type),
    field(5, [field(1, attribute), field(3, value), field(20, integer)]),
  ])
}

function tensor(/** @type {number} */ id, /** @type {string} */ name, /** @type {number} */ type) {
  return field(id, [field(1, name), field(2, [field(1, [field(1, type)])])])
}

/** @param {'float32' | 'float16'} dtype */
export function logProbModel(dtype) {
  const cast = dtype === 'float16' ? [node('Cast', ['logits'], 'wide', ['to', TYPES.float32])] : []
  const graph = [
    ...cast,
    node('LogSoftmax', [cast.length > 0 ? 'wide' : 'logits'], 'logProbs', ['axis', 1]),
    node('GatherElements', ['logProbs', 'labels'], 'picked', ['axis', 1]),
    field(2, 'log-probs'),
    tensor(11, 'logits', TYPES[dtype]),
    tensor(11, 'labels', TYPES.int64),
    tensor(12, 'picked', TYPES.float32),
  ]
  const operatorSet = [field(1, ''), field(2, 13)]
  return Buffer.concat([field(1, 8), field(7, graph), field(8, operatorSet)])
}

/** @type {any} */
let session
/** @type {any[]} */
let feeds
/** @type {Int32Array} */
let targets
let time = 0
/** @type {number[]} */
let logProbs

/** @type {import('./index.mjs').Peer} */
export const onnxruntime = {
  name: 'onnxruntime',
  title: 'onnxruntime-node',
  quick: true,

  supports({ stage, dtype }) {
    if (stage !== 'forward') return 'has no gradients in Node'
    return dtype !== 'bfloat16' || 'takes no bfloat16 from JavaScript'
  },

  async prepare({ shape: [batch, length, vocab], dtype }, inputs, { threads }) {
    const { InferenceSession, Tensor } = await import('onnxruntime-node')
    const main = createRequire(import.meta.url).resolve('onnxruntime-node')
    this.version = JSON.parse(readFileSync(main.replace(/dist.*/, 'package.json'), 'utf8')).version
    session = await InferenceSession.create(logProbModel(/** @type {any} */ (dtype)), { intraOpNumThreads: threads })
    targets = inputs.targets
    time = length
    const labels = new Tensor(
      'int64',
      BigInt64Array.from(targets, (target) => BigInt(Math.max(0, target))),
      [batch * time, 1],
    )
    feeds = inputs.logits.map((data) => ({
      logits: new Tensor(/** @type {any} */ (dtype), /** @type {any} */ (data), [batch * time, vocab]),
      labels,
    }))
    logProbs = new Array(batch)
  },

  async run(copy) {
    const { picked } = await session.run(feeds[copy])
    logProbs.fill(0)
    for (let row = 0; row < targets.length; row++) {
      if (targets[row] >= 0) logProbs[Math.floor(row / time)] += picked.data[row]
    }
  },

  result: () => ({ logProbs }),
}
