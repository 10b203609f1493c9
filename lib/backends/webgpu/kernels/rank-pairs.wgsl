// Stage 3 begins, where a loss sorts the batch: AOT's ranks, each of which counts what stands before it.

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
fn rankPairs(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = stage.hiddenZero;
  let i = workgroupIndex(group, groups) * WORKGROUP + thread;
  if (i >= stage.pairCount) { return; }
  for (var side = LEFT; side <= RIGHT; side++) {
    if (RANKS_AOT) { rankPair(AOT, side, i); }
    if (RANKS_AOT_UNPAIRED) { rankPair(AOT_UNPAIRED, side, i); }
  }
}
