// Sums over the threads of a block, in an order that does not change.
#pragma once

#include "device.h"

namespace fpl {
namespace cuda {

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

}  // namespace cuda
}  // namespace fpl
