// Stage 4 for one row: the values that replace its logits.
#pragma once

#include <cmath>

#include "row_state.h"

namespace fpl {

// The derivatives of the loss with respect to a row's results.
struct ResultSlopes {
  double logProb = 0, logSumExp = 0, entropy = 0, meanLogit = 0;

  bool none() const { return logProb == 0 && logSumExp == 0 && entropy == 0 && meanLogit == 0; }
};

// Every x, which stands for a logit, becomes factor · exp(x / temperature), where exp is in `unit`. The label's own x
// becomes `atLabel`.
struct RowGradient {
  Unit unit;
  float factor = 0;
  float atLabel = 0;
};

// The magnitude of the factor of a row's e^(x / T) goes into the unit and leaves a factor below 1/2, so that only
// results too small for float32 vanish, wherever between two powers of two an e begins to. It goes there only as far as
// e in the new unit still fits float32. The e of the other logits are no larger than 1 - p of the row's total, and the
// label's e is not used.
FPL_HD inline int32_t exponentForUnit(double factor, double complement) {
  int exponent = 0, below = 0;
  if (fabs(factor) < INFINITY) frexp(factor, &exponent);
  if (complement > 0) frexp(complement, &below);
  const int most = below < 0 ? 60 - below : 60;
  return exponent + 1 > most ? most : exponent + 1;
}

// `coefficient` and `ofLogSumExp`: d loss / d logProb and d loss / d logSumExp of the row; `perLogit`: the derivative
// of x / temperature with respect to the logit.
FPL_HD inline RowGradient rowGradient(const TokenState& token, double coefficient, double perLogit,
                                      double ofLogSumExp = 0) {
  RowGradient out;
  if (coefficient == 0 && ofLogSumExp == 0) return out;  // zeros, even where the row holds NaN
  const double slope = coefficient * perLogit;
  double atLabel = slope * token.complement, others = -slope;
  if (ofLogSumExp != 0) {
    const double ofAll = ofLogSumExp * perLogit;
    atLabel += ofAll * exp(token.logProb);
    others += ofAll;
  }
  out.atLabel = float(atLabel);
  const double factor = others / token.total;
  const int32_t exponent = exponentForUnit(factor, token.complement);
  out.factor = float(ldexp(factor, -exponent));
  out.unit = token.unit;
  out.unit.exponent -= exponent;
  return out;
}

// The same where the entropy and the mean logit count, too. With w = exp(x / temperature) in the row's own unit, every
// logit becomes w · (constant + perLog · log w) + everywhere, and the label's own the value `atLabel`. `unit` is the
// row's own divided by 2^scale, and `constant` and `perLog` are divided likewise.
struct FullRowGradient {
  Unit unit;
  int32_t scale = 0;
  float constant = 0, perLog = 0;
  float everywhere = 0;
  float atLabel = 0;
};

// `entropy`: the row's, where d loss / d entropy is not 0.
FPL_HD inline FullRowGradient fullRowGradient(const TokenState& token, const ResultSlopes& slopes, double entropy,
                                              double perLogit, int64_t vocab) {
  FullRowGradient out;
  const double everywhere = slopes.meanLogit * perLogit / double(vocab);
  out.everywhere = out.atLabel = float(everywhere);
  if (slopes.logProb == 0 && slopes.logSumExp == 0 && slopes.entropy == 0) return out;
  // d entropy / d (x_j / temperature) = -p_j · (log p_j + entropy), and log p_j = log w_j - log total.
  const double p = exp(token.logProb);
  double atLabel = slopes.logProb * token.complement + slopes.logSumExp * p;
  double constant = slopes.logSumExp - slopes.logProb;
  if (slopes.entropy != 0) {
    if (p != 0) atLabel -= slopes.entropy * p * (token.logProb + entropy);
    constant -= slopes.entropy * (entropy - log(token.total));
  }
  out.atLabel = float(perLogit * atLabel + everywhere);
  constant *= perLogit / token.total;
  const double perLog = -slopes.entropy * perLogit / token.total;
  out.scale = exponentForUnit(fabs(constant) > fabs(perLog) ? constant : perLog, token.complement);
  out.constant = float(ldexp(constant, -out.scale));
  out.perLog = float(ldexp(perLog, -out.scale));
  // Infinities would make NaN with each other anyway.
  const bool finite = fabsf(out.constant) < INFINITY && fabsf(out.perLog) < INFINITY;
  if (!finite || !(fabsf(out.everywhere) < INFINITY)) out.constant = NAN;
  out.unit = token.unit;
  out.unit.exponent -= out.scale;
  return out;
}

}  // namespace fpl
