// Stage 4 on one row: writes factor · e^(x / T) for each logit x, or what FullExp makes of it. T is the type of the
// logits and U that of the gradient.

// Four vectors in step, of which the row has only the first `count` logits: by way of a buffer. `valuesOf` makes values
// of logits, in place.
template <bool kStream, typename T, typename U, typename Values>
FPL_IN_LOOPS void gradientOfFour(const T* row, U* out, const Values& valuesOf) {
  F32 x[4];
  if constexpr (std::is_same_v<T, U>) {
    loadFour(row, x);
    valuesOf(x);
    putFour<kStream>(out, x);
  } else {
    loadInOrder(row, x);
    valuesOf(x);
    putInOrder<kStream>(out, x);
  }
}

template <typename T, typename U, typename Values>
FPL_SELDOM void gradientOfFew(const T* row, U* out, int64_t count, const Values& valuesOf) {
  T logits[4 * kWidth] = {};
  U values[4 * kWidth];
  memcpy(logits, row, count * sizeof(T));
  gradientOfFour<false>(logits, values, valuesOf);
  memcpy(out, values, count * sizeof(U));
}

template <bool kStream, typename T, typename U, typename Values>
void gradientSpan(const T* row, U* out, int64_t begin, int64_t end, const Values& valuesOf);

template <typename Values>
FPL_SELDOM void gradientOfFloats(float* row, int64_t count, const Values& valuesOf) {
  gradientSpan<false>(row, row, 0, count, valuesOf);
}

template <typename T, typename U, typename Values>
void gradientByWayOfFloats(const T* row, U* out, int64_t begin, int64_t end, const Values& valuesOf) {
  constexpr int64_t kPart = 16 * kTile;
  alignas(64) float part[kPart];
  for (int64_t i = begin; i < end; i += kPart) {
    const int64_t count = end - i < kPart ? end - i : kPart;
    convert(row + i, count, part);
    gradientOfFloats(part, count, valuesOf);
    convert(part, count, out + i);
  }
}

template <bool kStream, typename T, typename U, typename Values>
void gradientSpan(const T* row, U* out, int64_t begin, int64_t end, const Values& valuesOf) {
  if constexpr (kByWayOfFloats<T> || kByWayOfFloats<U>) return gradientByWayOfFloats(row, out, begin, end, valuesOf);
  constexpr int64_t kStep = 4 * kWidth;
  int64_t i = begin;
  if (kStream) {
    // Streaming stores fill whole cache lines.
    constexpr int64_t kLine = 64 / sizeof(U);
    int64_t head = int64_t(-(reinterpret_cast<uintptr_t>(out + i) / sizeof(U)) & (kLine - 1));
    for (head = head < end - i ? head : end - i; head > 0;) {
      const int64_t count = head < kStep ? head : kStep;
      gradientOfFew(row + i, out + i, count, valuesOf);
      i += count;
      head -= count;
    }
  }
  for (; i + kStep <= end; i += kStep) {
    prefetch(row + i, kStep);
    gradientOfFour<kStream>(row + i, out + i, valuesOf);
  }
  if (i < end) gradientOfFew(row + i, out + i, end - i, valuesOf);
}

template <typename T, typename U, bool kStream>
void gradientRow(const void* rowData, void* outData, int64_t begin, int64_t end, const ExpConstants& constants,
                 Unit unit, float factor) {
  FPL_ASSERT(begin >= 0 && begin <= end && !std::isnan(factor) && factor != 0);
  const T* row = static_cast<const T*>(rowData);
  U* out = static_cast<U*>(outData);
  if (unit.base == 0 && !kIsDownloaded) {
    gradientSpan<kStream>(row, out, begin, end, ScaledExp<false>(constants, unit, factor));
  } else {
    gradientSpan<kStream>(row, out, begin, end, ScaledExp<true>(constants, unit, factor));
  }
  if (kStream) drain();
}

template <typename T, typename U, bool kStream>
void fullGradientRow(const void* rowData, void* outData, int64_t begin, int64_t end, const ExpConstants& constants,
                     const FullRowGradient& values) {
  FPL_ASSERT(begin >= 0 && begin <= end && !std::isnan(values.constant));
  gradientSpan<kStream>(static_cast<const T*>(rowData), static_cast<U*>(outData), begin, end,
                        FullExp(constants, values));
  if (kStream) drain();
}

// Zeros, past the cache.
inline void streamZeros(void* out, int64_t bytes) {
  char* at = static_cast<char*>(out);
  char* const end = at + bytes;
  const int64_t head = int64_t(-reinterpret_cast<uintptr_t>(at) & 63);
  if (head < bytes) {
    memset(at, 0, head);
    const F32 zeros = set1(0.0f);
    for (at += head; at + 64 <= end; at += 64) {
      for (int64_t i = 0; i < kLanes; i += kWidth) stream(reinterpret_cast<float*>(at) + i, zeros);
    }
    drain();
  }
  memset(at, 0, end - at);
}

// out[begin + i] = values[i] + factor · weights[i]
template <typename U>
void addMultiple(const float* values, const float* weights, float factor, void* outData, int64_t begin, int64_t end) {
  FPL_ASSERT(begin >= 0 && begin <= end);
  U* out = static_cast<U*>(outData) + begin;
  const int64_t count = end - begin;
  const F32 times = set1(factor);
  const auto sumsOf = [&](const float* value, const float* weight, U* to) {
    F32 x[4], w[4];
    loadInOrder(value, x);
    loadInOrder(weight, w);
    for (int k = 0; k < 4; ++k) x[k] = fma(times, w[k], x[k]);
    putInOrder<false>(to, x);
  };
  int64_t i = 0;
  for (; i + 4 * kWidth <= count; i += 4 * kWidth) sumsOf(values + i, weights + i, out + i);
  if (i == count) return;
  float lastValues[4 * kWidth] = {}, lastWeights[4 * kWidth] = {};
  U last[4 * kWidth];
  memcpy(lastValues, values + i, (count - i) * sizeof(float));
  memcpy(lastWeights, weights + i, (count - i) * sizeof(float));
  sumsOf(lastValues, lastWeights, last);
  memcpy(out + i, last, (count - i) * sizeof(U));
}
