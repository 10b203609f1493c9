#include "panels.h"

#include <algorithm>

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

void Vectors::copy(int64_t i, int64_t first, int64_t count, float* to) const {
  const float* const values = read(i, first, count, to);
  if (values != to) std::copy_n(values, count, to);
}

}  // namespace fpl
