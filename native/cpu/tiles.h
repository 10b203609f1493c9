// Products of bfloat16 matrices on AMX's tiles, which are 16 rows of 64 bytes. An instruction multiplies a tile of a
// left factor a(i, k) by one of a right factor b(k, j), 32 terms k at a time: a *step*. In a step it makes two sums,
// each a chain of 16 fused multiply-adds that begins with 0, adds one sum to the other, and that to the result. It
// takes subnormal numbers for zeros and makes none.
//
// Factors are packed in panels of 32 rows (or columns). A panel holds, step by step, two tiles for 16 of its rows each,
// whose 32-bit elements are pairs of terms: term k of the step in the lower half, term k + 16 in the upper one. So the
// first chain has the terms 0 to 15 of a step, and the second the others, in their order. The last panel and the last
// step are filled up with zeros.
//
// A factor of float32 numbers is split into three of bfloat16, whose sum it is: the products of all three are added in
// each step, those of the largest first.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels.h"

namespace fpl {

constexpr int64_t kStepOfTiles = 32, kPanelOfTiles = 32;
constexpr int64_t kFloatsOfTile = 256;

// What a factor consists of.
enum class TileTerms { kBFloat16, kSplit, kRounded };  // bfloat16; float32 in three terms, and in one

constexpr int64_t termsOf(TileTerms terms) { return terms == TileTerms::kSplit ? 3 : 1; }

// Elements of a panel.
constexpr int64_t panelOfTiles(int64_t depth, TileTerms terms) {
  return ceilDiv(depth, kStepOfTiles) * termsOf(terms) * 2 * kFloatsOfTile;
}

// c(i, j) = Σ_k a(i, k) · b(k, j) over k in [0, depth), added to c when `add` is set. Element (i, j) of c is at
// i·stride + j. One factor at most is split.
struct TileProduct {
  const float *a, *b;
  int64_t panelOfA, panelOfB;  // elements from panel to panel
  TileTerms termsOfA, termsOfB;
  int64_t rows, columns, depth;
  float* c;
  int64_t stride;
  bool add;
};

struct TileKernels {
  // Packs panels first .. end of a factor that has `count` rows (or columns) and `depth` terms. `along`: vector i is
  // row i of the factor, else vector k has term k of all rows, as in Kernels. Indexed by TileTerms.
  void (*packLeft[3])(const Vectors&, bool along, int64_t count, int64_t depth, int64_t first, int64_t end,
                      float* panels);
  void (*packRight[3])(const Vectors&, bool along, int64_t count, int64_t depth, int64_t first, int64_t end,
                       float* panels);
  void (*multiply)(const TileProduct&);
  bool (*works)();  // whether the instruction does what sumOfStep says
};

// Those of AMX, or null and why. The first call asks the system to let this process use tiles.
const TileKernels* amxTiles(const char** problem = nullptr);

// Subnormal numbers are zeros.
inline float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// sum + Σ a · b over the terms of a step, as the instruction adds them.
inline float sumOfStep(const uint32_t* a, const uint32_t* b, int64_t strideOfB, float sum) {
  float chains[2] = {0, 0};
  for (int half = 0; half < 2; ++half) {
    for (int64_t k = 0; k < kStepOfTiles / 2; ++k) {
      const auto term = [&](uint32_t pair) { return flushed(floatOf(half ? pair & 0xffff0000u : pair << 16)); };
      chains[half] = flushed(std::fma(term(a[k]), term(b[k * strideOfB]), chains[half]));
    }
  }
  return flushed(flushed(sum) + flushed(chains[0] + chains[1]));
}

#if defined(__x86_64__) && defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define FPL_AMX
namespace amx {
extern const TileKernels kTiles;
}
#endif

}  // namespace fpl
