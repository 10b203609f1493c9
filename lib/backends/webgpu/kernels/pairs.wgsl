// The pairs of stage 3, as the losses and AOT's ranks see them.

@group(0) @binding(1) var<storage, read> pairs: array<PairInput>;  // [P]
// The policy's, [S], or [2 P] without sequences; [S] those with plain weights and the logarithms of weights, if there are
// any; and the reference's, [S] or [2 P].
@group(0) @binding(2) var<storage, read_write> logProbs: array<TwoFloat>;
@group(0) @binding(3) var<storage, read> sequences: array<Sequence>;  // where COUNTS
@group(0) @binding(4) var<storage, read_write> ranks: array<u32>;  // [8 P], where a term sorts the batch

fn lengthOf(sequence: u32, given: TwoFloat) -> TwoFloat {
  if (COUNTS) { return twoOfInteger(sequences[sequence].count); }
  return given;
}

// Pair i of the stage, as the formulas of the losses take it.
fn pairAt(i: u32) -> Pair {
  let p = pairs[i];
  return Pair(logProbs[p.chosen], logProbs[p.rejected], logProbs[p.referenceChosen], logProbs[p.referenceRejected],
              lengthOf(p.chosen, p.chosenLength), lengthOf(p.rejected, p.rejectedLength));
}

// For each of the two losses that sort the batch, and each of the two sides that they match: the rank of every pair, and the
// pair of every rank. Ranks go up, equal values in the order of the pairs, NaN last.
const LEFT = 0u;
const RIGHT = 1u;

fn ranksBegin(lossType: u32, side: u32) -> u32 {
  return (select(0u, 4u, lossType == AOT_UNPAIRED) + 2u * side) * stage.pairCount;
}

// The pair whose value on the other side has the rank that pair i's has on this one.
fn matchOf(lossType: u32, side: u32, i: u32) -> u32 {
  let rank = ranks[ranksBegin(lossType, side) + i];
  return ranks[ranksBegin(lossType, 1u - side) + stage.pairCount + rank];
}
