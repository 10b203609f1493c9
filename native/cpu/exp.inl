// e^(x / T) in units, in four forms: Exp for any logit, ReachExp for logits in reach, ScaledExp with a factor, FullExp
// with its logarithm and a constant. Each takes x = n · T ln 2 + r apart as ExpConstants (kernels.h) has it and
// multiplies a polynomial of r by 2^n.
//
// n is never converted to an integer. x · log2e + kRounding + k is a float whose last mantissa bits are n + k: the
// addition rounds. Subtracting kRounding + k gives n as a float, and shifting the bits up by 23 makes an exponent field
// of n + k.

constexpr float kRounding = 0x1.8p23f;
constexpr int32_t kExponentBias = 127;  // of float32: a field of n + 127 is 2^n

// The float whose exponent field is the low bits of n's mantissa.
inline F32 powerOfBits(F32 n) { return bitsUp<23>(n); }

// x · 2^(low bits of n's mantissa), as long as that is a normal number.
inline F32 timesPower(F32 x, F32 n) { return addBits(x, powerOfBits(n)); }

// factor · e^(r / T) for |r| <= T ln 2 / 2.
struct Polynomial {
  F32 c0, c1, c2, c3, c4, c5, c6;

  Polynomial(const ExpConstants& c, float factor) {
    c0 = set1(factor);
    c1 = set1(factor * c.inverse);
    c2 = set1(factor * c.c2);
    c3 = set1(factor * c.c3);
    c4 = set1(factor * c.c4);
    c5 = set1(factor * c.c5);
    c6 = set1(factor * c.c6);
  }

  F32 at(F32 r) const {
    F32 p = fma(c6, r, c5);
    p = fma(p, r, c4);
    p = fma(p, r, c3);
    p = fma(p, r, c2);
    p = fma(p, r, c1);
    return fma(p, r, c0);
  }

  FPL_IN_LOOPS void at(const F32 (&r)[4], F32 (&p)[4]) const {
    for (int k = 0; k < 4; ++k) p[k] = c6;
    multiplyAdd(p, r, c5);
    multiplyAdd(p, r, c4);
    multiplyAdd(p, r, c3);
    multiplyAdd(p, r, c2);
    multiplyAdd(p, r, c1);
    multiplyAdd(p, r, c0);
  }
};

// Any logit, in any unit; one vector at a time.
struct Exp {
  F32 base, low, high, log2e, rounding, ln2High, ln2Low, inverse;
  Polynomial polynomial;

  Exp(const ExpConstants& c, Unit unit) : polynomial(c, 1.0f) {
    base = set1(unit.base);
    log2e = set1(c.log2e);
    rounding = set1(kRounding + float(kExponentBias - unit.exponent));
    ln2High = set1(-c.ln2High);
    ln2Low = set1(-c.ln2Low);
    inverse = set1(c.inverse);
    // For `low` and below, the exponent field is 0 and the result exactly 0. `high` is far beyond kOutgrown and keeps
    // the field below that of infinity.
    low = set1(float(double(unit.exponent - kExponentBias) * c.unitLog));
    high = set1(float(double(unit.exponent + kExponentBias - 1) * c.unitLog));
  }

  // e = e^(x / T) in units, to ≤ 1 ULP; 1 exactly at the unit itself. `log` becomes log(e / 2^peak), where `fromPeak`
  // is kRounding + kExponentBias + peak.
  F32 operator()(F32 x, F32 fromPeak, F32& log) const {
    x = minKeepNan(maxKeepNan(sub(x, base), low), high);
    const F32 n = fma(x, log2e, rounding);
    const F32 whole = sub(n, rounding);
    const F32 r = fma(whole, ln2Low, fma(whole, ln2High, x));
    log = fma(sub(n, fromPeak), set1(float(kLn2)), mul(r, inverse));
    return mul(polynomial.at(r), powerOfBits(n));
  }
};

// A logit in reach is at most kReach powers of two below the unit. The polynomial has a factor of 2^-kReach, so that
// n + kReach is not negative. Seven bits hold it for up to 27 powers of two above the unit, and it needs no clamping.
constexpr int32_t kReach = 100;
constexpr float kReachFactor = 0x1p-100f;
constexpr uint32_t kReachBits = 0x7f;
static_assert(kReach == 100, "kReachFactor is 2^-kReach");

// Logits in reach of a unit whose base is 0; four vectors in step. kSplit: with T ln 2 in two parts.
template <bool kSplit>
struct ReachExp {
  F32 log2e, rounding, ln2, ln2Low;
  Polynomial polynomial;
  F32 seen;  // the bits of all n + kReach

  ReachExp(const ExpConstants& c, int32_t exponent)
      : log2e(set1(c.log2e)),
        rounding(set1(kRounding + float(kReach - exponent))),
        ln2(set1(kSplit ? -c.ln2High : -c.ln2)),
        ln2Low(set1(-c.ln2Low)),
        polynomial(c, kReachFactor),
        seen(set1(kRounding)) {}

