// Numbers: what WGSL leaves open about float32 made sure, exp and log of our own, and two-float numbers.
//
// A compiler of WGSL may reorder sums, fuse products into them, and take for granted that no number is NaN or infinite.
// It cannot look through `hide`, nor through tests of bits. exp, log and the quotient of WGSL are off by several ULP, and
// devices may flush subnormal numbers to zero; a result that is subnormal is then 0, and no other result changes.
//
// Every entry point begins with `hiddenZero = …`, from a uniform that has a zero there.

var<private> hiddenZero: u32;

fn bitsOf(x: f32) -> u32 { return bitcast<u32>(x) ^ hiddenZero; }
fn floatOf(bits: u32) -> f32 { return bitcast<f32>(bits ^ hiddenZero); }

// x, of which the compiler knows nothing.
fn hide(x: f32) -> f32 { return floatOf(bitcast<u32>(x)); }

const INFINITY_BITS = 0x7f800000u;

fn infinity() -> f32 { return floatOf(INFINITY_BITS); }
fn notANumber() -> f32 { return floatOf(0x7fc00000u); }

fn isNan(x: f32) -> bool { return (bitsOf(x) & 0x7fffffffu) > INFINITY_BITS; }
fn isFinite(x: f32) -> bool { return (bitsOf(x) & 0x7fffffffu) < INFINITY_BITS; }
fn isInfinity(x: f32) -> bool { return bitsOf(x) == INFINITY_BITS; }
fn isMinusInfinity(x: f32) -> bool { return bitsOf(x) == (INFINITY_BITS | 0x80000000u); }

// ---- Powers of two

// 2^n for -126 <= n <= 127.
fn powerOfTwo(n: i32) -> f32 { return bitcast<f32>(u32(n + 127) << 23); }

// x · 2^n for any n. Where the result is subnormal, it is rounded once if x is in [1/2, 2), or is flushed.
fn timesPowerOfTwo(x: f32, n: i32) -> f32 {
  let half = clamp(n, -252, 254) >> 1;
  let rest = clamp(n, -252, 254) - half;
  return hide(x * powerOfTwo(half)) * powerOfTwo(rest);
}

// The n and the m in [1/√2, √2) of x = m · 2^n, for x > 0 and finite.
struct Binary {
  mantissa: f32,
  exponent: i32,
}

fn binaryOf(x: f32) -> Binary {
  // Of a subnormal number, once it has a mantissa of its own.
  if (x < 0x1p-100f) {
    let large = splitNormal(x * 0x1p24f);
    return Binary(large.mantissa, large.exponent - 24);
  }
  return splitNormal(x);
}

fn splitNormal(x: f32) -> Binary {
  const SQRT_HALF_BITS = 0x3f3504f3u;
  let n = i32(bitsOf(x) - SQRT_HALF_BITS) >> 23;
  return Binary(floatOf(bitsOf(x) - (u32(n) << 23)), n);
}

// ---- exp and log of float32

// e^r - 1 for |r| <= ln 2 / 2: a minimax polynomial of degree 6, off by 3.1e-9 of e^r.
fn expPolynomial(r: f32) -> f32 {
  let p = 0.041668394213308244f + r * (0.008368780409796215f + r * 0.0013814466935590675f);
  return r + r * r * (0.49999993412490124f + r * (0.16666520107834054f + r * p));
}

// What e^(x / T) takes of T: x = n · T ln 2 + r.
struct Temperature {
  log2e: f32,    // 1 / (T ln 2)
  ln2High: f32,  // T ln 2: its first 12 bits, so that up to 2^12 times it is exact,
  ln2Low: f32,   // and what is left
  inverse: f32,  // 1 / T
}

const LOG2_E = 0x1.715476p+0f;

// e^(x / T) as mantissa · 2^exponent, mantissa in [0.7, 1.42], within 1 ULP where T is 1 and 1.25 ULP elsewhere; for
// |x / T| < 2800.
fn powerOfE(x: f32, t: Temperature) -> Binary {
  let n = round(x * t.log2e);
  let r = hide(x - n * t.ln2High) - n * t.ln2Low;
  // Hidden: 1 would be added to r before what is far smaller than both.
  return Binary(1 + hide(expPolynomial(r * t.inverse)), i32(n));
}

// e^(x / T) · 2^-exponent as exactly, for any x and |exponent| < 3000; 0 below 2^-150 and infinite from 2^128.
fn expInUnits(x: f32, exponent: i32, t: Temperature) -> f32 {
  if (isNan(x)) { return x; }
  let n = x * t.log2e - f32(exponent);
  if (n < -151) { return 0; }
  if (n > 129) { return infinity(); }
  let power = powerOfE(x, t);
  return timesPowerOfTwo(power.mantissa, power.exponent - exponent);
}

