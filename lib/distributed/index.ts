/**
 * Training on several processes: counts, gradients, constants of losses and metrics over all of them.
 */
export type { Communicator } from '../types/index.js'
export { type CountedBatch, type CountOptions, globalCounts, globalCountsSync } from './global-counts.js'
export { globalPreferenceLoss, globalPreferenceLossSync } from './global-preference-loss.js'
export { globalStepMetrics, globalStepMetricsSync } from './global-step-metrics.js'
export {
  averageGradients,
  averageGradientsSync,
  type GradientOptions,
  sumGradients,
  sumGradientsSync,
} from './gradients.js'
export {
  globalKl,
  globalKlSync,
  globalRunningRewardMean,
  globalRunningRewardMeanSync,
  type KlLogProbs,
} from './unpaired-constants.js'
