// The product of two packed matrices, for one instruction set.
//
// A tile of kTileRows × kTileVectors vectors of the result stays in registers while one panel of each factor goes by. A
// panel of the right factor is kDepth · kTileColumns · 4 bytes, 16 KB, and stays in the first-level cache while all
// panels of the left one go past it.

constexpr int64_t kTileRows = F32::kTileRows;
constexpr int64_t kTileVectors = F32::kTileVectors;
constexpr int64_t kTileColumns = kTileVectors * kWidth;
static_assert(kRowsOfTile % kTileRows == 0 && kWordsOfTile % kTileRows == 0, "panels must not straddle tiles");
static_assert(kWordsOfTile % kTileColumns == 0 && kColumnsOfPart % kTileColumns == 0, "panels must not straddle tiles");
static_assert(kWordsOfTile % kTile == 0, "nor must the row state's tiles");

template <bool kAdd>
inline void multiplyTile(const float* a, const float* b, int64_t depth, float* c, int64_t stride) {
  F32 sums[kTileRows][kTileVectors];
  for (int i = 0; i < kTileRows; ++i) {
    for (int j = 0; j < kTileVectors; ++j) sums[i][j] = set1(0.0f);
  }
  for (int64_t k = 0; k < depth; ++k, a += kTileRows, b += kTileColumns) {
    F32 right[kTileVectors];
    for (int j = 0; j < kTileVectors; ++j) right[j] = load(b + j * kWidth);
    for (int i = 0; i < kTileRows; ++i) {
      const F32 left = set1(a[i]);
      for (int j = 0; j < kTileVectors; ++j) sums[i][j] = fma(left, right[j], sums[i][j]);
    }
  }
  for (int i = 0; i < kTileRows; ++i) {
    for (int j = 0; j < kTileVectors; ++j) {
      float* at = c + i * stride + j * kWidth;
      store(at, kAdd ? add(load(at), sums[i][j]) : sums[i][j]);
    }
  }
}

void multiply(const Product& p) {
  FPL_ASSERT(p.rows > 0 && p.columns > 0 && p.depth > 0 && p.stride >= p.columns);
  FPL_ASSERT(p.panelOfA >= p.depth * kTileRows && p.panelOfB >= p.depth * kTileColumns);
  alignas(64) float edge[kTileRows * kTileColumns];
  for (int64_t k = 0; k < p.depth; k += kDepth) {
    const int64_t depth = p.depth - k < kDepth ? p.depth - k : kDepth;
    const bool adds = p.add || k > 0;
    for (int64_t j = 0; j < p.columns; j += kTileColumns) {
      const float* b = p.b + j / kTileColumns * p.panelOfB + k * kTileColumns;
      for (int64_t i = 0; i < p.rows; i += kTileRows) {
        const float* a = p.a + i / kTileRows * p.panelOfA + k * kTileRows;
        float* c = p.c + i * p.stride + j;
        if (i + kTileRows <= p.rows && j + kTileColumns <= p.columns) {
          adds ? multiplyTile<true>(a, b, depth, c, p.stride) : multiplyTile<false>(a, b, depth, c, p.stride);
          continue;
        }
        // Where no full tile fits: by way of a buffer.
        multiplyTile<false>(a, b, depth, edge, kTileColumns);
        const int64_t rows = p.rows - i < kTileRows ? p.rows - i : kTileRows;
        const int64_t columns = p.columns - j < kTileColumns ? p.columns - j : kTileColumns;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t s = 0; s < columns; ++s) {
            const float sum = edge[r * kTileColumns + s];
            c[r * p.stride + s] = adds ? c[r * p.stride + s] + sum : sum;
          }
        }
      }
    }
  }
}

// As many chains of multiply-adds as a tile has sums, and nothing else: what a core can do at most.
float multiplyAdds(int64_t rounds) {
  F32 sums[kTileRows][kTileVectors];
  for (int i = 0; i < kTileRows; ++i) {
    // No two alike, or a compiler would compute them once.
    for (int j = 0; j < kTileVectors; ++j) sums[i][j] = set1(float(i * kTileVectors + j));
  }
  const F32 left = set1(0.75f), right = set1(0.25f);
  for (int64_t k = 0; k < rounds; ++k) {
    for (int i = 0; i < kTileRows; ++i) {
      for (int j = 0; j < kTileVectors; ++j) sums[i][j] = fma(sums[i][j], left, right);
    }
  }
  F32 total = set1(0.0f);
  for (int i = 0; i < kTileRows; ++i) {
    for (int j = 0; j < kTileVectors; ++j) total = add(total, sums[i][j]);
  }
  float lanes[kWidth];
  store(lanes, total);
  return lanes[0];
}
