// The derivatives of the loss with respect to a row's results, and its entropy.
struct Slopes {
  logProb: TwoFloat,
  logSumExp: TwoFloat,
  entropy: TwoFloat,
  meanLogit: TwoFloat,
  ofEntropy: TwoFloat,
}
