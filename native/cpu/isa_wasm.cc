// The kernels for WebAssembly's vectors of 128 bits, which have neither a fused multiply-add nor half-precision
// conversions. Their results have the bits of the baseline's.
#include "kernels.h"

#if defined(__wasm_simd128__)
#include <wasm_simd128.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace fpl {
namespace wasm {
namespace {

struct F32 {
  static constexpr bool kFused = false, kStreams = false;
  static constexpr int64_t kWidth = 4;
  static constexpr int32_t kSteps = 1;
  static constexpr int64_t kMicroRows = 4, kMicroVectors = 2;
  v128_t v;
};
struct F64 {
  v128_t v;
};

inline F32 set1(float x) { return {wasm_f32x4_splat(x)}; }
inline F32 add(F32 a, F32 b) { return {wasm_f32x4_add(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {wasm_f32x4_sub(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {wasm_f32x4_mul(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {wasm_f32x4_div(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {wasm_f32x4_add(wasm_f32x4_mul(a.v, b.v), c.v)}; }
// pmax(a, b) is a < b ? b : a, and pmin likewise.
inline F32 maxKeepNan(F32 x, F32 y) { return {wasm_f32x4_pmax(x.v, y.v)}; }
inline F32 minKeepNan(F32 x, F32 y) { return {wasm_f32x4_pmin(x.v, y.v)}; }
inline F32 maxSkipNan(F32 x, F32 y) { return {wasm_f32x4_pmax(y.v, x.v)}; }
inline F32 orBits(F32 a, F32 b) { return {wasm_v128_or(a.v, b.v)}; }
inline F32 andBits(F32 a, F32 b) { return {wasm_v128_and(a.v, b.v)}; }
inline F32 addBits(F32 a, F32 b) { return {wasm_i32x4_add(a.v, b.v)}; }
template <int kBits>
inline F32 bitsUp(F32 x) {
  return {wasm_i32x4_shl(x.v, kBits)};
}
template <int kBits>
inline F32 bitsDown(F32 x) {
  return {wasm_u32x4_shr(x.v, kBits)};
}

inline F32 interleaveLow(F32 a, F32 b) { return {wasm_i32x4_shuffle(a.v, b.v, 0, 4, 1, 5)}; }
inline F32 interleaveHigh(F32 a, F32 b) { return {wasm_i32x4_shuffle(a.v, b.v, 2, 6, 3, 7)}; }

// The one power 2^0.
struct Steps {
  explicit Steps(const float* powers) : power(set1(powers[0])) {}
  F32 at(F32) const { return power; }
  F32 power;
};

inline F64 set1Double(double x) { return {wasm_f64x2_splat(x)}; }
inline F64 addDouble(F64 a, F64 b) { return {wasm_f64x2_add(a.v, b.v)}; }
inline F64 mulDouble(F64 a, F64 b) { return {wasm_f64x2_mul(a.v, b.v)}; }
inline F64 loadDoubles(const float* p) { return {wasm_f64x2_promote_low_f32x4(wasm_v128_load64_zero(p))}; }
inline void storeDoubles(double* p, F64 x) { wasm_v128_store(p, x.v); }

inline F32 load(const float* p) { return {wasm_v128_load(p)}; }

// The conversions of core/dtypes.h, four at a time.
inline F32 load(const Float16* p) {
  const v128_t half = wasm_u32x4_load16x4(p);
  const v128_t sign = wasm_i32x4_shl(wasm_v128_and(half, wasm_i32x4_splat(0x8000)), 16);
  const v128_t magnitude = wasm_v128_and(half, wasm_i32x4_splat(0x7fff));
  // With the exponent field as it is, the value is 2^-112 times what it should be, a subnormal one's too.
  const v128_t finite = wasm_f32x4_mul(wasm_i32x4_shl(magnitude, 13), wasm_f32x4_splat(0x1p112f));
  const v128_t isInfinite = wasm_u32x4_ge(magnitude, wasm_i32x4_splat(0x7c00));
  const v128_t infinity = wasm_v128_and(isInfinite, wasm_i32x4_splat(0x7f800000));
  return {wasm_v128_or(wasm_v128_or(finite, infinity), sign)};
}

inline F32 load(const BFloat16* p) { return {wasm_i32x4_shl(wasm_u32x4_load16x4(p), 16)}; }

inline void store(float* p, F32 x) { wasm_v128_store(p, x.v); }

inline void store(Float16* p, F32 x) {
  const v128_t sign = wasm_v128_and(wasm_u32x4_shr(x.v, 16), wasm_i32x4_splat(0x8000));
  const v128_t magnitude = wasm_v128_and(x.v, wasm_i32x4_splat(0x7fffffff));
  const v128_t odd = wasm_v128_and(wasm_u32x4_shr(magnitude, 13), wasm_i32x4_splat(1));
  const v128_t rounded = wasm_i32x4_add(magnitude, wasm_i32x4_add(odd, wasm_i32x4_splat(0xfff - (112 << 23))));
  v128_t half = wasm_u32x4_shr(rounded, 13);
  const v128_t subnormal = wasm_i32x4_sub(wasm_f32x4_add(magnitude, wasm_f32x4_splat(0.5f)), wasm_f32x4_splat(0.5f));
  half = wasm_v128_bitselect(subnormal, half, wasm_i32x4_lt(magnitude, wasm_i32x4_splat(0x38800000)));
  half = wasm_v128_bitselect(wasm_i32x4_splat(0x7c00), half, wasm_i32x4_ge(magnitude, wasm_i32x4_splat(0x477ff000)));
  const v128_t payload = wasm_v128_and(wasm_u32x4_shr(magnitude, 13), wasm_i32x4_splat(0x3ff));
  half = wasm_v128_bitselect(wasm_v128_or(payload, wasm_i32x4_splat(0x7e00)), half,
                             wasm_i32x4_gt(magnitude, wasm_i32x4_splat(0x7f800000)));
  half = wasm_v128_or(half, sign);
  wasm_v128_store64_lane(p, wasm_u16x8_narrow_i32x4(half, half), 0);
}

inline void storeUpper(BFloat16* p, F32 x) {
  const v128_t upper = wasm_u32x4_shr(x.v, 16);
  wasm_v128_store64_lane(p, wasm_u16x8_narrow_i32x4(upper, upper), 0);
}

// There is no store past the cache.
template <typename T>
inline void stream(T* p, F32 x) {
  store(p, x);
}
inline void streamUpper(BFloat16* p, F32 x) { storeUpper(p, x); }
inline void drain() {}

#include "kernels.inl"

}  // namespace

const Kernels kKernels = FPL_KERNELS("wasm");

}  // namespace wasm
}  // namespace fpl
#endif