// log(1 + f) within 1 ULP, for 1 + f in [1/√2, √2). Only f itself has to be exact: in all else, the quotient too, an error
// counts for a fraction.
fn logNearOne(f: f32) -> f32 {
  let s = f / (2 + f);
  let z = s * s;
  let series = z * (0.66666662693f + z * (0.40000972152f + z * (0.28498786688f + z * 0.24279078841f)));
  let halfSquare = 0.5f * f * f;
  return f - hide(halfSquare - s * (halfSquare + series));
}

// ---- Two-float numbers
//
// (high, low) is high + low, and |low| is half an ULP of high at most: 48 bits. Where high is NaN or infinite, low is 0.
// Of numbers below 2^-102, low has fewer digits, as it is subnormal. The arithmetic has no branches and as few steps as
// will do, since a kernel has many copies of it.

alias TwoFloat = vec2f;

const ZERO = TwoFloat(0, 0);
const HALF = TwoFloat(0.5, 0);
const ONE = TwoFloat(1, 0);
const TWO = TwoFloat(2, 0);

fn two(x: f32) -> TwoFloat { return TwoFloat(x, 0); }

// The exact sum of two finite float32, of which a is the larger, or is 0 (Dekker).
fn orderedSum(a: f32, b: f32) -> TwoFloat {
  let high = hide(a + b);
  return TwoFloat(high, b - hide(high - a));
}

// The exact sum of any two finite float32.
fn twoSum(a: f32, b: f32) -> TwoFloat {
  let ordered = select(vec2f(b, a), vec2f(a, b), abs(a) > abs(b));
  return orderedSum(ordered.x, ordered.y);
}

// Within 2^-47 of the larger of |a| and |x|, both finite (Knuth: whichever is the larger).
fn addFloat(a: TwoFloat, x: f32) -> TwoFloat {
  let high = hide(a.x + x);
  let added = hide(high - a.x);
  let rest = hide(a.x - hide(high - added)) + hide(x - added);
  return orderedSum(high, hide(rest + a.y));
}

// The exact product of two finite float32 (Dekker): products of their halves, of 12 bits each, are exact.
fn twoProduct(a: f32, b: f32) -> TwoFloat {
  const FIRST_BITS = 0xfffff000u;
  let high = hide(a * b);
  let a1 = floatOf(bitsOf(a) & FIRST_BITS);
  let b1 = floatOf(bitsOf(b) & FIRST_BITS);
  let a2 = a - a1;
  let b2 = b - b1;
  return TwoFloat(high, hide(hide(hide(a1 * b1 - high) + a1 * b2) + a2 * b1) + a2 * b2);
}

// x, but where its high part is NaN or infinite, that alone.
fn whereFinite(high: f32, x: TwoFloat) -> TwoFloat { return select(two(high), x, isFinite(high)); }

fn neg(a: TwoFloat) -> TwoFloat { return -a; }

// Within 2^-46 of the larger of |a| and |b|.
fn add(a: TwoFloat, b: TwoFloat) -> TwoFloat {
  let high = twoSum(a.x, b.x);
  return whereFinite(high.x, orderedSum(high.x, hide(high.y + hide(a.y + b.y))));
}

fn sub(a: TwoFloat, b: TwoFloat) -> TwoFloat { return add(a, -b); }

// Within 2^-45 of the result.
fn mul(a: TwoFloat, b: TwoFloat) -> TwoFloat {
  let high = twoProduct(a.x, b.x);
  return whereFinite(high.x, orderedSum(high.x, hide(high.y + (a.x * b.y + a.y * b.x))));
}

// Within 2^-43 of the result: the quotient of float32, which is off by a few ULP itself, and that of what it leaves.
fn div(a: TwoFloat, b: TwoFloat) -> TwoFloat {
  let first = hide(a.x / b.x);
  let product = twoProduct(first, b.x);
  let rest = hide(hide(a.x - product.x) - product.y) + (a.y - first * b.y);
  return select(two(first), orderedSum(first, hide(rest / b.x)), isFinite(first) && isFinite(b.x));
}

// x · 2^n.
fn scaled(x: TwoFloat, n: i32) -> TwoFloat {
  let high = hide(timesPowerOfTwo(x.x, n));
  return whereFinite(high, TwoFloat(high, timesPowerOfTwo(x.y, n)));
}

fn twoOfInteger(n: i32) -> TwoFloat {
  let high = f32(n);
  return TwoFloat(high, f32(n - i32(high)));
}

fn isZero(x: TwoFloat) -> bool { return x.x == 0; }

// a < b; never where one of them is NaN.
fn less(a: TwoFloat, b: TwoFloat) -> bool {
  return !isNan(a.x) && !isNan(b.x) && (a.x < b.x || (a.x == b.x && a.y < b.y));
}

fn equal(a: TwoFloat, b: TwoFloat) -> bool { return !isNan(a.x) && a.x == b.x && a.y == b.y; }

fn square(x: TwoFloat) -> TwoFloat { return mul(x, x); }

fn absolute(x: TwoFloat) -> TwoFloat { return select(x, -x, x.x < 0); }

// ---- exp and log of two-float numbers, within 2^-44 of the result but for what an error of 2^-48 in x makes of it

