// Stage 4 on one row: writes factor · e^(x / T) for each logit x, or what FullExp makes of it.

// Four vectors in step, of which the row has only the first `count` logits: by way of a buffer. `valuesOf` makes values
// of logits, in place.
template <typename T, typename Values>
FPL_SELDOM void gradientOfFew(const T* row, T* out, int64_t count, const Values& valuesOf) {
  T buffer[4 * kWidth] = {};
  memcpy(buffer, row, count * sizeof(T));
  F32 x[4];
  loadFour(buffer, x);
  valuesOf(x);
  putFour<false>(buffer, x);
  memcpy(out, buffer, count * sizeof(T));
}

template <bool kStream, typename T, typename Values>
void gradientSpan(const T* row, T* out, int64_t begin, int64_t end, const Values& valuesOf) {
  constexpr int64_t kStep = 4 * kWidth;
  int64_t i = begin;
  if (kStream) {
    // Streaming stores fill whole cache lines.
    constexpr int64_t kLine = 64 / sizeof(T);
    int64_t head = int64_t(-(reinterpret_cast<uintptr_t>(out + i) / sizeof(T)) & (kLine - 1));
    for (head = head < end - i ? head : end - i; head > 0;) {
      const int64_t count = head < kStep ? head : kStep;
      gradientOfFew(row + i, out + i, count, valuesOf);
      i += count;
      head -= count;
    }
  }
  for (; i + kStep <= end; i += kStep) {
    prefetch(row + i, kStep);
    F32 x[4];
    loadFour(row + i, x);
    valuesOf(x);
    putFour<kStream>(out + i, x);
  }
  if (i < end) gradientOfFew(row + i, out + i, end - i, valuesOf);
}

template <typename T, bool kStream>
void gradientRow(const void* rowData, void* outData, int64_t begin, int64_t end, const ExpConstants& constants,
                 Unit unit, float factor) {
  FPL_ASSERT(begin >= 0 && begin <= end && !std::isnan(factor) && factor != 0);
  const T* row = static_cast<const T*>(rowData);
  T* out = static_cast<T*>(outData);
  if (unit.base == 0) {
    gradientSpan<kStream>(row, out, begin, end, ScaledExp<false>(constants, unit, factor));
  } else {
    gradientSpan<kStream>(row, out, begin, end, ScaledExp<true>(constants, unit, factor));
  }
  if (kStream) drain();
}

template <typename T, bool kStream>
void fullGradientRow(const void* rowData, void* outData, int64_t begin, int64_t end, const ExpConstants& constants,
                     const FullRowGradient& values) {
  FPL_ASSERT(begin >= 0 && begin <= end && !std::isnan(values.constant));
  gradientSpan<kStream>(static_cast<const T*>(rowData), static_cast<T*>(outData), begin, end,
                        FullExp(constants, values));
  if (kStream) drain();
}
