// Constants of soft-capped logits, tanh(x · scale) in the place of each logit x; and the polynomial of their
// exponential.
#pragma once

#include <cmath>

#include "asserts.h"

namespace fpl {

// The coefficients of the minimax polynomial of e^r of degree 6, but for the first two, which are 1 (relative error
// 3.1e-9 on |r| <= ln 2 / 2).
constexpr double kExp2 = 0.49999993412490124, kExp3 = 0.16666520107834054, kExp4 = 0.041668394213308244;
constexpr double kExp5 = 0.008368780409796215, kExp6 = 0.0013814466935590675;

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
