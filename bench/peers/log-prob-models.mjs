/**
 * ONNX models of the peers that are onnxruntime.
 */
import { onnxModel, TYPES } from '../../scripts/onnx-model.mjs'

/**
 * LogSoftmax, and GatherElements at the labels.
 * @param {'float32' | 'float16'} dtype
 */
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
export const headModel = () =>
  onnxModel({
    inputs: { hidden: 'float32', weight: 'float32' },
    outputs: { logits: 'float32' },
    nodes: [{ type: 'MatMul', inputs: ['hidden', 'weight'], output: 'logits' }],
  })
