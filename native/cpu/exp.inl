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

// The powers 2^(n / kSteps) times this are floats, nearly: their own errors would be in every e. A sum is divided by
// it.
constexpr float kScale = kSteps == 1 ? 1.0f : kPowersScale;

// A logit in reach is at most kReach powers of two below the unit. Seven bits then hold n / kSteps + kReach, up to 27
// powers of two above the unit.
constexpr int32_t kReach = 100;

// factor · e^(x / T) in units; four vectors in step.
//   kAny    any logits that are not far above the unit; an e below 2^-126 units becomes 0. Else all are in reach, which
//           takes fewer instructions, and the factor is the default.
//   kBase   the unit has a base
//   kSplit  T ln 2 in two parts
template <bool kAny, bool kBase, bool kSplit>
struct Exp {
  // n of the unit itself is kSteps times this, so that no n is negative.
  static constexpr int32_t kUnit = kAny ? kExponentBias : kReach;
  static constexpr int kTerms = kSteps == 8 ? 3 : 6;

  F32 base, low, log2e, rounding, ln2, ln2Low;
  F32 terms[kTerms];  // those of r, r², …
  Steps powers;

  Exp(const ExpConstants& c, Unit unit, float factor = kAny ? kScale : kScale * 0x1p-100f)
      : base(set1(unit.base)),
        low(set1(float((unit.exponent - kExponentBias) * c.unitLog))),
        log2e(set1(kSteps * c.log2e)),
        rounding(set1(kRounding + float(kSteps * (kUnit - unit.exponent)))),
        ln2(set1((kSplit ? -c.ln2High : -c.ln2) / kSteps)),
        ln2Low(set1(-c.ln2Low / kSteps)),
        powers(powersOf(factor)) {
    static_assert(kReach == 100, "the factor has 2^-kReach");
    for (int i = 0; i < kTerms; ++i) terms[i] = set1(kSteps == 8 ? c.ofEighth[i] : factor * c.ofWhole[i]);
  }

  // x becomes r, and n has the bits of n. NaN stays NaN.
  FPL_IN_LOOPS void operator()(F32 (&x)[4], F32 (&n)[4], F32 (&e)[4]) const {
    if (kBase) {
      for (int k = 0; k < 4; ++k) x[k] = sub(x[k], base);
      inStep(x);
    }
    if (kAny) {
      for (int k = 0; k < 4; ++k) x[k] = maxKeepNan(x[k], low);
    }
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
    for (int k = 0; k < 4; ++k) e[k] = terms[kTerms - 1];
    for (int i = kTerms - 2; i >= 0; --i) multiplyAdd(e, x, terms[i]);
    for (int k = 0; k < 4; ++k) e[k] = scaled(e[k], x[k], n[k]);
  }

  // Whether the logits were as described, none of them NaN. `seen` has the bits of every n.
  static bool allInReach(F32 seen) {
    constexpr uint32_t kBits = kSteps * (kAny ? 256 : 128) - 1;
    float lanes[kWidth];
    store(lanes, seen);
    uint32_t bits = 0;
    for (int64_t i = 0; i < kWidth; ++i) bits |= bitsOf(lanes[i]);
    return (bits & ~kBits) == bitsOf(kRounding);
  }

 private:
  // The factor's powers 2^(i / kSteps). Where n's bits are added to them, what those have of i is taken away.
  static Steps powersOf(float factor) {
    float powers[kSteps];
    for (int32_t i = 0; i < kSteps; ++i) {
      powers[i] = float(factor * kPowersOfEighths[i]);
      if (!kAny) powers[i] = floatOf(bitsOf(powers[i]) - (uint32_t(i) << kStepBits));
    }
    return Steps(powers);
  }

  // 2^(n / kSteps) · (factor + r · terms). Where it may be 0, the power of two is multiplied; else n is added to the
  // exponent, which is shorter.
  F32 scaled(F32 sumOfTerms, F32 r, F32 n) const {
    const F32 bits = bitsUp<kStepBits>(n);
    F32 power = powers.at(n);
    if constexpr (kSteps == 1) {
      const F32 mantissa = fma(sumOfTerms, r, power);
      return kAny ? mul(mantissa, bits) : addBits(mantissa, bits);
    } else {
      if (!kAny) power = addBits(power, bits);
      const F32 e = fma(power, mul(sumOfTerms, r), power);
      return kAny ? mul(e, andBits(bits, set1Bits(0x7f800000u))) : e;
    }
  }
};

// factor · e^(x / T), for stage 4.
template <bool kBase>
struct ScaledExp {
  Exp<true, kBase, true> exp;

  ScaledExp(const ExpConstants& c, Unit unit, float factor) : exp(c, unit, factor) {}

  FPL_IN_LOOPS void operator()(F32 (&x)[4]) const {
    F32 n[4], e[4];
    exp(x, n, e);
    for (int k = 0; k < 4; ++k) x[k] = e[k];
  }
};

// w · (constant + perLog · log w) + everywhere, w = e^(x / T).
struct FullExp {
  Exp<true, true, true> exp;
  F32 one;  // the x, relative to the base, at which w is 1
  F32 constant, perLogit, everywhere;

  FullExp(const ExpConstants& c, const FullRowGradient& g) : exp(c, g.unit), everywhere(set1(g.everywhere)) {
    const double exact = (g.unit.exponent + g.scale) * c.unitLog, off = float(exact) - exact;
    one = set1(float(exact));
    const double perLog = g.perLog * c.inverseTemperature / kScale;
    constant = set1(float(double(g.constant) / kScale + perLog * off));
    perLogit = set1(float(perLog));
  }

  FPL_IN_LOOPS void operator()(F32 (&x)[4]) const {
    F32 n[4], w[4], values[4];
    for (int k = 0; k < 4; ++k) values[k] = sub(maxKeepNan(sub(x[k], exp.base), exp.low), one);
    inStep(values);
    for (int k = 0; k < 4; ++k) values[k] = fma(values[k], perLogit, constant);
    inStep(values);
    exp(x, n, w);
    for (int k = 0; k < 4; ++k) x[k] = fma(w[k], values[k], everywhere);
  }
};
