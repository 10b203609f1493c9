// The numbers that decide how fast the stages' kernels are, and nothing else: results have the same bits with others.
// They are those of all architectures, since none has been measured yet. A bench compiles the kernels with a file of
// its own in the place of this one: -DFPL_TUNING='"path"', with all of these names.
#pragma once

#if defined(FPL_TUNING)
#include FPL_TUNING
#else

#include <cstdint>

namespace fpl {
namespace cuda {
namespace tuning {

// Blocks that a multiprocessor holds: of a sweep that sums exponentials alone, of one that finds more, of the gradient,
// and of that through a soft-cap.
constexpr int kSweepBlocks = 3, kFullSweepBlocks = 2, kGradientBlocks = 4, kCappedGradientBlocks = 3;

// Rows are split where a block has fewer than so many: of their time it has left half a row's unused in the mean, at
// its end.
constexpr int64_t kRowsPerBlock = 8;

// 16-byte loads in flight in each thread of the gradient, the most tiles of so many loads in a piece of a row, and the
// tiles in whose time a block does what it does once a piece, in halves.
constexpr uint32_t kGradientLoads = 4;
constexpr int64_t kMostTiles = 16, kHalfTilesOfPiece = 1;

// Groups of threads that a multiprocessor holds to read and write rows in one go, of a block or of several.
constexpr int kRowGroups = 2;

// Elements of each thread in a tile of a gradient that has another type than the logits.
constexpr int64_t kConvertedElements = 8;

}  // namespace tuning
}  // namespace cuda
}  // namespace fpl

#endif
