// Stage 3 of P pairs of S sequences: the structures that its shaders share.

@group(0) @binding(0) var<uniform> stage: Stage;

// The constants of the losses, of all pairs or of one.
struct LossConstants {
  beta: TwoFloat,
  labelSmoothing: TwoFloat,
  flips: TwoFloat,  // ε / (1 - 2 ε)
  offset: TwoFloat,
  targetMargin: TwoFloat,
  gamma: TwoFloat,
  rewardShift: TwoFloat,
  dpopLambda: TwoFloat,
  discopopTau: TwoFloat,
  alpha: TwoFloat,
  rewardAlpha: TwoFloat,
  pairDivisor: TwoFloat,   // what sums over pairs are divided by
  tokenDivisor: TwoFloat,  // what sft's sum over tokens is divided by
  slopeScale: TwoFloat,    // factor of the derivatives
}

struct LossTerm {
  @align(16) weight: TwoFloat,
  labelSmoothing: TwoFloat,
  flips: TwoFloat,
  lossType: u32,
}

struct Stage {
  constants: LossConstants,
  hiddenZero: u32,
  pairCount: u32,
  sequenceCount: u32,
  termCount: u32,
  ownLabelSmoothing: u32,  // 1: the pairs' is in the place of every term's
  // Where in logProbs those of plain weights and the logarithms of weights begin, if there are any.
  plainBegin: u32,
  logWeightsBegin: u32,
  terms: array<LossTerm, 32>,
}

struct PairInput {
  // Indices in logProbs, and those of the sequences.
  chosen: u32,
  rejected: u32,
  referenceChosen: u32,
  referenceRejected: u32,
  weight: TwoFloat,
  // Lengths, unless COUNTS has them.
  chosenLength: TwoFloat,
  rejectedLength: TwoFloat,
  // Its own, or those of all pairs.
  beta: TwoFloat,
  labelSmoothing: TwoFloat,
  flips: TwoFloat,
  offset: TwoFloat,
  targetMargin: TwoFloat,
}

struct PairResult {
  loss: TwoFloat,
  chosenReward: TwoFloat,
  rejectedReward: TwoFloat,
  dChosen: TwoFloat,
  dRejected: TwoFloat,
  dPlain: TwoFloat,  // with respect to the chosen sequence's plainLogProb
}
