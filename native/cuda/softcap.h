// Soft-capped logits on a GPU: tanh(x · scale) in the place of each logit x, and the slope of the tanh for stage 4, by
// the arithmetic of native/cpu/softcap.inl, where nothing cancels.
#pragma once

#include "../core/exp_polynomial.h"
#include "../core/row_state.h"
#include "../core/softcap.h"
#include "device.h"

namespace fpl {
namespace cuda {

// e^(2 |x| · scale) - 1, of |x| up to the limit.
FPL_DEVICE float expMinusOne(float x, const CapConstants& cap) {
  constexpr float kToBits = kRounding + 127.0f, kLn2High = -0x1.62ep-1f, kLn2Low = float(0x1.62ep-1 - kLn2);
  x = fabsf(x) > cap.limit ? cap.limit : fabsf(x);  // NaN stays
  const float u = multiply(x, cap.twiceHigh);
  // What the rounding of u leaves out.
  const float rest = fusedMultiplyAdd(x, cap.twiceLow, fusedMultiplyAdd(x, cap.twiceHigh, -u));
  const float n = fusedMultiplyAdd(u, float(kLog2e), kToBits), whole = add(n, -kToBits);
  const float r = fusedMultiplyAdd(whole, kLn2Low, add(fusedMultiplyAdd(whole, kLn2High, u), rest));
  float m = float(kExp6);
  m = fusedMultiplyAdd(m, r, float(kExp5));
  m = fusedMultiplyAdd(m, r, float(kExp4));
  m = fusedMultiplyAdd(m, r, float(kExp3));
  m = fusedMultiplyAdd(m, r, float(kExp2));
  m = fusedMultiplyAdd(multiply(r, r), m, r);
  const float power = floatOf(bitsOf(n) << 23);
  return fusedMultiplyAdd(power, m, add(power, -1));
}

// 1 / x, nearly always rounded correctly.
FPL_DEVICE float inverseOf(float x) {
  const float y = inverseFast(x);
  return fusedMultiplyAdd(y, fusedMultiplyAdd(-x, y, 1.0f), y);
}

FPL_DEVICE float capped(float x, const CapConstants& cap) {
  const float m = expMinusOne(x, cap);
  return copysignf(multiply(m, inverseOf(add(m, 2))), x);
}

// With the slope 1 - tanh².
FPL_DEVICE float capped(float x, const CapConstants& cap, float& slope) {
  const float m = expMinusOne(x, cap), inverse = inverseOf(add(m, 2));
  slope = fabsf(x) >= cap.limit ? 0 : multiply(multiply(multiply(4, add(m, 1)), inverse), inverse);
  return copysignf(multiply(m, inverse), x);
}

}  // namespace cuda
}  // namespace fpl
