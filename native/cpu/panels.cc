#include "panels.h"

#include <algorithm>
#include <cstring>

namespace fpl {
namespace {

template <typename T>
void convert(const T* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = toFloat(from[i]);
}

}  // namespace

const float* Vectors::read(int64_t i, int64_t first, int64_t count, float* buffer) const {
  first += skipped;
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(begins[i]) + first;
    case DType::kFloat16:
      convert(static_cast<const Float16*>(begins[i]) + first, count, buffer);
      break;
    case DType::kBFloat16:
      convert(static_cast<const BFloat16*>(begins[i]) + first, count, buffer);
      break;
  }
  return buffer;
}

void packAlong(const Vectors& vectors, int64_t count, int64_t depth, int64_t width, int64_t first, int64_t end,
               float* panels, int64_t panel) {
  FPL_ASSERT(first >= 0 && end <= ceilDiv(count, width) && panel >= depth * width);
  // So few terms at a time that the panel's cache lines are still there for the next vector.
  constexpr int64_t kTerms = 64;
  float buffer[kTerms];
  for (int64_t p = first; p < end; ++p) {
    const int64_t filled = std::min(width, count - p * width);
    for (int64_t k = 0; k < depth; k += kTerms) {
      const int64_t terms = std::min(kTerms, depth - k);
      float* to = panels + p * panel + k * width;
      for (int64_t i = 0; i < filled; ++i) {
        const float* from = vectors.read(p * width + i, k, terms, buffer);
        for (int64_t t = 0; t < terms; ++t) to[t * width + i] = from[t];
      }
      for (int64_t i = filled; i < width; ++i) {
        for (int64_t t = 0; t < terms; ++t) to[t * width + i] = 0;
      }
    }
  }
}

void packAcross(const Vectors& vectors, int64_t offset, int64_t count, int64_t depth, int64_t width, int64_t first,
                int64_t end, float* panels, int64_t panel) {
  FPL_ASSERT(offset >= 0 && first >= 0 && end <= ceilDiv(count, width) && panel >= depth * width);
  // Several panels at a time, as the elements of a vector that go there are neighbours.
  constexpr int64_t kElements = 512;
  float buffer[kElements];
  const int64_t step = kElements / width;
  FPL_ASSERT(step > 0);
  for (int64_t p = first; p < end; p += step) {
    const int64_t last = std::min(end, p + step);
    const int64_t elements = std::min(last * width, count) - p * width;
    for (int64_t k = 0; k < depth; ++k) {
      const float* from = vectors.read(k, offset + p * width, elements, buffer);
      for (int64_t q = p; q < last; ++q) {
        float* to = panels + q * panel + k * width;
        const int64_t filled = std::min(width, count - q * width);
        memcpy(to, from + (q - p) * width, filled * sizeof(float));
        for (int64_t i = filled; i < width; ++i) to[i] = 0;
      }
    }
  }
}

}  // namespace fpl
