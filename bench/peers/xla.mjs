/**
 * JAX on the CPU, compiled by XLA: xla.py does the work.
 */
import { pythonPeer } from './python.mjs'

export const xla = pythonPeer(
  { script: 'xla.py', library: 'jax', formulation: 'jit' },
  {
    name: 'jax',
    title: 'JAX (XLA)',
    supports({ stage }) {
      if (stage === 'cross-entropy-step') return 'keeps its logits: see the case of cross-entropy'
      return stage !== 'loss' || 'its own part of the work starts at the logits'
    },
  },
)
