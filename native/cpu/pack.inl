// Packs the factors of matrix products in panels (see PanelShape), kWidth vectors of kWidth terms at a time.

// Two terms of bfloat16, as one 32-bit element of a panel (see PairKernels).
struct Pair {
  uint16_t even, odd;
};
inline F32 load(const Pair* p) { return load(reinterpret_cast<const float*>(p)); }

// Terms change places with their neighbours, but for those of a Pair, which are one.
template <typename T>
constexpr int64_t kSwap = std::is_same_v<T, Pair> ? 0 : 1;

// Which of `count` terms is at that place.
template <typename T>
inline int64_t termAt(int64_t place, int64_t count) {
  const int64_t term = place ^ kSwap<T>;
  return term < count ? term : place;
}

// The first `count` elements, and zeros; a count beyond kWidth is kWidth, one below 0 is 0.
template <typename T>
inline F32 loadFirst(const T* p, int64_t count) {
  if (count >= kWidth) return load(p);
  T some[kWidth] = {};
  if (count > 0) memcpy(some, p, size_t(count) * sizeof(T));
  return load(some);
}

// Element j of vector i becomes element i of vector j. Each time the vectors of the first half are interleaved with
// those of the second.
inline void transpose(F32 (&x)[kWidth]) {
  for (int64_t step = 1; step < kWidth; step *= 2) {
    F32 y[kWidth];
    for (int64_t i = 0; i < kWidth / 2; ++i) {
      y[2 * i] = interleaveLow(x[i], x[i + kWidth / 2]);
      y[2 * i + 1] = interleaveHigh(x[i], x[i + kWidth / 2]);
    }
    for (int64_t i = 0; i < kWidth; ++i) x[i] = y[i];
  }
}

template <typename T>
void packAlong(const Vectors& vectors, int64_t count, int64_t depth, int64_t width, int64_t first, int64_t end,
               float* panels, int64_t panel);
template <typename T>
void packAcross(const Vectors& vectors, int64_t offset, int64_t count, int64_t depth, int64_t width, int64_t first,
                int64_t end, float* panels, int64_t panel);

// Elements of a vector, or of all vectors of a panel, that are worked on at a time.
constexpr int64_t kPiece = 512;

// Where 16 bits go by way of float32: both for any type, a piece at a time.
FPL_SELDOM inline void packConvertedAlong(const Vectors& vectors, int64_t count, int64_t depth, int64_t width,
                                          int64_t first, int64_t end, float* panels, int64_t panel) {
  constexpr int64_t kMost = F32::kMicroVectors * kWidth, kTerms = kPiece / kMost;
  float floats[kPiece];
  const void* begins[kMost];
  for (int64_t p = first; p < end; ++p) {
    const int64_t rows = count - p * width < width ? count - p * width : width;
    for (int64_t k = 0; k < depth; k += kTerms) {
      const int64_t terms = depth - k < kTerms ? depth - k : kTerms;
      for (int64_t r = 0; r < rows; ++r) begins[r] = vectors.read(p * width + r, k, terms, floats + r * kTerms);
      packAlong<float>({DType::kFloat32, begins}, rows, terms, width, 0, 1, panels + p * panel + k * width, panel);
    }
  }
}

FPL_SELDOM inline void packConvertedAcross(const Vectors& vectors, int64_t offset, int64_t count, int64_t depth,
                                           int64_t width, int64_t first, int64_t end, float* panels, int64_t panel) {
  float floats[kPiece];
  for (int64_t p = first; p < end; ++p) {
    const int64_t rows = count - p * width < width ? count - p * width : width;
    for (int64_t k = 0; k < depth; ++k) {
      const void* const begin = vectors.read(termAt<float>(k, depth), offset + p * width, rows, floats);
      packAcross<float>({DType::kFloat32, &begin}, 0, rows, 1, width, 0, 1, panels + p * panel + k * width, panel);
    }
  }
}

