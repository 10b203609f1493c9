/**
 * PyTorch on the CPU, in three formulations, and TRL's output layer, which is written in PyTorch: pytorch.py does the work.
 */
import { existsSync, readFileSync } from 'node:fs'
import { pythonPeer } from './python.mjs'

/**
 * @param {'eager' | 'cross-entropy' | 'compile'} formulation
 * @param {Pick<import('./index.mjs').Peer, 'name' | 'title' | 'quick' | 'compiles'>} words
 * @param {Record<string, string>} [environment]
 */
const torchPeer = (formulation, words, environment) =>
  pythonPeer(
    { script: 'pytorch.py', library: 'torch', formulation, environment },
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

const CPU_INFO = '/proc/cpuinfo'
const hasAmx = existsSync(CPU_INFO) && /\bamx_bf16\b/.test(readFileSync(CPU_INFO, 'utf8'))

/** On a CPU with AMX, which oneDNN multiplies bfloat16 with: what PyTorch takes on the CPUs that have none. */
export const torchWithoutAmx = {
  ...torchPeer(
    'eager',
    { name: 'torch-without-amx', title: 'PyTorch, eager, without AMX' },
    { ONEDNN_MAX_CPU_ISA: 'AVX512_CORE_BF16' },
  ),
  /** @param {import('./index.mjs').Workload} workload */
  supports({ stage, dtype, shift }) {
    if (!hasAmx) return 'this CPU has no AMX'
    return (stage.startsWith('linear') && !shift && dtype === 'bfloat16') || 'is for output layers in bfloat16 alone'
  },
}

/** `trl.kernels.ChunkedLogProbFunction`, under its SFT, DPO and GRPO trainers. */
export const trl = pythonPeer(
  { script: 'pytorch.py', library: 'trl', formulation: 'trl' },
  {
    name: 'trl',
    title: "TRL's fused head",
    supports: ({ stage, shift }) =>
      (stage.startsWith('linear') && !shift) ||
      'is for output layers alone, whose labels stand beside the hidden states',
  },
)
