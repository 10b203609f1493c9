/**
 * Tests that import this draw the same random calls in every run.
 */
import fc from 'fast-check'
import { SEED } from './platform.js'

fc.configureGlobal({ seed: SEED })