// A panel narrower than a vector is stored in whole vectors, each of which begins where the one before it should end.
// That serves all terms but the last ones of a panel.
template <typename T>
void packAlong(const Vectors& vectors, int64_t count, int64_t depth, int64_t width, int64_t first, int64_t end,
               float* panels, int64_t panel) {
  FPL_ASSERT(first >= 0 && end <= ceilDiv(count, width) && panel >= depth * width);
  FPL_ASSERT(width < kWidth || width % kWidth == 0);
  if constexpr (kByWayOfFloats<T>) return packConvertedAlong(vectors, count, depth, width, first, end, panels, panel);
  const int64_t step = width < kWidth ? width : kWidth;  // rows side by side
  for (int64_t row = first * width; row < end * width; row += step) {
    float* const out = panels + row / width * panel + row % width;
    const int64_t rows = count - row < step ? (count < row ? 0 : count - row) : step;
    // Lanes that have no row repeat one.
    const auto at = [&](int64_t r) { return static_cast<const T*>(vectors.begins[row + r]) + vectors.skipped; };
    const T* from[kWidth] = {};
    for (int64_t r = 0; r < kWidth && rows > 0; ++r) from[r] = at(r < rows ? r : 0);
    for (int64_t k = 0; k < depth; k += kWidth) {
      F32 x[kWidth];
      float edge[kWidth * kWidth], *to = out + k * width;
      const int64_t terms = depth - k < kWidth ? depth - k : kWidth;
      const bool fits = rows == step && (step == kWidth ? terms == kWidth : k + kWidth < depth);
      if (fits) {
        for (int64_t r = 0; r < kWidth; ++r) x[r] = load(from[r] + k);
        for (int64_t r = 0; r < step && row + step + r < count; ++r) prefetchLine(at(step + r) + k);
      } else {
        for (int64_t r = 0; r < kWidth; ++r) x[r] = r < rows ? loadFirst(from[r] + k, terms) : set1(0.0f);
      }
      transpose(x);
      for (int64_t t = 0; t < kWidth; ++t) {
        store(fits ? to + t * width : edge + t * kWidth, x[t ^ kSwap<T>]);
      }
      if (fits) continue;
      for (int64_t t = 0; t < terms; ++t) {
        const float* const term = edge + (termAt<T>(t, terms) ^ kSwap<T>)*kWidth;
        memcpy(to + t * width, term, size_t(step) * sizeof(float));
      }
    }
  }
}

// `count` elements of term k, from the i-th on.
template <typename T>
inline F32 loadAcross(const Vectors& vectors, int64_t k, int64_t i, int64_t count) {
  if constexpr (std::is_same_v<T, Pair>) {
    return orBits(bitsDown<16>(loadAcross<BFloat16>(vectors, 2 * k, i, count)),
                  loadAcross<BFloat16>(vectors, 2 * k + 1, i, count));
  } else {
    return loadFirst(static_cast<const T*>(vectors.begins[k]) + vectors.skipped + i, count);
  }
}

template <typename T>
void packAcross(const Vectors& vectors, int64_t offset, int64_t count, int64_t depth, int64_t width, int64_t first,
                int64_t end, float* panels, int64_t panel) {
  FPL_ASSERT(offset >= 0 && first >= 0 && end <= ceilDiv(count, width) && panel >= depth * width);
  FPL_ASSERT(width < kWidth || width % kWidth == 0);
  if constexpr (kByWayOfFloats<T>) {
    return packConvertedAcross(vectors, offset, count, depth, width, first, end, panels, panel);
  }
  // Several panels at a time, as the elements of a vector that go there are neighbours.
  const int64_t step = kPiece / width;
  for (int64_t p = first; p < end; p += step) {
    const int64_t last = end < p + step ? end : p + step;
    for (int64_t k = 0; k < depth; ++k) {
      const int64_t term = termAt<T>(k, depth);
      for (int64_t q = p; q < last; ++q) {
        float* const to = panels + q * panel + k * width;
        for (int64_t i = 0; i < width; i += kWidth) {
          const int64_t row = q * width + i;
          const F32 x = loadAcross<T>(vectors, term, offset + row, count - row);
          if (F32::kMicroRows >= kWidth || width >= kWidth || k + 1 < depth) {
            store(to + i, x);
          } else {
            float edge[kWidth];
            store(edge, x);
            memcpy(to, edge, size_t(width) * sizeof(float));
          }
        }
      }
    }
  }
}
