// Stage 3 ends: from the pairs back to the sequences. A sequence in several pairs gets the sum of its derivatives, in the
// order of the pairs; a sequence in no pair gets 0.

// The uses of sequence s are at the elements uses[s] .. uses[s + 1] of this: twice the index of a pair, and one more where
// the sequence is the rejected one.
@group(0) @binding(1) var<storage, read> uses: array<u32>;  // [S + 1 + 2 P]
@group(0) @binding(2) var<storage, read_write> results: array<PairResult>;  // [P]
@group(0) @binding(3) var<storage, read_write> coefficients: array<TwoFloat>;  // [S] out; and where PLAIN as many of those

@compute @workgroup_size(WORKGROUP)
fn pairCoefficients(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) thread: u32) {
  hiddenZero = stage.hiddenZero;
  let s = workgroupIndex(group, groups) * WORKGROUP + thread;
  if (s >= stage.sequenceCount) { return; }
  var sum = ZERO;
  var plainSum = ZERO;
  for (var u = uses[s]; u < uses[s + 1]; u++) {
    let pair = results[uses[u] / 2];
    if (uses[u] % 2 == 1) {
      sum = add(sum, pair.dRejected);
    } else {
      sum = add(sum, pair.dChosen);
      plainSum = add(plainSum, pair.dPlain);
    }
  }
  coefficients[s] = sum;
  if (PLAIN) { coefficients[stage.sequenceCount + s] = plainSum; }
}
