// Stage 3: the preference loss of P pairs and its derivative with respect to the log-prob of each of S sequences. The
// formulas are in losses.wgsl; this file has the sum over the terms, AOT's matching by rank, the ways into pairs and out
// of them, and the sums over the batch.
//
// Dispatches, in this order, with the bindings of each. A grid has one or two dimensions of workgroups of WORKGROUP
// invocations, and one invocation or more for each pair or sequence.
//   rankPairs             pairs      0, 1, 4, 5, 6, 7            where a term sorts the batch
//   pairLosses            pairs      0, 1, 2, 3, 4, 5, 6, 7, 8
//   sumLosses             1 group    0, 8, 9
//   sumCoefficients       sequences  0, 8, 10, 11                where a gradient follows
//   sumPlainCoefficients  sequences  0, 8, 10, 11                where PLAIN; 11 is then plainCoefficients
// In the place of a buffer that is not read in a call any other one may be bound that is. `ranks` may have one element.
//
// loss-modules.ts writes the constants in capitals and `evaluate`, the choice among the losses of the call.

@group(0) @binding(0) var<uniform> stage: Stage;
@group(0) @binding(1) var<storage, read> logProbs: array<TwoFloat>;           // [S]
@group(0) @binding(2) var<storage, read> plainLogProbs: array<TwoFloat>;      // [S] what sft uses; or the same
@group(0) @binding(3) var<storage, read> logWeights: array<TwoFloat>;         // [S] where LOG_WEIGHTS
@group(0) @binding(4) var<storage, read> referenceLogProbs: array<TwoFloat>;  // [S], or as the pairs have it
@group(0) @binding(5) var<storage, read> counts: array<i32>;                  // [S] where COUNTS
@group(0) @binding(6) var<storage, read> pairs: array<PairInput>;             // [P]
@group(0) @binding(7) var<storage, read_write> ranks: array<u32>;             // [8 P]
@group(0) @binding(8) var<storage, read_write> results: array<PairResult>;    // [P] out
@group(0) @binding(9) var<storage, read_write> summary: array<TwoFloat>;      // [4] out: loss, accuracy, margin, 0
@group(0) @binding(10) var<storage, read> uses: array<u32>;                   // [S + 1 + 2 P], see usesOf
@group(0) @binding(11) var<storage, read_write> coefficients: array<TwoFloat>;  // [S] out

struct LossTerm {
  @align(16) weight: TwoFloat,
  labelSmoothing: TwoFloat,
  lossType: u32,
}

struct Stage {
  constants: LossConstants,
  slopeScale: TwoFloat,  // factor of the derivatives
  hiddenZero: u32,
  pairCount: u32,
  sequenceCount: u32,
  termCount: u32,
  ownLabelSmoothing: u32,  // 1: the pairs' is in the place of every term's
  terms: array<LossTerm, 32>,
}

