// The element types of logits and their exact conversions, one element at a time. The kernels have conversions of whole
// vectors.
#pragma once

#include <cstdint>
#include <cstring>

#include "platform.h"

namespace fpl {

enum class DType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

// Storage types. They are distinct types, so that overloads choose the conversion.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename T>
constexpr DType kDTypeOf = DType::kFloat32;
template <>
constexpr DType kDTypeOf<Float16> = DType::kFloat16;
template <>
constexpr DType kDTypeOf<BFloat16> = DType::kBFloat16;

inline int64_t elementSize(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

FPL_HD inline uint32_t bitsOf(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FPL_HD inline float floatOf(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

FPL_HD inline float toFloat(float value) { return value; }

FPL_HD inline float toFloat(BFloat16 value) { return floatOf(uint32_t(value.bits) << 16); }

FPL_HD inline float toFloat(Float16 value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return floatOf(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // infinity, NaN
  // A subnormal half is its magnitude times 2^-24; float32 holds that exactly.
  if (magnitude < 0x400u) return floatOf(sign | bitsOf(float(magnitude) * 0x1p-24f));
  return floatOf(sign | ((magnitude << 13) + (112u << 23)));
}

// From float32, rounded to nearest even.
FPL_HD inline void fromFloat(float value, float& out) { out = value; }

FPL_HD inline void fromFloat(float value, BFloat16& out) {
  const uint32_t bits = bitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    out.bits = uint16_t(bits >> 16 | 0x40u);  // keep NaN a NaN: rounding could carry it into infinity
  } else {
    out.bits = uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}

FPL_HD inline void fromFloat(float value, Float16& out) {
  const uint32_t bits = bitsOf(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // 65520 and above rounds to infinity
  } else if (magnitude < 0x38800000u) {
    // Below the smallest normal half: adding 0.5 lets the float32 adder round to a multiple of 2^-24.
    half = bitsOf(floatOf(magnitude) + 0.5f) - bitsOf(0.5f);
  } else {
    half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  }
  out.bits = uint16_t(sign | half);
}

}  // namespace fpl
