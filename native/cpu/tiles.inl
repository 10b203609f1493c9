// Packs factors in panels of tiles, and multiplies them (see tiles.h). Needs vectors of 16 elements, pack.inl, and
// Tiles: four tiles of sums, two of a left and two of a right factor.

static_assert(kWidth * kWidth == kFloatsOfTile && 2 * kWidth == kStepOfTiles && 2 * kWidth == kPanelOfTiles);

// The part of x that is the next term, in the upper half of the bits; x becomes what is left. The first terms are cut
// off, so that none exceeds x. What is left of an infinite x is NaN.
template <TileTerms kTerms>
inline F32 takeTerm(F32& x) {
  if constexpr (kTerms == TileTerms::kRounded) return roundToBFloat16(x);
  const F32 term = andBits(x, upperHalves());
  if constexpr (kTerms == TileTerms::kSplit) x = sub(x, term);
  return term;
}

template <TileTerms kTerms, bool kRight>
void packTiles(const Vectors& vectors, bool along, int64_t count, int64_t depth, int64_t first, int64_t end,
               float* panels) {
  using T = std::conditional_t<kTerms == TileTerms::kBFloat16, BFloat16, float>;
  const auto from = [&](int64_t i, int64_t at, int64_t left) {
    return loadFirst(static_cast<const T*>(vectors.begins[i]) + vectors.skipped + at, left);
  };
  const int64_t panel = panelOfTiles(depth, kTerms);
  for (int64_t half = 2 * first; half < 2 * end; ++half) {
    const int64_t row = half * kWidth, rows = count - row;
    float* out = panels + half / 2 * panel + half % 2 * kFloatsOfTile;
    for (int64_t k = 0; k < depth; k += kStepOfTiles) {
      F32 low[kWidth], high[kWidth];
      for (int64_t i = 0; i < kWidth; ++i) {
        low[i] = high[i] = set1(0.0f);
        const int64_t other = k + kWidth + i;
        if (along && i < rows) {
          low[i] = from(row + i, k, depth - k);
          if (depth > k + kWidth) high[i] = from(row + i, k + kWidth, depth - k - kWidth);
        } else if (!along && rows > 0) {
          if (k + i < depth) low[i] = from(k + i, row, rows);
          if (other < depth) high[i] = from(other, row, rows);
        }
      }
      for (int64_t term = 0; term < termsOf(kTerms); ++term) {
        F32 x[kWidth];
        for (int64_t i = 0; i < kWidth; ++i) {
          x[i] = orBits(bitsDown<16>(takeTerm<kTerms>(low[i])), andBits(takeTerm<kTerms>(high[i]), upperHalves()));
        }
        if (along == kRight) transpose(x);
        for (int64_t i = 0; i < kWidth; ++i) store(out + i * kWidth, x[i]);
        out += 2 * kFloatsOfTile;
      }
    }
  }
}

// A square of sums, of a panel each.
template <int64_t kTermsOfA, int64_t kTermsOfB>
inline void multiplyPanels(Tiles& tiles, const float* a, const float* b, int64_t steps) {
  constexpr int64_t kTwo = 2 * kFloatsOfTile;
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t term = 0; term < (kTermsOfA > kTermsOfB ? kTermsOfA : kTermsOfB); ++term) {
      if (term < kTermsOfA) tiles.loadLeft(a), a += kTwo;
      if (term < kTermsOfB) tiles.loadRight(b), b += kTwo;
      tiles.addProducts();
    }
  }
}

