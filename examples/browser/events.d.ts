// What the worker tells the page.
/** The stages of a run, in this order. */
export type Stage = 'load' | 'read' | 'compare' | 'tune'

/** What computes. */
export type Engine = 'wasm' | 'webgpu'

/** What the page sends. */
export interface Order {
  book: import('./book-data.mjs').BookData
  engine: Engine
  size: import('./sizes.mjs').Size
}

/** What an engine computes with: threads, or a GPU by its name. */
export type Loaded = { threads: { package: number; tensorflow: number } } | { gpu: string }

/** A way to compute the last layer and the loss. */
export type Way = 'package' | 'fastest' | 'automatic'

export type Event =
  | { type: 'stage'; stage: Stage; steps: number }
  | ({ type: 'loaded' } & Loaded)
  /** A step of next-token training; the loss in nats per token. */
  | { type: 'read'; step: number; loss: number }
  | ({ type: 'cost'; way: Way } & Cost)
  | ({ type: 'agreement' } & Agreement)
  /** A step of DPO. */
  | { type: 'tuned'; step: number; loss: number; margin: number; accuracy: number }
  /** The pairs held out; `preferred`: those that are shown, the probability of preferring the chosen completion. */
  | { type: 'heldOut'; step: number; margin: number; accuracy: number; preferred: number[] }
  | { type: 'finished' }
  | { type: 'failed'; problem: string }

/** Median times of steps so far. */
export interface Cost {
  stepMs: number
  /** Of this, the last layer and the loss with their gradients. */
  lossMs: number
  /** The most bytes that the last layer and the loss take at once, their gradients included. */
  bytes: number
}

/** The largest difference of the other ways from the package, as a share of the loss and of the gradient's largest element. */
export interface Agreement {
  loss: number
  gradient: number
}

/** The result of one call on the GPU beside the same in plain TypeScript. */
export interface Checked {
  name: string
  ok: boolean
  /** The largest difference of a token's log-prob and of the gradient, in ULP of float32. */
  logProb?: number
  gradient?: number
  /** Of the output layer the largest difference, as a share of the largest element. */
  share?: number
  /** What was thrown. */
  problem?: string
}

/** Median seconds of one call so far, on the clock of the page and, where it shows one, of the GPU. */
export interface Benched {
  shape: number[]
  /** Of the logits. */
  bytes: number
  /** Calls that were submitted together. */
  calls: number
  round: number
  rounds: number
  seconds: Record<'copy' | 'forward' | 'step', { wall?: number; gpu?: number }>
}

/** What is told of the visitor's GPU. */
export type Adapter = ReturnType<typeof import('./gpu/adapter.mjs').describe>

/** What the worker that checks and measures the GPU tells the page. */
export type GpuEvent =
  | { type: 'adapter'; adapter: Adapter; checks: number }
  | { type: 'checked'; checked: Checked }
  | { type: 'benched'; benched: Benched }
  | { type: 'finished' }
  | { type: 'failed'; problem: string }
