// The kernels for AVX2 + FMA + F16C. Only this file's own code is compiled for them. Everything from the standard
// library and from core is included before the target is switched, so that no inline function that others share has
// AVX2 code.
#include "intrinsics.h"
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace fpl {
namespace avx2 {
namespace {

struct F32 {
  static constexpr bool kFused = true, kStreams = true;
  static constexpr int64_t kWidth = 8;
  static constexpr int32_t kSteps = 8;
  static constexpr int64_t kMicroRows = 6, kMicroVectors = 2;
  __m256 v;
};
struct F64 {
  __m256d v;
};

inline F32 set1(float x) { return {_mm256_set1_ps(x)}; }
inline F32 add(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// The instruction gives its second operand when either is NaN.
inline F32 maxKeepNan(F32 x, F32 y) { return {_mm256_max_ps(y.v, x.v)}; }
inline F32 minKeepNan(F32 x, F32 y) { return {_mm256_min_ps(y.v, x.v)}; }
inline F32 maxSkipNan(F32 x, F32 y) { return {_mm256_max_ps(x.v, y.v)}; }
inline __m256i asInts(F32 x) { return _mm256_castps_si256(x.v); }
inline F32 asFloats(__m256i bits) { return {_mm256_castsi256_ps(bits)}; }
inline F32 orBits(F32 a, F32 b) { return {_mm256_or_ps(a.v, b.v)}; }
inline F32 andBits(F32 a, F32 b) { return {_mm256_and_ps(a.v, b.v)}; }
inline F32 addBits(F32 a, F32 b) { return asFloats(_mm256_add_epi32(asInts(a), asInts(b))); }
template <int kBits>
inline F32 bitsUp(F32 x) {
  return asFloats(_mm256_slli_epi32(asInts(x), kBits));
}
template <int kBits>
inline F32 bitsDown(F32 x) {
  return asFloats(_mm256_srli_epi32(asInts(x), kBits));
}

// Of each half of the lanes by itself, and then the halves joined.
template <int kHalves>
inline F32 interleave(F32 a, F32 b) {
  return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), kHalves)};
}
inline F32 interleaveLow(F32 a, F32 b) { return interleave<0x20>(a, b); }
inline F32 interleaveHigh(F32 a, F32 b) { return interleave<0x31>(a, b); }

struct Steps {
  explicit Steps(const float* powers) : powers(_mm256_loadu_ps(powers)) {}
  F32 at(F32 n) const { return {_mm256_permutevar8x32_ps(powers, asInts(n))}; }
  __m256 powers;
};

inline F64 set1Double(double x) { return {_mm256_set1_pd(x)}; }
inline F64 addDouble(F64 a, F64 b) { return {_mm256_add_pd(a.v, b.v)}; }
inline F64 loadDoubles(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
inline F64 mulDouble(F64 a, F64 b) { return {_mm256_mul_pd(a.v, b.v)}; }
inline void storeDoubles(double* p, F64 x) { _mm256_storeu_pd(p, x.v); }

inline __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline F32 load(const Float16* p) { return {_mm256_cvtph_ps(load128(p))}; }
inline F32 load(const BFloat16* p) { return bitsUp<16>(asFloats(_mm256_cvtepu16_epi32(load128(p)))); }

inline void store(float* p, F32 x) { _mm256_storeu_ps(p, x.v); }
inline void store(Float16* p, F32 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline __m128i upperHalvesOf(F32 x) {
  const __m256i upper = _mm256_srai_epi32(asInts(x), 16);
  return _mm_packs_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
}
inline void storeUpper(BFloat16* p, F32 x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), upperHalvesOf(x)); }

// Stores past the cache. `drain` orders them before the thread's next memory accesses.
inline void stream(float* p, F32 x) { _mm256_stream_ps(p, x.v); }
inline void stream(Float16* p, F32 x) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline void streamUpper(BFloat16* p, F32 x) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), upperHalvesOf(x)); }
inline void drain() { _mm_sfence(); }

#include "kernels.inl"

}  // namespace

const Kernels kKernels = FPL_KERNELS("avx2");

}  // namespace avx2
}  // namespace fpl

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif
