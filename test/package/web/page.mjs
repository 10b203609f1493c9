/** A page whose bundler, server or import map finds all that the package needs. */
import { fusedPreferenceLoss } from 'fused-preference-loss'
import { resultOf } from './calls.mjs'

globalThis.outcome = resultOf({ fusedPreferenceLoss }, { threads: 2 })
