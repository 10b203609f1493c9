// Stage 4, what a row's logits are turned into. With s = x / T of the logits (capped: of what counts in their place), and
// w = e^s in the row's own unit, every logit becomes
//
//   w · (constant + perLog · log w) + everywhere
//
// and the label's own `atLabel`. `unit` is the row's own divided by 2^scale, and `constant` and `perLog` are divided
// likewise, so that only results too small for float32 vanish. `constant` is NaN where the row has no distribution.
struct RowValues {
  unit: Unit,
  scale: i32,
  constant: f32,
  perLog: f32,
  everywhere: f32,
  atLabel: f32,
}
