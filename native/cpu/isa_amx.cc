// Products on tiles for AMX. Vectors are AVX-512's, which every CPU with AMX has.
#include "intrinsics.h"
#include "tiles.h"

#if defined(FPL_AMX)
#include <cstring>
#include <type_traits>

#include "../core/float_environment.h"

#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

namespace fpl {
namespace amx {
namespace {

// clang-format off
#include "avx512.inl"
constexpr int64_t kWidth = F32::kWidth;
constexpr int64_t kVectors = kLanes / kWidth;
#include "vectors.inl"
#include "pack.inl"
// clang-format on

// Compilers may take it that the instructions that load tiles read no memory.
inline void writeMemory() { __asm__ volatile("" ::: "memory"); }

// The tiles of this thread, which are given back at the end: so long as they are in use, the system saves them.
class Tiles {
 public:
  Tiles() {
    struct {
      uint8_t palette = 1, startRow = 0, reserved[14] = {};
      uint16_t bytesOfRow[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } const shape;
    static_assert(sizeof shape == 64);
    writeMemory();
    _tile_loadconfig(&shape);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;

  void clearSums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  void loadSums(const float* c, int64_t stride) {
    writeMemory();
    _tile_loadd(0, c, stride * 4);
    _tile_loadd(1, c + 16, stride * 4);
    _tile_loadd(2, c + 16 * stride, stride * 4);
    _tile_loadd(3, c + 16 * stride + 16, stride * 4);
  }
  void storeSums(float* c, int64_t stride) {
    _tile_stored(0, c, stride * 4);
    _tile_stored(1, c + 16, stride * 4);
    _tile_stored(2, c + 16 * stride, stride * 4);
    _tile_stored(3, c + 16 * stride + 16, stride * 4);
    writeMemory();
  }
  void loadLeft(const float* a) {
    _tile_loadd(4, a, 64);
    _tile_loadd(5, a + kFloatsOfTile, 64);
  }
  void loadRight(const float* b) {
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + kFloatsOfTile, 64);
  }
  void addProducts() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
};

// clang-format off
#include "tiles.inl"
// clang-format on

}  // namespace

const TileKernels kTiles = FPL_TILES;

}  // namespace amx
}  // namespace fpl

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif
