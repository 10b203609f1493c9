// AVX-512 on a machine that has AVX2: SIMDe, and what it lacks, by halves.
#pragma once

#define FPL_EMULATED

#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

#include <cstring>

namespace emulated {

// A 512-bit vector of two halves, and the halves of one.
template <typename Whole, typename Half>
inline Whole join(Half low, Half high) {
  Whole whole;
  memcpy(&whole, &low, sizeof low);
  memcpy(reinterpret_cast<char*>(&whole) + sizeof low, &high, sizeof high);
  return whole;
}
template <typename Half, typename Whole>
inline Half half(Whole whole, int which) {
  Half out;
  memcpy(&out, reinterpret_cast<char*>(&whole) + which * sizeof out, sizeof out);
  return out;
}

inline __m512d cvtps_pd(__m256 x) {
  return join<__m512d>(_mm256_cvtps_pd(half<__m128>(x, 0)), _mm256_cvtps_pd(half<__m128>(x, 1)));
}
inline __m512 cvtph_ps(__m256i x) {
  return join<__m512>(_mm256_cvtph_ps(half<__m128i>(x, 0)), _mm256_cvtph_ps(half<__m128i>(x, 1)));
}
inline __m512i cvtepu16_epi32(__m256i x) {
  return join<__m512i>(_mm256_cvtepu16_epi32(half<__m128i>(x, 0)), _mm256_cvtepu16_epi32(half<__m128i>(x, 1)));
}
template <int kRounding>
inline __m256i cvtps_ph(__m512 x) {
  return join<__m256i>(_mm256_cvtps_ph(half<__m256>(x, 0), kRounding), _mm256_cvtps_ph(half<__m256>(x, 1), kRounding));
}
inline __m256i cvtepi32_epi16(__m512i x) {
  int32_t wide[16];
  int16_t narrow[16];
  memcpy(wide, &x, sizeof wide);
  for (int i = 0; i < 16; ++i) narrow[i] = int16_t(wide[i]);
  __m256i out;
  memcpy(&out, narrow, sizeof out);
  return out;
}
inline void stream_ps(void* p, __m512 x) { memcpy(p, &x, sizeof x); }

}  // namespace emulated

#define _mm512_cvtps_pd emulated::cvtps_pd
#define _mm512_cvtph_ps emulated::cvtph_ps
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtps_ph(x, rounding) emulated::cvtps_ph<rounding>(x)
#define _mm512_cvtepi32_epi16 emulated::cvtepi32_epi16
#define _mm512_extractf32x8_ps(x, which) emulated::half<__m256>(x, which)
#define _mm512_stream_ps emulated::stream_ps
