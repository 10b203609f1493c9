// e^(x / T) in units. With kSteps = F32::kSteps steps to a power of two, x is taken apart as
//
//   x = n · T ln 2 / kSteps + r,   n = round(x · kSteps · log2e / T),   e^(x / T) = 2^(n / kSteps) · e^(r / T)
//
// e^(r / T) is 1 + r · p(r) with a polynomial p. 2^(n / kSteps) is one of kSteps numbers, which a register holds, times
// a power of two. Where a vector can be looked up, eight steps leave an r so small that p needs three terms. Elsewhere
// one step has six.
//
// n is never converted to an integer. x · kSteps · log2e + kRounding + k is a float whose last mantissa bits are n + k:
// the addition rounds. Subtracting kRounding + k gives n as a float, and shifting the bits up by kStepBits makes an
// exponent field of n / kSteps; the rest, n % kSteps, is the index of the look-up.

constexpr float kRounding = 0x1.8p23f;
constexpr int32_t kExponentBias = 127;  // of float32: a field of n + 127 is 2^n

constexpr int32_t kSteps = F32::kSteps;
static_assert(kSteps == 1 || kSteps == 8);
constexpr int kStepBits = kSteps == 8 ? 20 : 23;

// What is left of the float whose exponent field is n / kSteps, n the last bits of the mantissa.
inline F32 powerOfBits(F32 n) {
  const F32 bits = bitsUp<kStepBits>(n);
  return kSteps == 1 ? bits : andBits(bits, set1Bits(0x7f800000u));
}

// r · p(r) = e^(r / T) - 1 for |r| <= T ln 2 / 2 / kSteps.
struct Polynomial {
  static constexpr int kTerms = kSteps == 8 ? 3 : 6;
  F32 terms[kTerms];

  explicit Polynomial(const ExpConstants& c) {
    const float* const values = kSteps == 8 ? c.ofEighth : c.ofWhole;
    for (int i = 0; i < kTerms; ++i) terms[i] = set1(values[i]);
  }

  FPL_IN_LOOPS void at(const F32 (&r)[4], F32 (&p)[4]) const {
    for (int k = 0; k < 4; ++k) p[k] = terms[kTerms - 1];
    for (int i = kTerms - 2; i >= 0; --i) multiplyAdd(p, r, terms[i]);
    for (int k = 0; k < 4; ++k) p[k] = mul(p[k], r[k]);
    inStep(p);
  }
};

// The powers 2^(i / kSteps), i < kSteps, times a factor. `less` takes from each the bits that n brings along where it
// is shifted up and added.
inline Steps steps(float factor, bool less) {
  float powers[kSteps];
  for (int32_t i = 0; i < kSteps; ++i) {
    powers[i] = float(factor * kPowersOfEighths[i]);
    if (less) powers[i] = floatOf(bitsOf(powers[i]) - (uint32_t(i) << kStepBits));
  }
  return Steps(powers);
}

// How far a sum reaches: an e below 2^-kReach units is beneath the last bit of any sum, where some number has about a
// unit.
constexpr int32_t kReach = 100;
constexpr float kReachFactor = 0x1p-100f;
static_assert(kReach == 100, "kReachFactor is 2^-kReach");

// factor · e^(x / T) in units, of any logit x that is not far above the unit; four vectors in step.
//   kFloor   an e below 2^(1 - kReach) units becomes that, which costs less than the 0 that it becomes otherwise below
//            2^-126 units
//   kBase    the unit has a base
//   kSplit   T ln 2 in two parts
template <bool kFloor, bool kBase, bool kSplit>
struct Exp {
  // n of the unit itself is this many powers of two above 0, so that it is never negative. kBits hold it for x up to 27
  // powers of two above the unit, at least.
  static constexpr int32_t kAbove = kFloor ? kReach : kExponentBias;
  static constexpr uint32_t kBits = kSteps * (kFloor ? 128 : 256) - 1;

  F32 base, low, log2e, rounding, ln2, ln2Low;
  Polynomial polynomial;
  Steps powers;

