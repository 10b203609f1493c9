// Vectors of logits: how they are loaded and stored, and which lanes a vector has.

// The same 32 bits in every lane.
inline F32 set1Bits(uint32_t bits) { return set1(floatOf(bits)); }

// Keeps four vectors in step. It is no code. A compiler that would rather finish one vector after the other has to have
// all four before it goes on.
inline void inStep(F32 (&x)[4]) {
#if defined(FPL_EMULATED)
  (void)x;  // not registers
#elif defined(__x86_64__)
  __asm__("" : "+v"(x[0].v), "+v"(x[1].v), "+v"(x[2].v), "+v"(x[3].v));
#elif defined(__aarch64__)
  __asm__("" : "+w"(x[0].v), "+w"(x[1].v), "+w"(x[2].v), "+w"(x[3].v));
#else
  (void)x;
#endif
}

// p·x + c of each.
inline void multiplyAdd(F32 (&p)[4], const F32 (&x)[4], F32 c) {
  for (int k = 0; k < 4; ++k) p[k] = fma(p[k], x[k], c);
  inStep(p);
}

// bfloat16 is loaded and stored in pairs. 32 bits hold an even element in their lower half and an odd one in their
// upper half. A shift makes a float of the one and a mask makes a float of the other, so a load gives two vectors: the
// even elements and the odd ones.
inline F32 upperHalves() { return set1Bits(0xffff0000u); }

inline void loadPairs(const BFloat16* p, F32& even, F32& odd) {
  const F32 pairs = load(reinterpret_cast<const float*>(p));
  even = bitsUp<16>(pairs);
  odd = andBits(pairs, upperHalves());
}

// Rounded to nearest even, in the upper half of the bits; x is not NaN.
inline F32 roundToBFloat16(F32 x) {
  const F32 odd = andBits(bitsDown<16>(x), set1Bits(1));
  return addBits(addBits(x, set1Bits(0x7fff)), odd);
}

inline F32 toPairs(F32 even, F32 odd) {
  return orBits(bitsDown<16>(roundToBFloat16(even)), andBits(roundToBFloat16(odd), upperHalves()));
}

// Which lanes vector v has: kWidth neighbours. Where it takes several vectors to hold all lanes, bfloat16 comes in
// pairs: then two vectors share 2 · kWidth neighbours, and one has the even lanes and the other the odd ones.
template <typename T>
constexpr bool kLanesInPairs = false;
template <>
constexpr bool kLanesInPairs<BFloat16> = kVectors > 1;

template <typename T>
inline int64_t laneOf(int64_t v, int64_t i) {
  return kLanesInPairs<T> ? v / 2 * (2 * kWidth) + 2 * i + v % 2 : v * kWidth + i;
}

template <int64_t v, typename T>
inline F32 loadLanes(const T* lanes) {
  if constexpr (kLanesInPairs<T>) {
    F32 even, odd;
    loadPairs(lanes + v / 2 * (2 * kWidth), even, odd);
    return v % 2 ? odd : even;
  } else {
    return load(lanes + v * kWidth);
  }
}

// work(v) for each vector of a tile's lanes, v a constant.
template <typename Work, int64_t... v>
inline void forEachOf(const Work& work, std::integer_sequence<int64_t, v...>) {
  (work(std::integral_constant<int64_t, v>()), ...);
}
template <typename Work>
inline void forEachVector(const Work& work) {
  forEachOf(work, std::make_integer_sequence<int64_t, kVectors>());
}

// Four vectors of neighbours. putFour stores them in the order in which loadFour loads them; none of them may be NaN.
template <typename T>
inline void loadFour(const T* p, F32 (&x)[4]) {
  for (int k = 0; k < 4; ++k) x[k] = load(p + k * kWidth);
}
inline void loadFour(const BFloat16* p, F32 (&x)[4]) {
  for (int k = 0; k < 4; k += 2) loadPairs(p + k * kWidth, x[k], x[k + 1]);
}

template <bool kStream, typename T>
inline void putFour(T* p, const F32 (&x)[4]) {
  for (int k = 0; k < 4; ++k) kStream ? stream(p + k * kWidth, x[k]) : store(p + k * kWidth, x[k]);
}
template <bool kStream>
inline void putFour(BFloat16* p, const F32 (&x)[4]) {
  for (int k = 0; k < 4; k += 2) {
    float* const at = reinterpret_cast<float*>(p + k * kWidth);
    const F32 pairs = toPairs(x[k], x[k + 1]);
    kStream ? stream(at, pairs) : store(at, pairs);
  }
}

// The same in the order of the elements, where what is loaded and what is stored differ in type. None may be NaN.
template <typename T>
inline void loadInOrder(const T* p, F32 (&x)[4]) {
  for (int k = 0; k < 4; ++k) x[k] = load(p + k * kWidth);
}

template <bool kStream, typename T>
inline void putInOrder(T* p, const F32 (&x)[4]) {
  putFour<kStream>(p, x);
}
template <bool kStream>
inline void putInOrder(BFloat16* p, const F32 (&x)[4]) {
  for (int k = 0; k < 4; ++k) {
    const F32 rounded = roundToBFloat16(x[k]);
    kStream ? streamUpper(p + k * kWidth, rounded) : storeUpper(p + k * kWidth, rounded);
  }
}

// A module of WebAssembly is downloaded, so it has less code: there the larger kernels are those of float32, and logits
// of 16 bits go by way of float32, in parts that stay in the first-level cache.
#if defined(__wasm__)
constexpr bool kIsDownloaded = true;
#else
constexpr bool kIsDownloaded = false;
#endif
template <typename T>
constexpr bool kByWayOfFloats = kIsDownloaded && !std::is_same_v<T, float>;

// None of them may be NaN, unless U is float.
template <typename T, typename U>
FPL_SELDOM void convert(const T* from, int64_t count, U* to) {
  int64_t i = 0;
  for (; i + 4 * kWidth <= count; i += 4 * kWidth) {
    F32 x[4];
    loadInOrder(from + i, x);
    putInOrder<false>(to + i, x);
  }
  for (; i < count; ++i) fromFloat(toFloat(from[i]), to[i]);
}

inline void prefetchLine(const void* p) {
#if defined(_MSC_VER) && !defined(__clang__)
#if defined(_M_X64)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#else
  __prefetch(p);
#endif
#else
  __builtin_prefetch(p);
#endif
}

// Fetches logits ahead of the loop. The hardware's own prefetcher stays so close before the loop that a core waits for
// memory a third of the time. Behind the end of a row lies the next row; behind the last row, a prefetch has no effect.
constexpr int64_t kAhead = 4096;  // bytes

template <typename T>
inline void prefetch(const T* p, int64_t count) {
  const char* at = reinterpret_cast<const char*>(p) + kAhead;
  for (const char* end = at + count * int64_t(sizeof(T)); at < end; at += 64) prefetchLine(at);
}
