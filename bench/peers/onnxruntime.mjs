/**
 * onnxruntime-node: LogSoftmax and GatherElements, forward only (it has no gradients in Node). With an output layer:
 * its MatMul, and our log-probs from the logits.
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { sequenceLogProbsSync } from 'fused-preference-loss'
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

/** The output layer. */
const headModel = () =>
  onnxModel({
    inputs: { hidden: 'float32', weight: 'float32' },
    outputs: { logits: 'float32' },
    nodes: [{ type: 'MatMul', inputs: ['hidden', 'weight'], output: 'logits' }],
  })

/** @type {any} */
let session
/** @type {any[]} */
let feeds
/** @type {Int32Array} */
let targets
let time = 0
/** @type {number[]} */
let logProbs
/** @type {((copy: number) => Promise<void>) | undefined} */
let forward

/** @type {import('./index.mjs').Peer} */
export const onnxruntime = {
  name: 'onnxruntime',
  title: 'onnxruntime-node',
  quick: true,
  linear: true,

  supports({ stage, dtype }) {
    if (stage !== 'forward' && stage !== 'linear-forward') return 'has no gradients in Node'
    return dtype !== 'bfloat16' || 'takes no bfloat16 from JavaScript'
  },

  async prepare({ shape: [batch, length, vocab], dtype, width, shift }, inputs, { threads }) {
    const { InferenceSession, Tensor } = await import('onnxruntime-node')
    const main = createRequire(import.meta.url).resolve('onnxruntime-node')
    this.version = JSON.parse(readFileSync(main.replace(/dist.*/, 'package.json'), 'utf8')).version
    const model = width ? headModel() : logProbModel(/** @type {any} */ (dtype))
    session = await InferenceSession.create(model, { intraOpNumThreads: threads })
    if (width) {
      // The layout that its MatMul takes: [width, vocab].
      const given = /** @type {Float32Array} */ (inputs.weight)
      const across = Float32Array.from(
        { length: given.length },
        (_, i) => given[(i % vocab) * width + Math.floor(i / vocab)],
      )
      const weight = new Tensor('float32', across, [width, vocab])
      const states = inputs.logits.map(
        (data) => new Tensor('float32', /** @type {any} */ (data), [batch * length, width]),
      )
      forward = async (copy) => {
        const { logits } = await session.run({ hidden: states[copy], weight })
        const tensor = { data: /** @type {Float32Array} */ (logits.data), shape: [batch, length, vocab] }
        logProbs = [...sequenceLogProbsSync(tensor, inputs.labels, { shift, threads }).logProbs]
      }
      return
    }
    forward = undefined
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
    if (forward) return forward(copy)
    const { picked } = await session.run(feeds[copy])
    logProbs.fill(0)
    for (let row = 0; row < targets.length; row++) {
      if (targets[row] >= 0) logProbs[Math.floor(row / time)] += picked.data[row]
    }
  },

  result: () => ({ logProbs }),
}
