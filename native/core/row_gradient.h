// Stage 4 for one row: what its logits are turned into.
#pragma once

#include <cmath>

#include "row_state.h"

namespace fpl {

// Every logit x becomes factor · exp(x / temperature), exp in `unit`, and the label's own the value `atLabel`.
struct RowGradient {
  Unit unit;
  float factor = 0;
  float atLabel = 0;
};

// `coefficient`: d loss / d logProb of the row.
FPL_HD inline RowGradient rowGradient(const TokenState& token, double coefficient, double inverseTemperature) {
  RowGradient out;
  if (coefficient == 0) return out;  // whatever the row holds
  const double slope = coefficient * inverseTemperature;
  out.atLabel = float(slope * token.complement);
  // The magnitude goes into the unit and leaves a factor in [1/2, 1), so that only results below float32 vanish; but no
  // more of it than leaves the powers of two in reach of float32. Those of the other logits are no larger than 1 - p,
  // and the label's is not used.
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
