/**
 * onnxruntime-node: LogSoftmax and GatherElements, forward only (it has no gradients in Node).
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { onnxModel, TYPES } from '../../scripts/onnx-model.mjs'

/** @param {'float32' | 'float16'} dtype */
export function logProbModel(dtype) {
  const half = dtype === 'float16'
  return onnxModel({
    inputs: { logits: dtype, labels: 'int64' },
    outputs: { picked: 'float32' },
    nodes: [
      ...(half ? [{ type: 'Cast', inputs: ['logits'], output: 'wide', attributes: { to: TYPES.float32 } }] : []),
      { type: 'LogSoftmax', inputs: [half ? 'wide' : 'logits'], output: 'logProbs', attributes: { axis: 1 } },
      { type: 'GatherElements', inputs: ['logProbs', 'labels'], output: 'picked', attributes: { axis: 1 } },
    ],
  })
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
