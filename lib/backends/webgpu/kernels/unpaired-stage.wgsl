// Stage 3 of S single sequences: what its shaders share.

@group(0) @binding(0) var<uniform> stage: Stage;
@group(0) @binding(1) var<storage, read> inputs: array<SequenceInput>;  // [S]
// [S] the policy's, and [S] the reference's.
@group(0) @binding(2) var<storage, read_write> logProbs: array<TwoFloat>;
@group(0) @binding(3) var<storage, read_write> results: array<SequenceResult>;  // [S] out

struct Stage {
  kl: TwoFloat,
  rewardShift: TwoFloat,
  divisor: TwoFloat,     // of the sum
  slopeScale: TwoFloat,  // factor of the derivatives
  hiddenZero: u32,
  sequenceCount: u32,
}

struct SequenceInput {
  weight: TwoFloat,
  beta: TwoFloat,
  goal: TwoFloat,
  desirable: u32,
}

struct SequenceResult {
  loss: TwoFloat,
  reward: TwoFloat,
  slope: TwoFloat,
}
