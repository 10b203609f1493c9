// Stage 3 of single sequences: the sums over all of them, in one workgroup.

// [6] out: loss; mean reward of the desirable and of the undesirable, and their mean log-probs, NaN of none; 0.
@group(0) @binding(4) var<storage, read_write> summary: array<TwoFloat>;

fn meanOf(sum: TwoFloat, count: TwoFloat) -> TwoFloat {
  if (isZero(count)) { return two(notANumber()); }
  return div(sum, count);
}

@compute @workgroup_size(WORKGROUP)
fn unpairedSums(@builtin(local_invocation_index) thread: u32) {
  hiddenZero = stage.hiddenZero;
  var loss = ZERO;
  // Of the undesirable sequences, and of the desirable ones.
  var rewards = array<TwoFloat, 2>();
  var sums = array<TwoFloat, 2>();
  var counts = array<i32, 2>();
  for (var s = thread; s < stage.sequenceCount; s += WORKGROUP) {
    let side = inputs[s].desirable;
    loss = add(loss, results[s].loss);
    rewards[side] = add(rewards[side], results[s].reward);
    sums[side] = add(sums[side], logProbs[s]);
    counts[side]++;
  }
  let lossSum = workgroupSum(loss, thread);
  if (thread == 0) {
    summary[0] = div(lossSum, stage.divisor);
    summary[5] = ZERO;
  }
  for (var side = 0; side < 2; side++) {
    let count = workgroupSum(twoOfInteger(counts[side]), thread);
    let reward = meanOf(workgroupSum(rewards[side], thread), count);
    let logProb = meanOf(workgroupSum(sums[side], thread), count);
    if (thread == 0) {
      summary[2 - side] = reward;
      summary[4 - side] = logProb;
    }
  }
}
