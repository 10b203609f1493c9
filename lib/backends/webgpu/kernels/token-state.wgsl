// What stage 4 needs of a row: 20 bytes, kept from stage 1 to stage 4. All are NaN where the row has no distribution.
struct TokenState {
  logProbHigh: f32,  // log p(label), a two-float number
  logProbLow: f32,
  total: f32,        // Σ_j e^(x_j / T) over the whole row in its unit; in [1/4, 4)
  unit: Unit,
}

fn tokenState(logProb: TwoFloat, total: f32, unit: Unit) -> TokenState {
  return TokenState(logProb.x, logProb.y, total, unit);
}

fn logProbOf(state: TokenState) -> TwoFloat { return TwoFloat(state.logProbHigh, state.logProbLow); }

// The target of a row that predicts nothing, and of one whose label on the device is out of range: it counts for nothing,
// and its gradient is 0.
const INACTIVE = -1;
const INVALID = -2;

// The factors of a row's log-prob in its sequence's sum, and for 'sft'.
struct Weights {
  own: TwoFloat,
  plain: TwoFloat,
}
