// The exponentials of the kernels.

// The float whose exponent field is the low bits of n's mantissa.
inline F32 powerOfBits(F32 n) { return bitsUp<23>(n); }

// x · 2^(low bits of n's mantissa), as long as that is a normal number.
inline F32 timesPower(F32 x, F32 n) { return addBits(x, powerOfBits(n)); }

// ExpConstants as vectors, relative to a unit.
struct Exp {
  F32 base, low, high, log2e, magic, ln2High, ln2Low, c1, c2, c3, c4, c5, c6, one;

  Exp(const ExpConstants& c, Unit unit) {
    base = set1(unit.base);
    log2e = set1(c.log2e);
    // Adding 1.5·2^23 rounds to an integer in the low mantissa bits; adding the exponent's bias and the unit as well
    // leaves there the exponent field of 2^(n - unit).
    magic = set1(12582912.0f + float(127 - unit.exponent));
    ln2High = set1(-c.ln2High);
    ln2Low = set1(-c.ln2Low);
    c1 = set1(c.inverse);
    c2 = set1(c.c2);
    c3 = set1(c.c3);
    c4 = set1(c.c4);
    c5 = set1(c.c5);
    c6 = set1(c.c6);
    one = set1(1.0f);
    // Below `low` the exponent field is 0 and the result exactly 0, -inf included; `high` is far beyond kUnitLimit and
    // keeps the field below that of infinity.
    low = set1(float(double(unit.exponent - 127) * c.unitLog));
    high = set1(float(double(unit.exponent + 126) * c.unitLog));
  }

  // e^(x/T) in units, to ≤ 1 ULP and 1 exactly at the unit itself; and log(e / 2^peak), where `fromPeak` is
  // n at the peak.
  F32 operator()(F32 x, F32 fromPeak, F32& log) const {
    x = minKeepNan(maxKeepNan(sub(x, base), low), high);
    const F32 n = fma(x, log2e, magic);
    const F32 whole = sub(n, magic);
    const F32 r = fma(whole, ln2Low, fma(whole, ln2High, x));
    log = fma(sub(n, fromPeak), set1(float(kLn2)), mul(r, c1));
    F32 p = fma(c6, r, c5);
    p = fma(p, r, c4);
    p = fma(p, r, c3);
    p = fma(p, r, c2);
    p = fma(p, r, c1);
    p = fma(p, r, one);
    return mul(p, powerOfBits(n));
  }
};

// exp(x / T) times a factor that is folded into the polynomial, in units; four vectors in step.
template <bool kBase>
struct ScaledExp {
  F32 base, low, log2e, magic, ln2High, ln2Low, c0, c1, c2, c3, c4, c5, c6;

  ScaledExp(const ExpConstants& c, Unit unit, float factor) {
    base = set1(unit.base);
    low = set1(float(double(unit.exponent - 127) * c.unitLog));
    log2e = set1(c.log2e);
    magic = set1(12582912.0f + float(127 - unit.exponent));
    ln2High = set1(-c.ln2High);
    ln2Low = set1(-c.ln2Low);
    c0 = set1(factor);
    c1 = set1(factor * c.inverse);
    c2 = set1(factor * c.c2);
    c3 = set1(factor * c.c3);
    c4 = set1(factor * c.c4);
    c5 = set1(factor * c.c5);
    c6 = set1(factor * c.c6);
  }

  void operator()(F32 (&x)[4]) const {
    F32 n[4], r[4];
    if (kBase) {
      for (int k = 0; k < 4; ++k) x[k] = sub(x[k], base);
      inStep(x);
    }
    for (int k = 0; k < 4; ++k) x[k] = maxKeepNan(x[k], low);
    for (int k = 0; k < 4; ++k) n[k] = fma(x[k], log2e, magic);
    inStep(n);
    for (int k = 0; k < 4; ++k) r[k] = sub(n[k], magic);
    inStep(r);
    for (int k = 0; k < 4; ++k) x[k] = fma(r[k], ln2High, x[k]);
    inStep(x);
    for (int k = 0; k < 4; ++k) r[k] = fma(r[k], ln2Low, x[k]);
    inStep(r);
    for (int k = 0; k < 4; ++k) x[k] = c6;
    multiplyAdd(x, r, c5);
    multiplyAdd(x, r, c4);
    multiplyAdd(x, r, c3);
    multiplyAdd(x, r, c2);
    multiplyAdd(x, r, c1);
    multiplyAdd(x, r, c0);
    for (int k = 0; k < 4; ++k) x[k] = mul(x[k], powerOfBits(n[k]));
  }
};
