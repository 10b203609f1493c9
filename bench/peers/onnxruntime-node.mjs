/**
 * onnxruntime-node.
 */
import { onnxruntimePeer } from './onnxruntime.mjs'

export const onnxruntimeNode = onnxruntimePeer(
  () => import('onnxruntime-node'),
  {},
  { name: 'onnxruntime', title: 'onnxruntime-node', quick: true },
)
