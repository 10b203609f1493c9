/**
 * The js twin of native/core/losses.h: every loss with what it needs, its formula and its derivative, in float64.
 */
import type { LossType } from '../../types.js'

/** What a loss asks of its caller. */
export interface LossNeeds {
  /** Reference log-probs (unless `referenceFree`). */
  reference: boolean
  /** Sequence lengths: 'always', 'sums' (only when the log-probs are sums), or 'never'. */
  lengths: 'always' | 'sums' | 'never'
  /** Depends on the difference of the two log-ratios alone, so that an f-divergence may replace them. */
  divergence: boolean
  /** Range of labelSmoothing: 'any' ignores it but it must lie in [0, 1]; 'half' is [0, 1/2); 'open' is (0, 1). */
  labelSmoothing: 'any' | 'half' | 'open'
  /** labelSmoothing when the caller gives none. */
  defaultLabelSmoothing: number
}

export const LOSSES: Record<LossType, LossNeeds> = {} as Record<LossType, LossNeeds>
