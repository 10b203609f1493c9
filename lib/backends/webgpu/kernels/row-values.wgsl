// Stage 4, what a row's logits are turned into. With s = x / T of the logits (capped: of what counts in their place), and
// w = e^s in the row's own unit, every logit becomes
//
//   w · (constant + perLog · log w) + everywhere
//
// and the label's own `atLabel`. The unit is the row's own divided by 2^scale, and `constant` and `perLog` are divided
// likewise, so that only results too small for float32 vanish. `constant` is NaN where the row has no distribution.
struct RowValues {
  base: f32,       // of the unit
  exponents: i32,  // of the unit, and scale, of 16 bits each
  constant: f32,
  perLog: f32,
  everywhere: f32,
  atLabel: f32,
}

fn exponentsOf(exponent: i32, scale: i32) -> i32 { return (exponent << 16) | (scale & 0xffff); }

fn scaleOf(v: RowValues) -> i32 { return (v.exponents << 16) >> 16; }

fn unitOf(v: RowValues) -> Unit { return Unit(v.base, v.exponents >> 16); }