  // Takes logits in r. Leaves e in units in `e`, the polynomial's argument in r, and in n the float of n + kReach.
  FPL_IN_LOOPS void operator()(F32 (&r)[4], F32 (&n)[4], F32 (&e)[4]) {
    for (int k = 0; k < 4; ++k) n[k] = fma(r[k], log2e, rounding);
    inStep(n);
    for (int k = 0; k < 4; ++k) seen = orBits(seen, n[k]);
    for (int k = 0; k < 4; ++k) e[k] = sub(n[k], rounding);
    inStep(e);
    for (int k = 0; k < 4; ++k) r[k] = fma(e[k], ln2, r[k]);
    inStep(r);
    if (kSplit) {
      for (int k = 0; k < 4; ++k) r[k] = fma(e[k], ln2Low, r[k]);
      inStep(r);
    }
    polynomial.at(r, e);
    for (int k = 0; k < 4; ++k) e[k] = timesPower(e[k], n[k]);
  }

  // Whether all logits so far were in reach. If not, every e is meaningless.
  bool allInReach() const {
    float lanes[kWidth];
    store(lanes, seen);
    for (int64_t i = 0; i < kWidth; ++i) {
      if ((bitsOf(lanes[i]) & ~kReachBits) != bitsOf(kRounding)) return false;
    }
    return true;
  }
};

// factor · e^(x / T) in units, for any logit; four vectors in step. kBase: the unit has a base.
template <bool kBase>
struct ScaledExp {
  F32 base, low, log2e, rounding, ln2High, ln2Low;
  Polynomial polynomial;

  ScaledExp(const ExpConstants& c, Unit unit, float factor)
      : base(set1(unit.base)),
        low(set1(float(double(unit.exponent - kExponentBias) * c.unitLog))),
        log2e(set1(c.log2e)),
        rounding(set1(kRounding + float(kExponentBias - unit.exponent))),
        ln2High(set1(-c.ln2High)),
        ln2Low(set1(-c.ln2Low)),
        polynomial(c, factor) {}

  FPL_IN_LOOPS void operator()(F32 (&x)[4]) const {
    F32 n[4], r[4];
    if (kBase) {
      for (int k = 0; k < 4; ++k) x[k] = sub(x[k], base);
      inStep(x);
    }
    for (int k = 0; k < 4; ++k) x[k] = maxKeepNan(x[k], low);
    for (int k = 0; k < 4; ++k) n[k] = fma(x[k], log2e, rounding);
    inStep(n);
    for (int k = 0; k < 4; ++k) r[k] = sub(n[k], rounding);
    inStep(r);
    for (int k = 0; k < 4; ++k) x[k] = fma(r[k], ln2High, x[k]);
    inStep(x);
    for (int k = 0; k < 4; ++k) r[k] = fma(r[k], ln2Low, x[k]);
    inStep(r);
    polynomial.at(r, x);
    for (int k = 0; k < 4; ++k) x[k] = mul(x[k], powerOfBits(n[k]));
  }
};

// w · (constant + perLog · log w) + everywhere, w = e^(x / T), for any logit; four vectors in step.
struct FullExp {
  F32 base, low, log2e, rounding, ln2High, ln2Low;
  F32 fromUnit;           // what n is where log w is near 0
  F32 perPower, perRest;  // perLog for each power of two in w, and for each r
  F32 constant, everywhere;
  Polynomial polynomial;

  FullExp(const ExpConstants& c, const FullRowGradient& g)
      : base(set1(g.unit.base)),
        low(set1(float(double(g.unit.exponent - kExponentBias) * c.unitLog))),
        log2e(set1(c.log2e)),
        rounding(set1(kRounding + float(kExponentBias - g.unit.exponent))),
        ln2High(set1(-c.ln2High)),
        ln2Low(set1(-c.ln2Low)),
        fromUnit(set1(kRounding + float(kExponentBias + g.scale))),
        perPower(set1(float(double(g.perLog) * kLn2))),
        perRest(set1(g.perLog * c.inverse)),
        constant(set1(g.constant)),
        everywhere(set1(g.everywhere)),
        polynomial(c, 1.0f) {}

  FPL_IN_LOOPS void operator()(F32 (&x)[4]) const {
    F32 n[4], r[4];
    for (int k = 0; k < 4; ++k) x[k] = maxKeepNan(sub(x[k], base), low);
    inStep(x);
    for (int k = 0; k < 4; ++k) n[k] = fma(x[k], log2e, rounding);
    inStep(n);
    for (int k = 0; k < 4; ++k) r[k] = sub(n[k], rounding);
    inStep(r);
    for (int k = 0; k < 4; ++k) x[k] = fma(r[k], ln2High, x[k]);
    inStep(x);
    for (int k = 0; k < 4; ++k) r[k] = fma(r[k], ln2Low, x[k]);
    inStep(r);
    polynomial.at(r, x);
    for (int k = 0; k < 4; ++k) x[k] = mul(x[k], powerOfBits(n[k]));
    for (int k = 0; k < 4; ++k) n[k] = fma(sub(n[k], fromUnit), perPower, constant);
    inStep(n);
    for (int k = 0; k < 4; ++k) n[k] = fma(r[k], perRest, n[k]);
    inStep(n);
    for (int k = 0; k < 4; ++k) x[k] = fma(x[k], n[k], everywhere);
  }
};
