import * as fpl from 'fused-preference-loss'
import report from './report.cjs'

await report(/** @type {any} */ (fpl)) // the same types, of ES modules
