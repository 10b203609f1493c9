// Stage 3: the preference loss of each pair and its derivatives with respect to the pair's log-probs. The formulas are in
// losses.wgsl; this file has the sum over the terms, and AOT's matching by rank.

@group(0) @binding(5) var<storage, read_write> results: array<PairResult>;  // [P] out

// The constants of pair i in the sum's term.
fn constantsAt(i: u32, term: LossTerm) -> LossConstants {
  var k = stage.constants;
  k.beta = pairs[i].beta;
  k.offset = pairs[i].offset;
  k.targetMargin = pairs[i].targetMargin;
  let own = stage.ownLabelSmoothing == 1;
  k.labelSmoothing = select(term.labelSmoothing, pairs[i].labelSmoothing, own);
  k.flips = select(term.flips, pairs[i].flips, own);
  return k;
}

// Of all pairs.
fn chosenTokens() -> TwoFloat {
  var sum = 0;
  for (var i = 0u; i < stage.pairCount; i++) { sum += sequences[pairs[i].chosen].count; }
  return twoOfInteger(sum);
}

// The factor of pair i's loss in the sum's term.
fn weightAt(i: u32, term: LossTerm) -> TwoFloat {
  let weight = mul(term.weight, pairs[i].weight);
  if (!LOG_WEIGHTS) { return weight; }
  let begin = stage.logWeightsBegin;
  return mul(weight, expOf(add(logProbs[begin + pairs[i].chosen], logProbs[begin + pairs[i].rejected])));
}

fn termLoss(term: LossTerm, i: u32) -> LossValue {
  let weight = weightAt(i, term);
  if (isZero(weight)) { return LossValue(ZERO, ZERO, ZERO); }
  var pair = pairAt(i);
  if (PLAIN && term.lossType == SFT) { pair.policyChosen = logProbs[stage.plainBegin + pairs[i].chosen]; }
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
  var k = constantsAt(i, term);
  if (COUNTS && SFT_NORMALIZATION == TOKENS && term.lossType == SFT && isZero(k.tokenDivisor)) {
    k.tokenDivisor = chosenTokens();
  }
  let value = evaluate(term.lossType, pair, k);
  let slopeWeight = mul(weight, stage.constants.slopeScale);
  return LossValue(mul(weight, value.loss), mul(slopeWeight, value.dChosen), mul(slopeWeight, value.dRejected));
}

@compute @workgroup_size(WORKGROUP)
fn preferenceLoss(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = stage.hiddenZero;
  let i = workgroupIndex(group, groups) * WORKGROUP + thread;
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
