// What stage 4 needs of a row: 32 bytes, kept from stage 1 to stage 4. All are NaN where the row has no distribution.
struct TokenState {
  logProb: TwoFloat,  // log p(label)
  complement: f32,    // 1 - p(label)
  total: f32,         // Σ_j e^(x_j / T) over the whole row in its unit; in [1/4, 4)
  unit: Unit,
  labelLogit: f32,
  spare: f32,
}

// The target of a row that predicts nothing, and of one whose label on the device is out of range: it counts for nothing,
// and its gradient is 0.
const INACTIVE = -1;
const INVALID = -2;

// The factors of a row's log-prob in its sequence's sum, and for 'sft'.
struct Weights {
  own: TwoFloat,
  plain: TwoFloat,
}
