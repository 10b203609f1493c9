// Sums over the threads of a block, in an order that does not change; and what the last of several blocks does.
#pragma once

#include "device.h"

namespace fpl {
namespace cuda {

// Threads of every block of the stages' kernels. The order of sums, and so their bits, depends on it.
constexpr int kBlockThreads = 256;

struct BlockSums {
  double of[kBlockThreads];
};

// Σ of every thread's `value`, for thread 0. Call with the same `scratch` only after another barrier.
template <int kThreads, typename V>
FPL_DEVICE V blockSum(V value, V (&scratch)[kThreads]) {
  scratch[threadIndex()] = value;
  for (int width = kThreads / 2; width > 0; width /= 2) {
    barrier();
    if (threadIndex() < width) {
      value += scratch[threadIndex() + width];
      scratch[threadIndex()] = value;
    }
  }
  // Not from `scratch`, where the other threads would look while thread 0 may still write.
  return value;
}

// Whether this block is the last of `blocks` that come here, which then sees all that they have written. All its
// threads call it. `arrived` is 0 before the first block comes, and again after the last.
FPL_DEVICE bool isLastBlock(uint32_t* arrived, uint32_t blocks, uint32_t& shared) {
  barrier();
  if (blocks == 1) return true;
  if (threadIndex() == 0) shared = countInOrder(arrived, blocks - 1) == blocks - 1;
  barrier();
  return shared != 0;
}

}  // namespace cuda
}  // namespace fpl
