// Products of bfloat16 factors, two terms at a time (see PairKernels). Needs pack.inl and product.inl.

float leastOf(const float* pairs, int64_t count) {
  constexpr uint16_t kMagnitude = 0x7fff, kMost = 0x7f7d;
  __m512i least = _mm512_set1_epi16(kMost);
  for (int64_t i = 0; i < count; i += kWidth) {
    const __m512i magnitudes = _mm512_and_si512(asInts(loadFirst(pairs + i, count - i)), _mm512_set1_epi16(kMagnitude));
    // Less one, so that 0 is the largest.
    least = _mm512_min_epu16(least, _mm512_sub_epi16(magnitudes, _mm512_set1_epi16(1)));
  }
  uint16_t lanes[2 * kWidth], smallest = kMost;
  _mm512_storeu_si512(lanes, least);
  for (const uint16_t lane : lanes) smallest = lane < smallest ? lane : smallest;
  return floatOf(uint32_t(smallest + 1) << 16);
}

inline F32 addInOne(F32 left, F32 right, F32 sum) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)asInts(left), (__m512bh)asInts(right))};
}

inline F32 addOneByOne(F32 left, F32 right, F32 sum) {
  const F32 odd = fma(andBits(left, upperHalves()), andBits(right, upperHalves()), sum);
  return fma(bitsUp<16>(left), bitsUp<16>(right), odd);
}

struct OneByOne {
  static F32 add(F32 left, F32 right, F32 sum) { return addOneByOne(left, right, sum); }
};

// The instruction takes subnormal numbers for zeros, and rounds to zero what would be one. None can occur where the
// factors' least magnitudes are 2^a and 2^b or more, with a + b >= -110: every product, and so every sum, is a multiple
// of 2^(a + b - 14).
struct Pairs {
  static constexpr int64_t kTerms = 2;
  static F32 add(F32 left, F32 right, F32 sum) { return addInOne(left, right, sum); }

  template <bool kAdd, int64_t kRows>
  static void microTile(const Product& p, const float* a, const float* b, int64_t k, int64_t depth, float* c,
                        int64_t stride) {
    const float leastOfA = a[p.panelOfA - kLeastSpace], leastOfB = b[p.panelOfB - kLeastSpace];
    const bool inOne = leastOfA >= 0x1p-126f && leastOfB >= 0x1p-126f && leastOfA * leastOfB >= 0x1p-110f;
    a += k * kMicroRows;
    b += k * kMicroColumns;
    inOne ? multiplyMicroTile<Pairs, kAdd, kRows>(a, b, depth, c, stride)
          : multiplyMicroTile<OneByOne, kAdd, kRows>(a, b, depth, c, stride);
  }
};

void multiplyPairs(const Product& p) { multiplyPanels<Pairs>(p); }

// Whether the instruction adds as addOneByOne does: the odd terms first, each sum rounded to nearest even. Tried with
// numbers of which every sixth tells that order from another, and from one rounding for both.
bool addsOddFirst() {
  const FloatEnvironment environment;
  uint32_t state = 1;
  const auto next = [&] { return (state = state * 1664525 + 1013904223) >> 8; };
  for (int round = 0; round < 32; ++round) {
    float numbers[3][kWidth], sums[2][kWidth];
    for (int64_t i = 0; i < kWidth; ++i) {
      // Magnitudes from 2^-9 to 2^10, those of the sum from 2^-17 to 2^13.
      for (int factor = 0; factor < 2; ++factor) {
        uint32_t pair = 0;
        for (int term = 0; term < 2; ++term) pair = pair << 16 | (next() & 0x807f) | (118 + next() % 20) << 7;
        numbers[factor][i] = floatOf(pair);
      }
      numbers[2][i] = floatOf((next() & 0x7fffff) | (110 + next() % 30) << 23 | next() << 31);
    }
    const F32 left = load(numbers[0]), right = load(numbers[1]), sum = load(numbers[2]);
    store(sums[0], addInOne(left, right, sum));
    store(sums[1], addOneByOne(left, right, sum));
    if (memcmp(sums[0], sums[1], sizeof sums[0]) != 0) return false;
  }
  return true;
}
