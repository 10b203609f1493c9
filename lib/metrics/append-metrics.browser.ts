/**
 * `appendMetrics` in a browser, which has no files.
 */
import { failure } from '../errors.js'
import type * as node from './append-metrics.js'

export const appendMetrics: typeof node.appendMetrics = () => {
  const remedy = 'keep the lines that metricsLine makes, and offer them as a download'
  throw failure('ERR_FEATURE_UNAVAILABLE_ON_PLATFORM', `appendMetrics writes a file, which a browser cannot: ${remedy}`)
}
