// Stage 3: the sums over all pairs, in one workgroup.

@group(0) @binding(1) var<storage, read_write> results: array<PairResult>;  // [P]
@group(0) @binding(2) var<storage, read_write> summary: array<TwoFloat>;  // [4] out: loss, accuracy, margin, 0

@compute @workgroup_size(WORKGROUP)
fn pairSums(@builtin(local_invocation_index) thread: u32) {
  hiddenZero = stage.hiddenZero;
  var loss = ZERO;
  var margin = ZERO;
  var correct = 0;
  for (var i = thread; i < stage.pairCount; i += WORKGROUP) {
    let pair = results[i];
    loss = add(loss, pair.loss);
    margin = add(margin, sub(pair.chosenReward, pair.rejectedReward));
    if (less(pair.rejectedReward, pair.chosenReward)) { correct++; }
  }
  let pairCount = twoOfInteger(i32(stage.pairCount));
  let lossSum = workgroupSum(loss, thread);
  let correctSum = workgroupSum(twoOfInteger(correct), thread);
  let marginSum = workgroupSum(margin, thread);
  if (thread != 0) { return; }
  summary[0] = div(lossSum, stage.constants.pairDivisor);
  summary[1] = div(correctSum, pairCount);
  summary[2] = div(marginSum, pairCount);
  summary[3] = ZERO;
}
