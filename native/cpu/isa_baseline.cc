// The kernels for any x86-64 CPU: SSE2, which has neither a fused multiply-add nor half-precision conversions. Its
// products are rounded before they are added, so its last bits may differ from those of the other instruction sets.
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <emmintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace fpl {
namespace baseline {
namespace {

struct F32 {
  static constexpr bool kFused = false, kStreams = true;
  static constexpr int64_t kWidth = 4;
  static constexpr int32_t kSteps = 1;
  static constexpr int64_t kMicroRows = 4, kMicroVectors = 2;
  __m128 v;
};
struct F64 {
  __m128d v;
};

inline F32 set1(float x) { return {_mm_set1_ps(x)}; }
inline F32 add(F32 a, F32 b) { return {_mm_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm_sub_ps(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm_mul_ps(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {_mm_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm_add_ps(_mm_mul_ps(a.v, b.v), c.v)}; }
// The instruction gives its second operand when either is NaN.
inline F32 maxKeepNan(F32 x, F32 y) { return {_mm_max_ps(y.v, x.v)}; }
inline F32 minKeepNan(F32 x, F32 y) { return {_mm_min_ps(y.v, x.v)}; }
inline F32 maxSkipNan(F32 x, F32 y) { return {_mm_max_ps(x.v, y.v)}; }
inline __m128i asInts(F32 x) { return _mm_castps_si128(x.v); }
inline F32 asFloats(__m128i bits) { return {_mm_castsi128_ps(bits)}; }
inline F32 orBits(F32 a, F32 b) { return {_mm_or_ps(a.v, b.v)}; }
inline F32 andBits(F32 a, F32 b) { return {_mm_and_ps(a.v, b.v)}; }
inline F32 addBits(F32 a, F32 b) { return asFloats(_mm_add_epi32(asInts(a), asInts(b))); }
template <int kBits>
inline F32 bitsUp(F32 x) {
  return asFloats(_mm_slli_epi32(asInts(x), kBits));
}
template <int kBits>
inline F32 bitsDown(F32 x) {
  return asFloats(_mm_srli_epi32(asInts(x), kBits));
}

inline F32 interleaveLow(F32 a, F32 b) { return {_mm_unpacklo_ps(a.v, b.v)}; }
inline F32 interleaveHigh(F32 a, F32 b) { return {_mm_unpackhi_ps(a.v, b.v)}; }

// The one power 2^0.
struct Steps {
  explicit Steps(const float* powers) : power(set1(powers[0])) {}
  F32 at(F32) const { return power; }
  F32 power;
};

inline F64 set1Double(double x) { return {_mm_set1_pd(x)}; }
inline F64 addDouble(F64 a, F64 b) { return {_mm_add_pd(a.v, b.v)}; }
inline F64 loadDoubles(const float* p) {
  return {_mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
inline F64 mulDouble(F64 a, F64 b) { return {_mm_mul_pd(a.v, b.v)}; }
inline void storeDoubles(double* p, F64 x) { _mm_storeu_pd(p, x.v); }

inline F32 load(const float* p) { return {_mm_loadu_ps(p)}; }

// The conversion of core/dtypes.h, four at a time.
inline F32 load(const Float16* p) {
  const __m128i half = _mm_unpacklo_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), _mm_setzero_si128());
  const __m128i magnitude = _mm_and_si128(half, _mm_set1_epi32(0x7fff));
  const __m128i sign = _mm_slli_epi32(_mm_xor_si128(half, magnitude), 16);
  // With the exponent field as it is, the value is 2^-112 times what it should be, a subnormal one's too.
  const __m128 finite = _mm_mul_ps(_mm_castsi128_ps(_mm_slli_epi32(magnitude, 13)), _mm_set1_ps(0x1p112f));
  const __m128i isInfinite = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x7bff));
  const __m128i infinity = _mm_and_si128(isInfinite, _mm_set1_epi32(0x7f800000));
  return asFloats(_mm_or_si128(_mm_or_si128(_mm_castps_si128(finite), infinity), sign));
}

inline F32 load(const BFloat16* p) {
  return asFloats(_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

inline void store(float* p, F32 x) { _mm_storeu_ps(p, x.v); }
inline void store(Float16* p, F32 x) {
  float lanes[4];
  _mm_storeu_ps(lanes, x.v);
  for (int i = 0; i < 4; ++i) fromFloat(lanes[i], p[i]);
}
inline void storeUpper(BFloat16* p, F32 x) {
  const __m128i upper = _mm_srai_epi32(asInts(x), 16);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi32(upper, upper));
}

// Stores past the cache. Half precision, which is converted one by one, is too slow to gain by that, and half a vector
// of bfloat16 has no such instruction. `drain` orders them before the thread's next memory accesses.
inline void stream(float* p, F32 x) { _mm_stream_ps(p, x.v); }
inline void stream(Float16* p, F32 x) { store(p, x); }
inline void streamUpper(BFloat16* p, F32 x) { storeUpper(p, x); }
inline void drain() { _mm_sfence(); }

#include "kernels.inl"

}  // namespace

const Kernels kKernels = FPL_KERNELS("baseline");

}  // namespace baseline
}  // namespace fpl
#endif
