/**
 * PyTorch on the CPU, in three formulations, and TRL's output layer, which is written in PyTorch: pytorch.py does the work.
 */
import { pythonPeer } from './python.mjs'

/**
 * @param {'eager' | 'cross-entropy' | 'compile'} formulation
 * @param {Pick<import('./index.mjs').Peer, 'name' | 'title' | 'quick' | 'compiles'>} words
 */
const torchPeer = (formulation, words) =>
  pythonPeer(
    { script: 'pytorch.py', library: 'torch', formulation },
    {
      ...words,
      supports({ stage, shift }) {
        if (stage.endsWith('tokens') && shift) return 'is compared on tokens whose labels stand beside them'
        if (stage === 'cross-entropy-step') return 'keeps its logits: see the case of cross-entropy'
        return stage !== 'loss' || formulation === 'eager' || 'the loss alone is the same in every formulation'
      },
    },
  )

export const torchEager = torchPeer('eager', { name: 'torch-eager', title: 'PyTorch, eager as commonly written' })
export const torchCrossEntropy = torchPeer('cross-entropy', {
  name: 'torch-cross-entropy',
  title: 'PyTorch, through cross_entropy',
  quick: true,
})
export const torchCompile = torchPeer('compile', {
  name: 'torch-compile',
  title: 'PyTorch, torch.compile',
  compiles: true,
})

/** `trl.kernels.ChunkedLogProbFunction`, under its SFT, DPO and GRPO trainers. */
export const trl = pythonPeer(
  { script: 'pytorch.py', library: 'trl', formulation: 'trl' },
  {
    name: 'trl',
    title: "TRL's fused head",
    supports: ({ stage, shift }) =>
      (stage.startsWith('linear') && !shift) || 'is an output layer whose labels stand beside the hidden states',
  },
)
