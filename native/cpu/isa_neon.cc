// The kernels for NEON, which every 64-bit Arm CPU has.
#include "kernels.h"

#if defined(__aarch64__) || defined(_M_ARM64)
#include <arm_neon.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace fpl {
namespace neon {
namespace {

struct F32 {
  static constexpr bool kFused = true, kStreams = false;
  static constexpr int64_t kWidth = 4;
  static constexpr int32_t kSteps = 8;
  static constexpr int64_t kMicroRows = 8, kMicroVectors = 2;
  float32x4_t v;
};
struct F64 {
  float64x2_t v;
};

inline F32 set1(float x) { return {vdupq_n_f32(x)}; }
inline F32 add(F32 a, F32 b) { return {vaddq_f32(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {vsubq_f32(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {vmulq_f32(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {vdivq_f32(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline F32 maxKeepNan(F32 x, F32 y) { return {vmaxq_f32(x.v, y.v)}; }
inline F32 minKeepNan(F32 x, F32 y) { return {vminq_f32(x.v, y.v)}; }
inline F32 maxSkipNan(F32 x, F32 y) { return {vmaxnmq_f32(x.v, y.v)}; }
inline uint32x4_t asInts(F32 x) { return vreinterpretq_u32_f32(x.v); }
inline F32 asFloats(uint32x4_t bits) { return {vreinterpretq_f32_u32(bits)}; }
inline F32 orBits(F32 a, F32 b) { return asFloats(vorrq_u32(asInts(a), asInts(b))); }
inline F32 andBits(F32 a, F32 b) { return asFloats(vandq_u32(asInts(a), asInts(b))); }
inline F32 addBits(F32 a, F32 b) { return asFloats(vaddq_u32(asInts(a), asInts(b))); }
template <int kBits>
inline F32 bitsUp(F32 x) {
  return asFloats(vshlq_n_u32(asInts(x), kBits));
}
template <int kBits>
inline F32 bitsDown(F32 x) {
  return asFloats(vshrq_n_u32(asInts(x), kBits));
}

inline F32 interleaveLow(F32 a, F32 b) { return {vzip1q_f32(a.v, b.v)}; }
inline F32 interleaveHigh(F32 a, F32 b) { return {vzip2q_f32(a.v, b.v)}; }

// The look-up goes by bytes: those of power i are 4i … 4i + 3.
struct Steps {
  explicit Steps(const float* powers) : bytes{{bytesOf(powers), bytesOf(powers + 4)}} {}
  F32 at(F32 n) const {
    const uint32x4_t i = vandq_u32(asInts(n), vdupq_n_u32(7));
    const uint32x4_t places = vmlaq_u32(vdupq_n_u32(0x03020100), i, vdupq_n_u32(0x04040404));
    return {vreinterpretq_f32_u8(vqtbl2q_u8(bytes, vreinterpretq_u8_u32(places)))};
  }
  static uint8x16_t bytesOf(const float* p) { return vreinterpretq_u8_f32(vld1q_f32(p)); }
  uint8x16x2_t bytes;
};

inline F64 set1Double(double x) { return {vdupq_n_f64(x)}; }
inline F64 addDouble(F64 a, F64 b) { return {vaddq_f64(a.v, b.v)}; }
inline F64 loadDoubles(const float* p) { return {vcvt_f64_f32(vld1_f32(p))}; }
inline F64 mulDouble(F64 a, F64 b) { return {vmulq_f64(a.v, b.v)}; }
inline void storeDoubles(double* p, F64 x) { vst1q_f64(p, x.v); }

inline F32 load(const float* p) { return {vld1q_f32(p)}; }
inline F32 load(const Float16* p) {
  return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p))))};
}
inline F32 load(const BFloat16* p) { return asFloats(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p)), 16)); }

inline void store(float* p, F32 x) { vst1q_f32(p, x.v); }
inline void store(Float16* p, F32 x) {
  vst1_u16(reinterpret_cast<uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(x.v)));
}
inline void storeUpper(BFloat16* p, F32 x) { vst1_u16(reinterpret_cast<uint16_t*>(p), vshrn_n_u32(asInts(x), 16)); }

// NEON's intrinsics have no streaming store.
template <typename T>
inline void stream(T* p, F32 x) {
  store(p, x);
}
inline void streamUpper(BFloat16* p, F32 x) { storeUpper(p, x); }
inline void drain() {}

#include "kernels.inl"

}  // namespace

const Kernels kKernels = FPL_KERNELS("neon");

}  // namespace neon
}  // namespace fpl
#endif
