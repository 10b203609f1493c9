// The end of stage 1 where the mean of x / T is asked for beside log-probs, or that times the weight of its class where
// classes have weights.
@group(0) @binding(4) var<storage, read_write> meanLogits: array<TwoFloat>;

fn putResults(row: u32, swept: Swept, state: TokenState, label: i32, labelLogit: f32) {
  meanLogits[row] = mul(swept.logits, div(params.inverse, twoOfInteger(i32(params.vocab))));
}
