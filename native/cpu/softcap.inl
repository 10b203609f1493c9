// Soft-capped logits: tanh(x · scale) in the place of each logit x, and the slope of the tanh for stage 4.
//
// With m = e^(2|u|) - 1, tanh |u| = m / (m + 2) and its slope is 4 (m + 1) / (m + 2)²: nothing cancels, neither where
// the tanh is small nor where it is nearly 1. m = 2^n · (e^r - 1) + (2^n - 1), n = round(2|u| · log2e), as in exp.inl.

struct Tanh {
  F32 high, low;  // 2 · scale in two parts
  F32 limit;      // the |x| beyond which the slope is below float32
  F32 log2e, rounding, ln2High, ln2Low;
  F32 slopeAtLimit;

  explicit Tanh(const CapConstants& c)
      : high(set1(c.twiceHigh)),
        low(set1(c.twiceLow)),
        limit(set1(c.limit)),
        log2e(set1(float(kLog2e))),
        rounding(set1(kRounding + float(kExponentBias))),
        ln2High(set1(-0x1.62ep-1f)),
        ln2Low(set1(float(0x1.62ep-1 - kLn2))),
        slopeAtLimit(set1(0.0f)) {
    // So that it is 0 from there on.
    F32 x[4] = {limit, limit, limit, limit}, slopes[4];
    at<true>(x, slopes);
    slopeAtLimit = slopes[0];
  }

  // The logits become their tanh.
  template <bool kSlopes>
  FPL_IN_LOOPS void at(F32 (&x)[4], F32 (&slopes)[4]) const {
    const F32 one = set1(1.0f), two = set1(2.0f), four = set1(4.0f), none = set1(0.0f);
    F32 sign[4], u[4], rest[4], n[4], r[4], m[4];
    for (int k = 0; k < 4; ++k) sign[k] = andBits(x[k], set1Bits(0x80000000u));
    for (int k = 0; k < 4; ++k) x[k] = minKeepNan(andBits(x[k], set1Bits(0x7fffffffu)), limit);
    for (int k = 0; k < 4; ++k) u[k] = mul(x[k], high);
    // What the rounding of u leaves out.
    for (int k = 0; k < 4; ++k) rest[k] = fma(x[k], low, fma(x[k], high, sub(none, u[k])));
    for (int k = 0; k < 4; ++k) n[k] = fma(u[k], log2e, rounding);
    for (int k = 0; k < 4; ++k) r[k] = sub(n[k], rounding);
    for (int k = 0; k < 4; ++k) r[k] = fma(r[k], ln2Low, add(fma(r[k], ln2High, u[k]), rest[k]));
    // e^r - 1: the polynomial of exp.inl without its first two terms, which are 1 and r.
    for (int k = 0; k < 4; ++k) m[k] = set1(float(kExp6));
    multiplyAdd(m, r, set1(float(kExp5)));
    multiplyAdd(m, r, set1(float(kExp4)));
    multiplyAdd(m, r, set1(float(kExp3)));
    multiplyAdd(m, r, set1(float(kExp2)));
    for (int k = 0; k < 4; ++k) m[k] = fma(mul(r[k], r[k]), m[k], r[k]);
    for (int k = 0; k < 4; ++k) n[k] = bitsUp<23>(n[k]);
    for (int k = 0; k < 4; ++k) m[k] = fma(n[k], m[k], sub(n[k], one));
    for (int k = 0; k < 4; ++k) x[k] = orBits(div(m[k], add(m[k], two)), sign[k]);
    if (!kSlopes) return;
    for (int k = 0; k < 4; ++k) {
      const F32 inverse = div(one, add(m[k], two));
      slopes[k] = sub(mul(mul(four, mul(add(m[k], one), inverse)), inverse), slopeAtLimit);
    }
  }
};

// Four vectors in the order of the elements, of which there may be fewer than fill them.
template <typename T>
inline void loadAtMostFour(const T* p, int64_t count, F32 (&x)[4]) {
  if (count >= 4 * kWidth) return loadInOrder(p, x);
  T values[4 * kWidth] = {};
  memcpy(values, p, count * sizeof(T));
  loadInOrder(values, x);
}

// Logits begin .. end, capped, to `capped` and the slopes to `slopes`, from the first on.
template <typename T, bool kSlopes>
void capRow(const void* rowData, int64_t begin, int64_t end, const CapConstants& constants, float* capped,
            float* slopes) {
  FPL_ASSERT(begin >= 0 && begin <= end);
  const T* row = static_cast<const T*>(rowData) + begin;
  const int64_t count = end - begin;
  if constexpr (kByWayOfFloats<T>) {
    convert(row, count, capped);
    return capRow<float, kSlopes>(capped, 0, count, constants, capped, slopes);
  }
  const Tanh tanh(constants);
  for (int64_t i = 0; i < count; i += 4 * kWidth) {
    F32 x[4], slope[4];
    loadAtMostFour(row + i, count - i, x);
    tanh.at<kSlopes>(x, slope);
    if (i + 4 * kWidth <= count) {
      putFour<false>(capped + i, x);
      if (kSlopes) putFour<false>(slopes + i, slope);
      continue;
    }
    float few[4 * kWidth];
    putFour<false>(few, x);
    memcpy(capped + i, few, (count - i) * sizeof(float));
    if (!kSlopes) continue;
    putFour<false>(few, slope);
    memcpy(slopes + i, few, (count - i) * sizeof(float));
  }
}

// out[begin + i] = values[i] · slopes[i]
template <typename T>
void multiplyRow(const float* values, const float* slopes, void* outData, int64_t begin, int64_t end) {
  T* out = static_cast<T*>(outData) + begin;
  const int64_t count = end - begin;
  int64_t i = 0;
  if constexpr (!std::is_same_v<T, BFloat16>) {
    for (; i + kWidth <= count; i += kWidth) store(out + i, mul(load(values + i), load(slopes + i)));
  }
  for (; i < count; ++i) fromFloat(values[i] * slopes[i], out[i]);
}
