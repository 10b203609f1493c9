import * as fpl from 'fused-preference-loss'
import report from './report.cjs'

await report(fpl)
