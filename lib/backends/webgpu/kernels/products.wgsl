// Products in which 0 takes no part.

// A weight times what it weighs. 0 means that this takes no part, whatever it is: 0 · ∞ and 0 · NaN are 0.
fn weighed(weight: TwoFloat, value: TwoFloat) -> TwoFloat { return select(mul(weight, value), ZERO, isZero(weight)); }

// A product of derivatives, in which 0 · ∞ is 0.
fn chained(a: TwoFloat, b: TwoFloat) -> TwoFloat {
  let product = mul(a, b);
  return select(product, ZERO, isNan(product.x) && !isNan(a.x) && !isNan(b.x));
}
