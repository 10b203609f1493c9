// The kernels of native/cpu/tiles.inl on machines without AMX: plain numbers for its vectors and tiles.
#pragma once

#include "../../native/cpu/tiles.h"

namespace fpl {
namespace emulated {
extern const TileKernels kTiles;
}
}  // namespace fpl
