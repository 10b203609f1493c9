/**
 * The metrics of a training step under the names TRL gives them, and a JSON Lines file to keep them in, which
 * `npx fused-preference-loss plot` draws.
 */
export { appendMetrics } from './append-metrics.js'
export { metricsLine } from './metrics-line.js'
export {
  type StepBatch,
  type StepMetrics,
  type StepOptions,
  stepMetrics,
  type UnpairedStepMetrics,
} from './step-metrics.js'
