// Stage 4 for one row: the values that replace its logits.
#pragma once

#include <cmath>

#include "row_state.h"

namespace fpl {

// Every logit x becomes factor · exp(x / temperature), where exp is in `unit`. The label's own logit becomes `atLabel`.
struct RowGradient {
  Unit unit;
  float factor = 0;
  float atLabel = 0;
};

// `coefficient` is d loss / d logProb of the row.
FPL_HD inline RowGradient rowGradient(const TokenState& token, double coefficient, double inverseTemperature) {
  RowGradient out;
  if (coefficient == 0) return out;  // zeros, even where the row holds NaN
  const double slope = coefficient * inverseTemperature;
  out.atLabel = float(slope * token.complement);
  // The magnitude of the factor goes into the unit and leaves a factor in [1/2, 1), so that only results too small for
  // float32 vanish. It goes there only as far as e in the new unit still fits float32. The e of the other logits are no
  // larger than 1 - p of the row's total, and the label's e is not used.
  const double factor = -slope / token.total;
  int exponent = 0, below = 0;
  if (fabs(factor) < INFINITY) frexp(factor, &exponent);
  if (token.complement > 0) frexp(token.complement, &below);
  const int most = below < 0 ? 60 - below : 60;
  if (exponent > most) exponent = most;
  out.factor = float(ldexp(factor, -exponent));
  out.unit = token.unit;
  out.unit.exponent -= exponent;
  return out;
}

}  // namespace fpl