template <int64_t kTermsOfA, int64_t kTermsOfB>
void multiplyTerms(const TileProduct& p) {
  const int64_t steps = ceilDiv(p.depth, kStepOfTiles);
  Tiles tiles;
  for (int64_t i = 0; i < p.rows; i += kPanelOfTiles) {
    for (int64_t j = 0; j < p.columns; j += kPanelOfTiles) {
      float edge[kPanelOfTiles * kPanelOfTiles];
      float* const c = p.c + i * p.stride + j;
      const int64_t rows = p.rows - i, columns = p.columns - j;
      const bool fits = rows >= kPanelOfTiles && columns >= kPanelOfTiles;
      const auto copy = [&](float* to, int64_t step, const float* from, int64_t stepOfFrom) {
        const int64_t length = columns < kPanelOfTiles ? columns : kPanelOfTiles;
        for (int64_t r = 0; r < rows && r < kPanelOfTiles; ++r) {
          memcpy(to + r * step, from + r * stepOfFrom, size_t(length) * sizeof(float));
        }
      };
      float* const sums = fits ? c : edge;
      const int64_t stride = fits ? p.stride : kPanelOfTiles;
      if (p.add) {
        if (!fits) copy(edge, kPanelOfTiles, c, p.stride);
        tiles.loadSums(sums, stride);
      } else {
        tiles.clearSums();
      }
      const float* const a = p.a + i / kPanelOfTiles * p.panelOfA;
      multiplyPanels<kTermsOfA, kTermsOfB>(tiles, a, p.b + j / kPanelOfTiles * p.panelOfB, steps);
      tiles.storeSums(sums, stride);
      if (!fits) copy(c, p.stride, edge, kPanelOfTiles);
    }
  }
}

void multiplyTiles(const TileProduct& p) {
  const int64_t a = termsOf(p.termsOfA), b = termsOf(p.termsOfB);
  FPL_ASSERT(a == 1 || b == 1);
  (a > 1 ? multiplyTerms<3, 1> : b > 1 ? multiplyTerms<1, 3> : multiplyTerms<1, 1>)(p);
}

// Tried with numbers that tell one order of the additions from another, and some that are or make subnormal numbers.
bool addsInTwoChains() {
  const FloatEnvironment environment;
  uint32_t state = 1;
  const auto next = [&] { return (state = state * 1664525 + 1013904223) >> 8; };
  for (int round = 0; round < 8; ++round) {
    // Pairs with magnitudes from 2^-9 to 2^10 and, every fourth time, from 2^-73 to 2^-54.
    const uint32_t exponent = round % 4 == 3 ? 54 : 118;
    const auto fill = [&](uint32_t(&tiles)[2 * kFloatsOfTile]) {
      for (uint32_t& pair : tiles) {
        for (int term = 0; term < 2; ++term) pair = pair << 16 | (next() & 0x807f) | (exponent + next() % 20) << 7;
      }
    };
    uint32_t a[2 * kFloatsOfTile], b[2 * kFloatsOfTile];
    float c[kPanelOfTiles * kPanelOfTiles], floats[2][2 * kFloatsOfTile], wanted[kPanelOfTiles * kPanelOfTiles];
    fill(a);
    fill(b);
    if (round == 7) a[0] = 0x00010001, b[1] = 0x80013f80;  // subnormal
    memcpy(floats[0], a, sizeof a);
    memcpy(floats[1], b, sizeof b);
    for (int64_t i = 0; i < kPanelOfTiles * kPanelOfTiles; ++i) {
      c[i] = floatOf((next() & 0x7fffff) | (2 * exponent - 126 + next() % 30) << 23 | next() << 31);
      const int64_t row = i / kPanelOfTiles, column = i % kPanelOfTiles;
      wanted[i] = sumOfStep(a + row * kWidth, b + column / kWidth * kFloatsOfTile + column % kWidth, kWidth, c[i]);
    }
    {
      Tiles tiles;
      tiles.loadSums(c, kPanelOfTiles);
      tiles.loadLeft(floats[0]);
      tiles.loadRight(floats[1]);
      tiles.addProducts();
      tiles.storeSums(c, kPanelOfTiles);
    }
    if (memcmp(c, wanted, sizeof c) != 0) return false;
  }
  return true;
}

// clang-format off
#define FPL_TILES                                                                                                     \
  {                                                                                                                   \
    {packTiles<TileTerms::kBFloat16, false>, packTiles<TileTerms::kSplit, false>, packTiles<TileTerms::kRounded, false>}, \
    {packTiles<TileTerms::kBFloat16, true>, packTiles<TileTerms::kSplit, true>, packTiles<TileTerms::kRounded, true>},    \
    multiplyTiles, addsInTwoChains                                                                                    \
  }
// clang-format on
