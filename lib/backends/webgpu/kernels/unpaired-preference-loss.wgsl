// Stage 3 of single sequences: the loss of each and its derivative with respect to its log-prob. The formulas are in
// unpaired-losses.wgsl.

@group(0) @binding(4) var<storage, read_write> coefficients: array<TwoFloat>;  // [S] out: the derivatives once more

@compute @workgroup_size(WORKGROUP)
fn unpairedPreferenceLoss(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = stage.hiddenZero;
  let s = workgroupIndex(group, groups) * WORKGROUP + thread;
  if (s >= stage.sequenceCount) { return; }
  let own = inputs[s];
  let logRatio = sub(logProbs[s], logProbs[stage.sequenceCount + s]);
  let y = select(neg(ONE), ONE, own.desirable == 1);
  let loss = evaluate(logRatio, y, UnpairedLossConstants(own.beta, stage.kl, stage.rewardShift, own.goal));
  // A weight of 0 means that the sequence takes no part, whatever its log-prob is.
  let slope = weighed(mul(own.weight, stage.slopeScale), loss.slope);
  results[s] = SequenceResult(weighed(own.weight, loss.value), mul(own.beta, logRatio), slope);
  coefficients[s] = slope;
}
