#include "emulated_tiles.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "../../native/core/float_environment.h"

namespace fpl {
namespace emulated {
namespace {

struct F32 {
  static constexpr int64_t kWidth = 16, kMicroRows = 12, kMicroVectors = 2;
  float v[kWidth];
};

template <typename Work>
inline F32 each(const Work& work) {
  F32 out;
  for (int i = 0; i < 16; ++i) out.v[i] = work(i);
  return out;
}
template <typename Work>
inline F32 eachBits(const Work& work) {
  return each([&](int i) { return floatOf(work(i)); });
}
inline uint32_t bitsOf(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline F32 set1(float x) {
  return each([=](int) { return x; });
}
inline F32 sub(const F32& a, const F32& b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline F32 fma(const F32& a, const F32& b, const F32& c) {
  return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline F32 orBits(const F32& a, const F32& b) {
  return eachBits([&](int i) { return bitsOf(a.v[i]) | bitsOf(b.v[i]); });
}
inline F32 andBits(const F32& a, const F32& b) {
  return eachBits([&](int i) { return bitsOf(a.v[i]) & bitsOf(b.v[i]); });
}
inline F32 addBits(const F32& a, const F32& b) {
  return eachBits([&](int i) { return bitsOf(a.v[i]) + bitsOf(b.v[i]); });
}
template <int kBits>
inline F32 bitsUp(const F32& x) {
  return eachBits([&](int i) { return bitsOf(x.v[i]) << kBits; });
}
template <int kBits>
inline F32 bitsDown(const F32& x) {
  return eachBits([&](int i) { return bitsOf(x.v[i]) >> kBits; });
}
inline F32 interleaveLow(const F32& a, const F32& b) {
  return each([&](int i) { return i % 2 ? b.v[i / 2] : a.v[i / 2]; });
}
inline F32 interleaveHigh(const F32& a, const F32& b) {
  return each([&](int i) { return i % 2 ? b.v[8 + i / 2] : a.v[8 + i / 2]; });
}
template <typename T>
inline F32 load(const T* p) {
  return each([&](int i) { return toFloat(p[i]); });
}
template <typename T>
inline void store(T* p, const F32& x) {
  for (int i = 0; i < 16; ++i) fromFloat(x.v[i], p[i]);
}
template <typename T>
inline void stream(T* p, const F32& x) {
  store(p, x);
}
// Named by vectors.inl, and not called.
[[maybe_unused]] inline void storeUpper(BFloat16* p, const F32& x) { store(p, x); }
[[maybe_unused]] inline void streamUpper(BFloat16* p, const F32& x) { store(p, x); }

// clang-format off
#define FPL_EMULATED
constexpr int64_t kWidth = F32::kWidth;
constexpr int64_t kVectors = kLanes / kWidth;
#include "../../native/cpu/vectors.inl"
#include "../../native/cpu/pack.inl"
// clang-format on

class Tiles {
 public:
  void clearSums() { memset(sums_, 0, sizeof sums_); }
  void loadSums(const float* c, int64_t stride) {
    for (int64_t i = 0; i < kPanelOfTiles; ++i) memcpy(sums_[i], c + i * stride, sizeof sums_[i]);
  }
  void storeSums(float* c, int64_t stride) {
    for (int64_t i = 0; i < kPanelOfTiles; ++i) memcpy(c + i * stride, sums_[i], sizeof sums_[i]);
  }
  void loadLeft(const float* a) { memcpy(left_, a, sizeof left_); }
  void loadRight(const float* b) { memcpy(right_, b, sizeof right_); }
  void addProducts() {
    for (int64_t i = 0; i < kPanelOfTiles; ++i) {
      for (int64_t j = 0; j < kPanelOfTiles; ++j) {
        sums_[i][j] = sumOfStep(left_[i], right_[j / kWidth] + j % kWidth, kWidth, sums_[i][j]);
      }
    }
  }

 private:
  float sums_[kPanelOfTiles][kPanelOfTiles];
  uint32_t left_[kPanelOfTiles][kWidth], right_[2][kFloatsOfTile];
};

// clang-format off
#include "../../native/cpu/tiles.inl"
// clang-format on

}  // namespace

const TileKernels kTiles = FPL_TILES;

}  // namespace emulated
}  // namespace fpl
