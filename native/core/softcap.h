// Constants of soft-capped logits, tanh(x · scale) in the place of each logit x.
#pragma once

#include <cmath>

#include "asserts.h"

namespace fpl {

struct CapConstants {
  explicit CapConstants(double scale) : present(scale != 0) {
    FPL_ASSERT(scale >= 0 && scale < INFINITY);
    twiceHigh = float(2 * scale);
    twiceLow = float(2 * scale - double(twiceHigh));
    // e^86 and 4 / e^86 are normal numbers.
    limit = present ? float(43 / scale) : 0;
  }

  bool present;               // scale is not 0
  float twiceHigh, twiceLow;  // 2 · scale
  float limit;                // the |x| beyond which the slope is below float32
};

}  // namespace fpl
