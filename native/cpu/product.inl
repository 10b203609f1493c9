// The product of two packed matrices, for one instruction set.
//
// A micro-tile of the result, kMicroRows × kMicroVectors vectors, stays in registers while one panel of each factor
// goes by. A panel of the right factor has kDepth · kMicroColumns · 4 bytes, 16 KB or with AVX-512 32 KB. It stays in
// the caches next to the core while all panels of the left factor go past it.

constexpr int64_t kMicroRows = F32::kMicroRows;
constexpr int64_t kMicroVectors = F32::kMicroVectors;
constexpr int64_t kMicroColumns = kMicroVectors * kWidth;
static_assert(kRowsOfTile % kMicroRows == 0 && kWordsOfTile % kMicroRows == 0, "panels must not straddle tiles");
static_assert(kWordsOfTile % kMicroColumns == 0 && kColumnsOfPart % kMicroColumns == 0,
              "panels must not straddle tiles");
static_assert(kWordsOfTile % kTile == 0, "nor must the row state's tiles");

// The first kRows rows of a micro-tile. Terms::add(left, right, sum) adds the products of two elements.
template <typename Terms, bool kAdd, int64_t kRows>
inline void multiplyMicroTile(const float* a, const float* b, int64_t depth, float* c, int64_t stride) {
  F32 sums[kRows][kMicroVectors];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kMicroVectors; ++j) sums[i][j] = set1(0.0f);
  }
  for (int64_t k = 0; k < depth; ++k, a += kMicroRows, b += kMicroColumns) {
    F32 right[kMicroVectors];
    for (int j = 0; j < kMicroVectors; ++j) right[j] = load(b + j * kWidth);
    for (int i = 0; i < kRows; ++i) {
      const F32 left = set1(a[i]);
      for (int j = 0; j < kMicroVectors; ++j) sums[i][j] = Terms::add(left, right[j], sums[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kMicroVectors; ++j) {
      float* at = c + i * stride + j * kWidth;
      store(at, kAdd ? add(load(at), sums[i][j]) : sums[i][j]);
    }
  }
}

// Factors as float32.
struct Floats {
  static constexpr int64_t kTerms = 1;  // of an element of a panel
  static F32 add(F32 left, F32 right, F32 sum) { return fma(left, right, sum); }

  // `depth` elements of the panels a and b, from the k-th on.
  template <bool kAdd, int64_t kRows>
  static void microTile(const Product&, const float* a, const float* b, int64_t k, int64_t depth, float* c,
                        int64_t stride) {
    multiplyMicroTile<Floats, kAdd, kRows>(a + k * kMicroRows, b + k * kMicroColumns, depth, c, stride);
  }
};

// A micro-tile of so many rows, at the end of a factor: in steps, since few rows of hidden states may be all there are.
template <typename Terms, int64_t kRows = kMicroRows>
inline void lastMicroTile(const Product& p, const float* a, const float* b, int64_t k, int64_t depth, int64_t rows,
                          float* c) {
  constexpr int64_t kStep = kMicroRows % 4 == 0 ? 4 : 2;
  if constexpr (kRows > kStep) {
    if (rows <= kRows - kStep) return lastMicroTile<Terms, kRows - kStep>(p, a, b, k, depth, rows, c);
  }
  Terms::template microTile<false, kRows>(p, a, b, k, depth, c, kMicroColumns);
}

template <typename Terms>
inline void multiplyPanels(const Product& p) {
  FPL_ASSERT(p.rows > 0 && p.columns > 0 && p.depth > 0 && p.stride >= p.columns);
  FPL_ASSERT(p.panelOfA >= p.depth * kMicroRows && p.panelOfB >= p.depth * kMicroColumns);
  alignas(64) float edge[kMicroRows * kMicroColumns];
  constexpr int64_t kElements = kDepth / Terms::kTerms;
  for (int64_t k = 0; k < p.depth; k += kElements) {
    const int64_t depth = p.depth - k < kElements ? p.depth - k : kElements;
    const bool adds = p.add || k > 0;
    for (int64_t j = 0; j < p.columns; j += kMicroColumns) {
      const float* const b = p.b + j / kMicroColumns * p.panelOfB;
      for (int64_t i = 0; i < p.rows; i += kMicroRows) {
        const float* const a = p.a + i / kMicroRows * p.panelOfA;
        float* c = p.c + i * p.stride + j;
        if (i + kMicroRows <= p.rows && j + kMicroColumns <= p.columns) {
          adds ? Terms::template microTile<true, kMicroRows>(p, a, b, k, depth, c, p.stride)
               : Terms::template microTile<false, kMicroRows>(p, a, b, k, depth, c, p.stride);
          continue;
        }
        // Where no full micro-tile fits, the sums go by way of a buffer.
        const int64_t rows = p.rows - i < kMicroRows ? p.rows - i : kMicroRows;
        lastMicroTile<Terms>(p, a, b, k, depth, rows, edge);
        const int64_t columns = p.columns - j < kMicroColumns ? p.columns - j : kMicroColumns;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t s = 0; s < columns; ++s) {
            const float sum = edge[r * kMicroColumns + s];
            c[r * p.stride + s] = adds ? c[r * p.stride + s] + sum : sum;
          }
        }
      }
    }
  }
}

inline void multiply(const Product& p) { multiplyPanels<Floats>(p); }

// As many chains of multiply-adds as a micro-tile has sums, and nothing else. No code does more of them in a second.
inline float multiplyAdds(int64_t rounds) {
  F32 sums[kMicroRows][kMicroVectors];
  for (int i = 0; i < kMicroRows; ++i) {
    // No two are alike: a compiler would compute like ones once. None is 1, which its steps would leave as it is.
    for (int j = 0; j < kMicroVectors; ++j) sums[i][j] = set1(float(i * kMicroVectors + j + 2));
  }
  const F32 left = set1(0.75f), right = set1(0.25f);
  for (int64_t k = 0; k < rounds; ++k) {
    for (int i = 0; i < kMicroRows; ++i) {
      for (int j = 0; j < kMicroVectors; ++j) sums[i][j] = fma(sums[i][j], left, right);
    }
  }
  F32 total = set1(0.0f);
  for (int i = 0; i < kMicroRows; ++i) {
    for (int j = 0; j < kMicroVectors; ++j) total = add(total, sums[i][j]);
  }
  float lanes[kWidth];
  store(lanes, total);
  return lanes[0];
}