  Exp(const ExpConstants& c, Unit unit, float factor = 1)
      : base(set1(unit.base)),
        low(set1(float(double(unit.exponent - kAbove + (kFloor ? 1 : 0)) * c.unitLog))),
        log2e(set1(kSteps * c.log2e)),
        rounding(set1(kRounding + float(kSteps * (kAbove - unit.exponent)))),
        ln2(set1((kSplit ? -c.ln2High : -c.ln2) / kSteps)),
        ln2Low(set1(-c.ln2Low / kSteps)),
        polynomial(c),
        powers(steps(kFloor ? factor * kReachFactor : factor, kFloor)) {}

  // Takes logits in x. Leaves r in x, the float of n in n, and factor · e^(x / T) in `e`; NaN where x was NaN.
  FPL_IN_LOOPS void operator()(F32 (&x)[4], F32 (&n)[4], F32 (&e)[4]) const {
    if (kBase) {
      for (int k = 0; k < 4; ++k) x[k] = sub(x[k], base);
      inStep(x);
    }
    for (int k = 0; k < 4; ++k) x[k] = maxKeepNan(x[k], low);
    for (int k = 0; k < 4; ++k) n[k] = fma(x[k], log2e, rounding);
    inStep(n);
    for (int k = 0; k < 4; ++k) e[k] = sub(n[k], rounding);
    inStep(e);
    for (int k = 0; k < 4; ++k) x[k] = fma(e[k], ln2, x[k]);
    inStep(x);
    if (kSplit) {
      for (int k = 0; k < 4; ++k) x[k] = fma(e[k], ln2Low, x[k]);
      inStep(x);
    }
    polynomial.at(x, e);
    for (int k = 0; k < 4; ++k) {
      F32 power = powers.at(n[k]);
      if (kFloor) power = addBits(power, bitsUp<kStepBits>(n[k]));
      e[k] = fma(power, e[k], power);
      if (!kFloor) e[k] = mul(e[k], powerOfBits(n[k]));
    }
  }

  // Whether all x were numbers less than 27 powers of two above the unit. `seen` has the bits of every n. If not, every
  // e is meaningless.
  static bool allInReach(F32 seen) {
    float lanes[kWidth];
    store(lanes, seen);
    for (int64_t i = 0; i < kWidth; ++i) {
      if ((bitsOf(lanes[i]) & ~kBits) != bitsOf(kRounding)) return false;
    }
    return true;
  }
};

// factor · e^(x / T), for stage 4.
template <bool kBase>
struct ScaledExp {
  Exp<false, kBase, true> exp;

  ScaledExp(const ExpConstants& c, Unit unit, float factor) : exp(c, unit, factor) {}

  FPL_IN_LOOPS void operator()(F32 (&x)[4]) const {
    F32 r[4], n[4];
    for (int k = 0; k < 4; ++k) r[k] = x[k];
    exp(r, n, x);
  }
};

// w · (constant + perLog · log w) + everywhere, w = e^(x / T).
struct FullExp {
  Exp<false, true, true> exp;
  F32 fromUnit;          // what n is where log w is near 0
  F32 perStep, perRest;  // perLog for each step of n in w, and for each r
  F32 constant, everywhere;

  FullExp(const ExpConstants& c, const FullRowGradient& g)
      : exp(c, g.unit),
        fromUnit(set1(kRounding + float(kSteps * (kExponentBias + g.scale)))),
        perStep(set1(float(double(g.perLog) * kLn2 / kSteps))),
        perRest(set1(g.perLog * c.inverse)),
        constant(set1(g.constant)),
        everywhere(set1(g.everywhere)) {}

  FPL_IN_LOOPS void operator()(F32 (&x)[4]) const {
    F32 r[4], n[4];
    for (int k = 0; k < 4; ++k) r[k] = x[k];
    exp(r, n, x);
    for (int k = 0; k < 4; ++k) n[k] = fma(sub(n[k], fromUnit), perStep, constant);
    inStep(n);
    for (int k = 0; k < 4; ++k) n[k] = fma(r[k], perRest, n[k]);
    inStep(n);
    for (int k = 0; k < 4; ++k) x[k] = fma(x[k], n[k], everywhere);
  }
};
