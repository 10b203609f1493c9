// e^(x / T) in units. With kSteps = F32::kSteps steps to a power of two, x is taken apart as
//
//   x = n · T ln 2 / kSteps + r,   n = round(x · kSteps · log2e / T),   e^(x / T) = 2^(n / kSteps) · e^(r / T)
//
// e^(r / T) is a polynomial of r. 2^(n / kSteps) is one of kSteps numbers, which a register holds, times a power of
// two. Where such a number can be looked up for each lane, eight steps leave an r so small that the polynomial has
// degree 3. Elsewhere there is one step and the degree is 6.
//
// n is never converted to an integer. x · kSteps · log2e + kRounding + k is a float whose last mantissa bits are n + k:
// the addition rounds. Subtracting kRounding + k gives n as a float. The bits shifted up by kStepBits are those of
// n + k in units of the exponent field; what of n is no whole power of two is then in the mantissa's first bits.

constexpr float kRounding = 0x1.8p23f;
constexpr int32_t kExponentBias = 127;  // of float32: a field of n + 127 is 2^n

constexpr int32_t kSteps = F32::kSteps;
static_assert(kSteps == 1 || kSteps == 8);
constexpr int kStepBits = kSteps == 8 ? 20 : 23;

// An e below 2^-kReach units is beneath the last bit of any sum, since one of its numbers is about a unit.
constexpr int32_t kReach = 100;

// factor · e^(x / T) in units; four vectors in step.
//   kSum    for sums: an e below 2^-kReach units becomes that, one far above the unit becomes 2^126 units, and the
//           factor is 1. Else e below 2^-126 units becomes 0, and none is far above the unit.
//   kBase   the unit has a base
//   kSplit  T ln 2 in two parts
template <bool kSum, bool kBase, bool kSplit>
struct Exp {
  static constexpr int kTerms = kSteps == 8 ? 3 : 6;

  F32 base, low, high, log2e, rounding, ln2, ln2Low;
  F32 terms[kTerms];  // those of r, r², …
  Steps powers;

  Exp(const ExpConstants& c, Unit unit, float factor = 1)
      : base(set1(unit.base)),
        low(set1(float(double(unit.exponent - (kSum ? kReach : kExponentBias)) * c.unitLog))),
        high(set1(float(double(unit.exponent + kExponentBias - 1) * c.unitLog))),
        log2e(set1(kSteps * c.log2e)),
        rounding(set1(kRounding + float(kSteps * ((kSum ? 0 : kExponentBias) - unit.exponent)))),
        ln2(set1((kSplit ? -c.ln2High : -c.ln2) / kSteps)),
        ln2Low(set1(-c.ln2Low / kSteps)),
        powers(powersOf(factor)) {
    for (int i = 0; i < kTerms; ++i) terms[i] = set1(kSteps == 8 ? c.ofEighth[i] : factor * c.ofWhole[i]);
  }

  // The x become relative to the unit's base and no less than what counts. NaN stays NaN.
  FPL_IN_LOOPS void operator()(F32 (&x)[4], F32 (&e)[4]) const {
    F32 n[4], r[4];
    if (kBase) {
      for (int k = 0; k < 4; ++k) x[k] = sub(x[k], base);
      inStep(x);
    }
    for (int k = 0; k < 4; ++k) x[k] = maxKeepNan(x[k], low);
    if (kSum) {
      for (int k = 0; k < 4; ++k) x[k] = minKeepNan(x[k], high);
    }
    for (int k = 0; k < 4; ++k) n[k] = fma(x[k], log2e, rounding);
    inStep(n);
    for (int k = 0; k < 4; ++k) e[k] = sub(n[k], rounding);
    inStep(e);
    for (int k = 0; k < 4; ++k) r[k] = fma(e[k], ln2, x[k]);
    inStep(r);
    if (kSplit) {
      for (int k = 0; k < 4; ++k) r[k] = fma(e[k], ln2Low, r[k]);
      inStep(r);
    }
    for (int k = 0; k < 4; ++k) e[k] = terms[kTerms - 1];
    for (int i = kTerms - 2; i >= 0; --i) multiplyAdd(e, r, terms[i]);
    for (int k = 0; k < 4; ++k) e[k] = scaled(e[k], r[k], n[k]);
  }

 private:
  // The factor's powers 2^(i / kSteps). For a sum, what n has of i in the mantissa's bits is taken from them.
  static Steps powersOf(float factor) {
    float powers[kSteps];
    for (int32_t i = 0; i < kSteps; ++i) {
      powers[i] = float(factor * kPowersOfEighths[i]);
      if (kSum) powers[i] = floatOf(bitsOf(powers[i]) - (uint32_t(i) << kStepBits));
    }
    return Steps(powers);
  }

  // 2^(n / kSteps) · (factor + r · terms)
  F32 scaled(F32 sumOfTerms, F32 r, F32 n) const {
    const F32 bits = bitsUp<kStepBits>(n);
    F32 power = powers.at(n);
    if constexpr (kSteps == 1) {
      const F32 mantissa = fma(sumOfTerms, r, power);
      return kSum ? addBits(mantissa, bits) : mul(mantissa, bits);
    } else {
      if (kSum) power = addBits(power, bits);
      const F32 e = fma(power, mul(sumOfTerms, r), power);
      return kSum ? e : mul(e, andBits(bits, set1Bits(0x7f800000u)));
    }
  }
};

// factor · e^(x / T), for stage 4.
template <bool kBase>
struct ScaledExp {
  Exp<false, kBase, true> exp;

  ScaledExp(const ExpConstants& c, Unit unit, float factor) : exp(c, unit, factor) {}

  FPL_IN_LOOPS void operator()(F32 (&x)[4]) const {
    F32 e[4];
    exp(x, e);
    for (int k = 0; k < 4; ++k) x[k] = e[k];
  }
};

// w · (constant + perLog · log w) + everywhere, w = e^(x / T).
struct FullExp {
  Exp<false, true, true> exp;
  F32 one;  // the x, relative to the base, at which w is 1
  F32 constant, perLogit, everywhere;

  FullExp(const ExpConstants& c, const FullRowGradient& g)
      : exp(c, g.unit),
        one(set1(float((g.unit.exponent + g.scale) * c.unitLog))),
        constant(set1(g.constant)),
        perLogit(set1(g.perLog * c.inverse)),
        everywhere(set1(g.everywhere)) {}

  FPL_IN_LOOPS void operator()(F32 (&x)[4]) const {
    F32 w[4];
    exp(x, w);
    for (int k = 0; k < 4; ++k) x[k] = sub(x[k], one);
    inStep(x);
    for (int k = 0; k < 4; ++k) x[k] = fma(x[k], perLogit, constant);
    inStep(x);
    for (int k = 0; k < 4; ++k) x[k] = fma(w[k], x[k], everywhere);
  }
};
