// The vectors of the sets that have AVX-512 (F, BW, DQ, VL).

struct F32 {
  static constexpr bool kFused = true, kStreams = true;
  static constexpr int64_t kWidth = 16;
  static constexpr int32_t kSteps = 8;
  static constexpr int64_t kMicroRows = 12, kMicroVectors = 2;
  __m512 v;
};
struct F64 {
  __m512d v;
};

inline F32 set1(float x) { return {_mm512_set1_ps(x)}; }
inline F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// The instruction gives its second operand when either is NaN.
inline F32 maxKeepNan(F32 x, F32 y) { return {_mm512_max_ps(y.v, x.v)}; }
inline F32 minKeepNan(F32 x, F32 y) { return {_mm512_min_ps(y.v, x.v)}; }
inline F32 maxSkipNan(F32 x, F32 y) { return {_mm512_max_ps(x.v, y.v)}; }
inline __m512i asInts(F32 x) { return _mm512_castps_si512(x.v); }
inline F32 asFloats(__m512i bits) { return {_mm512_castsi512_ps(bits)}; }
inline F32 orBits(F32 a, F32 b) { return {_mm512_or_ps(a.v, b.v)}; }
inline F32 andBits(F32 a, F32 b) { return {_mm512_and_ps(a.v, b.v)}; }
inline F32 addBits(F32 a, F32 b) { return asFloats(_mm512_add_epi32(asInts(a), asInts(b))); }
template <int kBits>
inline F32 bitsUp(F32 x) {
  return asFloats(_mm512_slli_epi32(asInts(x), kBits));
}
template <int kBits>
inline F32 bitsDown(F32 x) {
  return asFloats(_mm512_srli_epi32(asInts(x), kBits));
}

inline F32 interleaveLow(F32 a, F32 b) {
  const __m512i places = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return {_mm512_permutex2var_ps(a.v, places, b.v)};
}
inline F32 interleaveHigh(F32 a, F32 b) {
  const __m512i places = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return {_mm512_permutex2var_ps(a.v, places, b.v)};
}

// The powers twice: an index has four bits.
struct Steps {
  explicit Steps(const float* powers) : powers(_mm512_broadcast_f32x8(_mm256_loadu_ps(powers))) {}
  F32 at(F32 n) const { return {_mm512_permutexvar_ps(asInts(n), powers)}; }
  __m512 powers;
};

inline F64 set1Double(double x) { return {_mm512_set1_pd(x)}; }
inline F64 addDouble(F64 a, F64 b) { return {_mm512_add_pd(a.v, b.v)}; }
inline F64 loadDoubles(const float* p) { return {_mm512_cvtps_pd(_mm256_loadu_ps(p))}; }
inline F64 mulDouble(F64 a, F64 b) { return {_mm512_mul_pd(a.v, b.v)}; }
inline void storeDoubles(double* p, F64 x) { _mm512_storeu_pd(p, x.v); }

inline __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline F32 load(const Float16* p) { return {_mm512_cvtph_ps(load256(p))}; }
inline F32 load(const BFloat16* p) { return bitsUp<16>(asFloats(_mm512_cvtepu16_epi32(load256(p)))); }

inline void store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
inline void store(Float16* p, F32 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline __m256i upperHalvesOf(F32 x) { return _mm512_cvtepi32_epi16(asInts(bitsDown<16>(x))); }
inline void storeUpper(BFloat16* p, F32 x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), upperHalvesOf(x)); }

// Stores past the cache. `drain` orders them before the thread's next memory accesses.
inline void stream(float* p, F32 x) { _mm512_stream_ps(p, x.v); }
inline void stream(Float16* p, F32 x) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline void streamUpper(BFloat16* p, F32 x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), upperHalvesOf(x)); }
inline void drain() { _mm_sfence(); }
