// What the worker tells the page.
/** The stages of a run, in this order. */
export type Stage = 'load' | 'read' | 'compare' | 'tune'

/** A way to compute the last layer and the loss. */
export type Way = 'package' | 'fastest' | 'automatic'

export type Event =
  | { type: 'stage'; stage: Stage; steps: number }
  | { type: 'loaded'; threads: { package: number; tensorflow: number } }
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
