// The numbers that decide how fast the stages' kernels are, by architecture, and nothing else: results have the same
// bits with others. None has been measured yet.
//
// A bench compiles a table of its own in the place of this one, rows of numbers: -DFPL_TUNING='"path"'.
#pragma once

#include <cstddef>

namespace fpl {
namespace cuda {

struct Tuning {
  int architecture;  // compute capability times ten, of the oldest code that these are for
  // Blocks that a multiprocessor holds: of a sweep that sums exponentials alone, of one that finds more, of the
  // gradient, and of that through a soft-cap.
  int sweepBlocks, fullSweepBlocks, gradientBlocks, cappedGradientBlocks;
  // Groups of threads that a multiprocessor holds to read and write rows in one go, of a block or of several.
  int rowGroups;
  // Rows are split where a block has fewer than so many: of their time it has left half a row's unused in the mean, at
  // its end.
  int rowsPerBlock;
  // 16-byte loads in flight in each thread of the gradient, the most tiles of so many loads in a piece of a row, and
  // the tiles in whose time a block does what it does once a piece, in halves.
  int gradientLoads, mostTiles, halfTilesOfPiece;
  // Elements of each thread in a tile of a gradient that has another type than the logits.
  int convertedElements;
};

// clang-format off
constexpr Tuning kTunings[] = {
#if defined(FPL_TUNING)
#include FPL_TUNING
#else
    // arch.  blocks        groups  rows  loads  tiles  halves  converted
    {     75, 3, 2, 4, 3,        2,    8,     4,    16,      1,         8},
    {     80, 3, 2, 4, 3,        2,    8,     4,    16,      1,         8},
    {     86, 3, 2, 4, 3,        2,    8,     4,    16,      1,         8},  // and 89
    {     90, 3, 2, 4, 3,        2,    8,     4,    16,      1,         8},
    {    100, 3, 2, 4, 3,        2,    8,     4,    16,      1,         8},
    {    120, 3, 2, 4, 3,        2,    8,     4,    16,      1,         8},
#endif
};
// clang-format on
constexpr size_t kTuningCount = sizeof(kTunings) / sizeof(*kTunings);

// The last row that is not of newer code.
constexpr Tuning tuningFor(int architecture) {
  size_t i = kTuningCount;
  while (--i > 0 && kTunings[i].architecture > architecture) {
  }
  return kTunings[i];
}

constexpr bool areInOrder() {
  for (size_t i = 1; i < kTuningCount; ++i) {
    if (kTunings[i].architecture <= kTunings[i - 1].architecture) return false;
  }
  return true;
}
static_assert(areInOrder(), "architectures ascend");

// Those of the code that is being compiled, for kernels. Launchers ask for those of the code that runs:
// currentTuning().
#if defined(__CUDA_ARCH__)
constexpr Tuning kTuning = tuningFor(__CUDA_ARCH__ / 10);
#else
constexpr Tuning kTuning = tuningFor(90);
#endif

}  // namespace cuda
}  // namespace fpl