struct PairInput {
  // Indices of the sequences in logProbs and counts, and in referenceLogProbs.
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

fn lengthOf(sequence: u32, given: TwoFloat) -> TwoFloat {
  if (COUNTS) { return twoOfInteger(counts[sequence]); }
  return given;
}

// Pair i of the stage, as the formulas of the losses take it.
fn pairAt(i: u32) -> Pair {
  let p = pairs[i];
  return Pair(logProbs[p.chosen], logProbs[p.rejected], referenceLogProbs[p.referenceChosen],
              referenceLogProbs[p.referenceRejected], lengthOf(p.chosen, p.chosenLength),
              lengthOf(p.rejected, p.rejectedLength));
}

// The constants of pair i in the sum's term.
fn constantsAt(i: u32, term: LossTerm) -> LossConstants {
  var k = stage.constants;
  k.beta = pairs[i].beta;
  k.offset = pairs[i].offset;
  k.targetMargin = pairs[i].targetMargin;
  k.labelSmoothing = term.labelSmoothing;
  if (stage.ownLabelSmoothing == 1) { k.labelSmoothing = pairs[i].labelSmoothing; }
  if (COUNTS && SFT_NORMALIZATION == TOKENS && isZero(k.tokenDivisor)) { k.tokenDivisor = chosenTokens(); }
  return k;
}

// Of all pairs.
fn chosenTokens() -> TwoFloat {
  var sum = 0;
  for (var i = 0u; i < stage.pairCount; i++) { sum += counts[pairs[i].chosen]; }
  return twoOfInteger(sum);
}

// The factor of pair i's loss in the sum's term.
fn weightAt(i: u32, term: LossTerm) -> TwoFloat {
  let weight = mul(term.weight, pairs[i].weight);
  if (!LOG_WEIGHTS) { return weight; }
  return mul(weight, expOf(add(logWeights[pairs[i].chosen], logWeights[pairs[i].rejected])));
}

// ---- AOT's ranks
//
// For each of the two losses, and each of the two sides that it matches: the rank of every pair, and the pair of every
// rank. Ranks go up, equal values in the order of the pairs, NaN last.

const LEFT = 0u;
const RIGHT = 1u;

// The value of pair i by which that side is sorted.
fn sortedValue(lossType: u32, side: u32, i: u32) -> TwoFloat {
  let p = pairAt(i);
  if (lossType == AOT_UNPAIRED) {
    if (side == LEFT) { return chosenRatio(p); }
    return rejectedRatio(p);
  }
  if (side == LEFT) { return sub(p.policyChosen, p.policyRejected); }
  return sub(p.referenceChosen, p.referenceRejected);
}

fn ranksBegin(lossType: u32, side: u32) -> u32 {
  return (select(0u, 4u, lossType == AOT_UNPAIRED) + 2u * side) * stage.pairCount;
}

fn rankPair(lossType: u32, side: u32, i: u32) {
  let value = sortedValue(lossType, side, i);
  var rank = 0u;
  for (var j = 0u; j < stage.pairCount; j++) {
    let other = sortedValue(lossType, side, j);
    let same = equal(other, value) || (isNan(other.x) && isNan(value.x));
    let before = less(other, value) || (!isNan(other.x) && isNan(value.x));
    if (before || (same && j < i)) { rank++; }
  }
  let begin = ranksBegin(lossType, side);
  ranks[begin + i] = rank;
  ranks[begin + stage.pairCount + rank] = i;
}

@compute @workgroup_size(WORKGROUP)
fn rankPairs(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  hiddenZero = stage.hiddenZero;
  let i = indexOf(id, groups);
  if (i >= stage.pairCount) { return; }
  for (var side = LEFT; side <= RIGHT; side++) {
    if (RANKS_AOT) { rankPair(AOT, side, i); }
    if (RANKS_AOT_UNPAIRED) { rankPair(AOT_UNPAIRED, side, i); }
  }
}

// The pair whose value on the other side has the rank that pair i's has on this one.
fn matchOf(lossType: u32, side: u32, i: u32) -> u32 {
  let rank = ranks[ranksBegin(lossType, side) + i];
  return ranks[ranksBegin(lossType, 1u - side) + stage.pairCount + rank];
}

// ---- Pair by pair

fn termLoss(term: LossTerm, i: u32) -> LossValue {
  let weight = weightAt(i, term);
  if (isZero(weight)) { return LossValue(ZERO, ZERO, ZERO); }
  var pair = pairAt(i);
  if (PLAIN && term.lossType == SFT) { pair.policyChosen = plainLogProbs[pairs[i].chosen]; }
  if (RANKS_AOT && term.lossType == AOT) {
    // The difference of the two matched log-ratios stands for chosen - rejected.
    let other = pairAt(matchOf(AOT, LEFT, i));
    pair.policyChosen = sub(pair.policyChosen, pair.policyRejected);
    pair.referenceChosen = sub(other.referenceChosen, other.referenceRejected);
    pair.policyRejected = ZERO;
    pair.referenceRejected = ZERO;
  }
  if (RANKS_AOT_UNPAIRED && term.lossType == AOT_UNPAIRED) {
    let other = pairAt(matchOf(AOT_UNPAIRED, LEFT, i));
    pair.policyRejected = other.policyRejected;
    pair.referenceRejected = other.referenceRejected;
  }
  let value = evaluate(term.lossType, pair, constantsAt(i, term));
  let slopeWeight = mul(weight, stage.slopeScale);
  return LossValue(mul(weight, value.loss), mul(slopeWeight, value.dChosen), mul(slopeWeight, value.dRejected));
}

@compute @workgroup_size(WORKGROUP)
fn pairLosses(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  hiddenZero = stage.hiddenZero;
  let i = indexOf(id, groups);
  if (i >= stage.pairCount) { return; }
  let reward = rewardsOf(pairAt(i), constantsAt(i, stage.terms[0]));
  var sum = PairResult(ZERO, reward.chosen, reward.rejected, ZERO, ZERO, ZERO);
  for (var t = 0u; t < stage.termCount; t++) {
    let term = stage.terms[t];
    // Of AOT on unpaired sequences, pair i's rejected one is in the loss of another pair.
    let moves = RANKS_AOT_UNPAIRED && term.lossType == AOT_UNPAIRED;
    for (var turn = 0u; turn < select(1u, 2u, moves); turn++) {
      var source = i;
      if (RANKS_AOT_UNPAIRED && turn == 1) { source = matchOf(AOT_UNPAIRED, RIGHT, i); }
      let value = termLoss(term, source);
      if (turn == 0) {
        sum.loss = add(sum.loss, value.loss);
        if (PLAIN && term.lossType == SFT) {
          sum.dPlain = add(sum.dPlain, value.dChosen);
        } else {
          sum.dChosen = add(sum.dChosen, value.dChosen);
        }
      }
      if (turn == 1 || !moves) { sum.dRejected = add(sum.dRejected, value.dRejected); }
    }
  }
  results[i] = sum;
}

// ---- Sums

@compute @workgroup_size(WORKGROUP)
fn sumLosses(@builtin(local_invocation_index) local: u32) {
  hiddenZero = stage.hiddenZero;
  var loss = ZERO;
  var margin = ZERO;
  var correct = 0;
  for (var i = local; i < stage.pairCount; i += WORKGROUP) {
    let pair = results[i];
    loss = add(loss, pair.loss);
    margin = add(margin, sub(pair.chosenReward, pair.rejectedReward));
    if (less(pair.rejectedReward, pair.chosenReward)) { correct++; }
  }
  let pairCount = twoOfInteger(i32(stage.pairCount));
  let lossSum = workgroupSum(loss, local);
  let correctSum = workgroupSum(twoOfInteger(correct), local);
  let marginSum = workgroupSum(margin, local);
  if (local != 0) { return; }
  summary[0] = div(lossSum, stage.constants.pairDivisor);
  summary[1] = div(correctSum, pairCount);
  summary[2] = div(marginSum, pairCount);
  summary[3] = ZERO;
}

// A sequence in several pairs gets the sum of its derivatives, in the order of the pairs; a sequence in no pair gets 0.
fn sumOfUses(sequence: u32, plain: bool) -> TwoFloat {
  var sum = ZERO;
  for (var u = uses[sequence]; u < uses[sequence + 1]; u++) {
    let pair = results[uses[u] / 2];
    let ofChosen = select(pair.dChosen, pair.dPlain, plain);
    let ofRejected = select(pair.dRejected, ZERO, plain);
    sum = add(sum, select(ofChosen, ofRejected, uses[u] % 2 == 1));
  }
  return sum;
}

@compute @workgroup_size(WORKGROUP)
fn sumCoefficients(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  hiddenZero = stage.hiddenZero;
  let s = indexOf(id, groups);
  if (s < stage.sequenceCount) { coefficients[s] = sumOfUses(s, false); }
}

@compute @workgroup_size(WORKGROUP)
fn sumPlainCoefficients(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  hiddenZero = stage.hiddenZero;
  let s = indexOf(id, groups);
  if (s < stage.sequenceCount) { coefficients[s] = sumOfUses(s, true); }
}
