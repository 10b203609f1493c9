// Soft-capped logits: tanh(x · scale) in the place of each logit x, and its slope, 1 - tanh², in which nothing cancels.
struct Cap {
  twiceHigh: f32,  // 2 · scale,
  twiceLow: f32,   // and what float32 leaves out of it
  limit: f32,      // the |x| beyond which the slope is below float32
  zero: u32,
}

// ln 2 in two parts.
const LN2_HIGH = 0x1.62ep-1f;
const LN2_LOW = 0x1.0bfbe8p-15f;

struct Capped {
  value: vec4f,
  slope: vec4f,
}

// tanh of x · scale by e^(2 |x| · scale) - 1, of |x| up to the limit.
fn cappedWithSlope(x: vec4f) -> Capped {
  let size = min(abs(x), vec4f(params.cap.limit));
  let y = size * params.cap.twiceHigh;
  let n = round(y * LOG2_E);
  // What the rounding of y leaves out, too.
  let rest = remainder4(size, params.cap.twiceHigh, y) + size * params.cap.twiceLow;
  let r = hide4(y - n * LN2_HIGH) + (rest - n * LN2_LOW);
  let power = bitcast<vec4f>((vec4i(n) + 127) << vec4u(23));
  let m = hide4(power - 1) + power * expPolynomial4(r);
  let inverse = inverse4(m + 2);
  let value = m * inverse;
  let slope = select(4 * hide4(m + 1) * inverse * inverse, vec4f(0), abs(x) >= vec4f(params.cap.limit));
  let negative = bitcast<vec4u>(x) & vec4u(0x80000000u);
  let nan = (bitcast<vec4u>(x) & vec4u(0x7fffffffu)) > vec4u(INFINITY_BITS);
  return Capped(select(bitcast<vec4f>(bitcast<vec4u>(value) | negative), x, nan), slope);
}

// x · c - y, where y is that product in float32.
fn remainder4(x: vec4f, c: f32, y: vec4f) -> vec4f {
  const FIRST = 0xfffff000u;
  let x1 = bitcast<vec4f>(bitcast<vec4u>(x) & vec4u(FIRST));
  let c1 = floatOf(bitsOf(c) & FIRST);
  let x2 = hide4(x - x1);
  let c2 = hide(c - c1);
  return hide4(hide4(hide4(x1 * c1 - y) + x1 * c2) + x2 * c1) + x2 * c2;
}

// 1 / x for x in [2, 2^126], by a division of which the last digits are put right.
fn inverse4(x: vec4f) -> vec4f {
  let y = 1 / x;
  let x1 = bitcast<vec4f>(bitcast<vec4u>(x) & vec4u(0xfffff000u));
  let y1 = bitcast<vec4f>(bitcast<vec4u>(y) & vec4u(0xfffff000u));
  let x2 = hide4(x - x1);
  let y2 = hide4(y - y1);
  let wrong = hide4(hide4(hide4(1 - x1 * y1) - x1 * y2) - x2 * y1) - x2 * y2;
  return y + y * wrong;
}

fn capped4(x: vec4f) -> vec4f {
  if (!CAPS) { return x; }
  return cappedWithSlope(x).value;
}