const LN2 = TwoFloat(0x1.62e43p-1f, -0x1.05c61p-29f);

// e^r - 1 for |r| <= 0.35, by its series: in float32 from the eighth power on.
fn expm1Series(r: TwoFloat) -> TwoFloat {
  var coefficients = array<TwoFloat, 6>(
      HALF, TwoFloat(0x1.555556p-3f, -0x1.555556p-28f), TwoFloat(0x1.555556p-5f, -0x1.555556p-30f),
      TwoFloat(0x1.111112p-7f, -0x1.dddddep-32f), TwoFloat(0x1.6c16c2p-10f, -0x1.27d27ep-35f),
      TwoFloat(0x1.a01a02p-13f, -0x1.7f97fap-39f));
  let x = r.x;
  let tail = 0x1.27e4fcp-22f + x * (0x1.ae6456p-26f + x * 0x1.1eed8ep-29f);
  var p = add(coefficients[5], two(x * (0x1.a01a02p-16f + x * (0x1.71de3ap-19f + x * tail))));
  for (var i = 4; i >= 0; i--) { p = add(coefficients[i], mul(r, p)); }
  return add(r, mul(mul(r, r), p));
}

// e^x = 2^n · (1 + rest), for |x| < 2^11.
struct PowerOfE {
  n: i32,
  rest: TwoFloat,
}

fn twoPowerOfE(x: TwoFloat) -> PowerOfE {
  // n times ln 2, whose parts have 12 bits each but for the last.
  let n = round(x.x * LOG2_E);
  let r = add(add(x, two(-n * 0x1.62ep-1f)), twoSum(-n * 0x1.0cp-15f, n * 0x1.05c61p-29f));
  return PowerOfE(i32(n), expm1Series(r));
}

fn expOf(x: TwoFloat) -> TwoFloat {
  if (isNan(x.x)) { return x; }
  if (x.x > 89) { return two(infinity()); }
  if (x.x < -105) { return ZERO; }
  let power = twoPowerOfE(x);
  return scaled(add(ONE, power.rest), power.n);
}

// e^x - 1
fn expm1Of(x: TwoFloat) -> TwoFloat {
  if (isNan(x.x)) { return x; }
  if (x.x > 89) { return two(infinity()); }
  if (x.x < -40) { return neg(ONE); }
  let power = twoPowerOfE(x);
  return select(add(scaled(add(ONE, power.rest), power.n), neg(ONE)), power.rest, power.n == 0);
}

// log(1 + x) + n ln 2 for 1 + x in [1/√2, √2): a Newton step from that of float32.
fn logAround(x: TwoFloat, n: i32) -> TwoFloat {
  let y = logNearOne(x.x);
  let e = expm1Series(two(y));
  let logarithm = add(two(y), two(sub(x, e).x / (1 + e.x)));
  return add(logarithm, mul(LN2, two(f32(n))));
}

// log x, where x - 1 is `beyondOne`, of which x has lost digits if it is small.
fn logFrom(x: TwoFloat, beyondOne: TwoFloat) -> TwoFloat {
  if (isNan(x.x) || isInfinity(x.x)) { return x; }
  if (x.x < 0) { return two(notANumber()); }
  if (x.x == 0) { return two(-infinity()); }
  let n = binaryOf(x.x).exponent;
  let away = add(scaled(x, -n), neg(ONE));
  return logAround(select(away, beyondOne, n == 0), n);
}

fn logOf(x: TwoFloat) -> TwoFloat { return logFrom(x, sub(x, ONE)); }

// log(1 + x)
fn log1pOf(x: TwoFloat) -> TwoFloat { return logFrom(add(ONE, x), x); }

// log(1 - e^x) for x < 0, without cancellation on either side of -ln 2 (Mächler 2012).
fn log1mexpOf(x: TwoFloat) -> TwoFloat {
  let power = neg(expm1Of(x));
  return logFrom(power, neg(expOf(x)));
}

// A function of one variable with its derivative.
struct Term {
  value: TwoFloat,
  slope: TwoFloat,
}

// log σ(z) with its derivative σ(-z), and log σ(-z) with σ(z), its derivative with respect to -z.
struct Logistic {
  yes: Term,
  no: Term,
}

fn logisticOf(z: TwoFloat) -> Logistic {
  let e = expOf(neg(absolute(z)));
  // Where z is positive, and for the other sign at the other end.
  let near = Term(neg(log1pOf(e)), div(e, add(ONE, e)));
  let far = Term(sub(near.value, absolute(z)), div(ONE, add(ONE, e)));
  if (z.x < 0) { return Logistic(far, near); }
  return Logistic(near, far);
}

fn logSigmoidOf(z: TwoFloat) -> Term { return logisticOf(z).yes; }

// σ(z) = 1 / (1 + e^-z)
fn sigmoidOf(z: TwoFloat) -> TwoFloat {
  let e = expOf(neg(absolute(z)));
  return div(select(ONE, e, z.x < 0), add(ONE, e));
}
