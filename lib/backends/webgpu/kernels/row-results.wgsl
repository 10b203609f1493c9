// Results of a row that the backward does not need. All are NaN where the row has no distribution.
struct RowResults {
  entropy: TwoFloat,
  logSumExp: TwoFloat,
  meanLogit: TwoFloat,  // of x / T
  sumSquaredProbs: f32,
  argmax: i32,
}
