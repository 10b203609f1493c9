// The row state: what is known of a row of logits x after seeing some of its vocabulary, as in native/core/row_state.h, in
// float32 and two-float numbers.
//
// Sums are kept in a unit of 2^exponent · e^(base / T). A power of two changes without rounding; `base` is 0 unless the
// logits are so large that the exponent would not be small. The label's own logit is left out of the sums.
struct Unit {
  base: f32,
  exponent: i32,
}

// A unit near e^(maximum / T). Where all is -∞, or no number, any unit will do.
fn unitFor(maximum: f32, t: Temperature) -> Unit {
  if (!isFinite(maximum)) { return Unit(0, 0); }
  let n = round(maximum * t.log2e);
  if (abs(n) < 1000) { return Unit(0, i32(n)); }
  return Unit(maximum, 0);
}

// log(unit / other)
fn logRatio(unit: Unit, other: Unit, inverseTemperature: TwoFloat) -> TwoFloat {
  let powers = mul(LN2, two(f32(unit.exponent - other.exponent)));
  if (unit.base == other.base) { return powers; }
  return add(powers, mul(twoSum(unit.base, -other.base), inverseTemperature));
}

// Whether a part of a row whose largest logit this is needs a larger unit than it has: it is left what it has as
// long as there is room, and where nothing counts.
fn isOutgrown(unit: Unit, maximum: f32, room: i32, t: Temperature) -> bool {
  return !isMinusInfinity(maximum) && outgrows(unitFor(maximum, t), unit, room, t);
}

// Whether a unit is larger than another, by much where `margin` is large.
fn outgrows(unit: Unit, other: Unit, margin: i32, t: Temperature) -> bool {
  if (unit.base == other.base) { return unit.exponent > other.exponent + margin; }
  return (unit.base - other.base) * t.log2e > f32(other.exponent + margin - unit.exponent);
}

// unit / other, an exact power of two wherever both have the same base.
fn ratio(unit: Unit, other: Unit, t: Temperature) -> f32 {
  if (unit.base == other.base) { return timesPowerOfTwo(1, unit.exponent - other.exponent); }
  return expInUnits(unit.base - other.base, other.exponent - unit.exponent, t);
}

// ---- Four logits at a time

fn hide4(x: vec4f) -> vec4f { return bitcast<vec4f>(bitcast<vec4u>(x) ^ vec4u(hiddenZero)); }

// expPolynomial of numbers.wgsl.
fn expPolynomial4(r: vec4f) -> vec4f {
  let p = 0.041668394213308244f + r * (0.008368780409796215f + r * 0.0013814466935590675f);
  return r + r * r * (0.49999993412490124f + r * (0.16666520107834054f + r * p));
}

// What the exponentials of logits take of a unit, found once for many of them.
struct Scale {
  base: f32,
  lowest: f32,    // the x - base whose power is -127
  exponent: f32,  // of the unit,
  bias: u32,      // and 127 less that
}

fn scaleFor(unit: Unit, t: Temperature) -> Scale {
  return Scale(unit.base, f32(unit.exponent - 127) / t.log2e, f32(unit.exponent), u32(127 - unit.exponent));
}

// e^(x / T) in units as mantissa · 2^power; the power is at least -127 and stands for 0 there.
struct Powers {
  mantissa: vec4f,
  powerOfTwo: vec4f,
  power: vec4f,
  rest: vec4f,  // log(mantissa)
}

// What an exponent of one adds to the bits: software shifts numbers one by one, and multiplies them four at a time.
const EXPONENT_ONE = 0x00800000u;

// For x that are no NaN, and not so large that the power leaves float32.
fn powersOf(x: vec4f, scale: Scale, t: Temperature) -> Powers {
  // What is added leaves no digits behind the point, and has the last bits of the whole number for its own.
  const WHOLE = 0x1.8p23f;
  let away = x - scale.base;
  let d = select(away, vec4f(scale.lowest), away < vec4f(scale.lowest));
  let whole = hide4(d * t.log2e + WHOLE);
  let n = whole - WHOLE;
  let r = (hide4(d - n * t.ln2High) - n * t.ln2Low) * t.inverse;
  let powerOfTwo = bitcast<vec4f>((bitcast<vec4u>(whole) + scale.bias) * EXPONENT_ONE);
  return Powers(hide4(1 + expPolynomial4(r)), powerOfTwo, n - scale.exponent, r);
}

fn valueOf(powers: Powers) -> vec4f { return powers.mantissa * powers.powerOfTwo; }

fn maximumOf(x: vec4f) -> f32 { return max(max(x.x, x.y), max(x.z, x.w)); }
fn sumOf(x: vec4f) -> f32 { return (x.x + x.y) + (x.z + x.w); }
