// The row state: all that is known of a row of logits after seeing some of its vocabulary.
//
// It knows nothing of where the logits came from. `update` with a block of logits is the kernels' business (native/cpu,
// native/cuda); `rescale`, `merge` and `finish` are here, in float64, once for everybody.
//
// Two choices make it exact:
// - Sums are kept in a unit of 2^exponent · e^(base / temperature). A power of two needs no subtraction of a rounded
//   maximum from every logit: exp(x) = 2^n · e^r is scaled by 2^-exponent without error. `base` is 0 unless the logits
//   are so large (|x| / temperature > 700) that n would not be small; subtracting it is then exact where it matters.
// - The label's own logit is left out of the sum. With z = log Σ_{j≠label} e^x_j - x_label, log p = -softplus(z) and
//   1 - p = sigmoid(z): both keep their relative precision as p approaches 1, where 1 - p and log p cancel otherwise.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "exact_math.h"
#include "platform.h"

namespace fpl {

constexpr double kLn2 = 0.693147180559945309417;
constexpr double kLog2e = 1.44269504088896340736;

// 2^exponent; 0 below the smallest normal number.
FPL_HD inline double powerOfTwo(int32_t exponent) {
  if (exponent < -1022) return 0;
  if (exponent > 1023) return INFINITY;
  const uint64_t bits = uint64_t(exponent + 1023) << 52;
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// e^x, for a change of units in the middle of a sweep. A GPU takes its own there, as its sums are its own: the
// registers that an exact one needs would have to be taken from the sweep.
FPL_HD inline double expInSweep(double x) {
#if defined(__CUDA_ARCH__)
  return ::exp(x);
#else
  return exp(x);
#endif
}

// The unit in which a row's sums are kept.
struct Unit {
  float base = 0;
  int32_t exponent = 0;

  // log(this unit / other)
  FPL_HD double logRatio(Unit other, double inverseTemperature) const {
    return (double(base) - double(other.base)) * inverseTemperature + double(exponent - other.exponent) * kLn2;
  }
};

// A unit near e^(maximum / temperature); any finite maximum will do. Where all is -inf (or NaN), any unit will do.
FPL_HD inline Unit unitFor(float maximum, double inverseTemperature) {
  if (maximum == -INFINITY) return {};
  const double n = double(maximum) * inverseTemperature * kLog2e;
  if (n > -1000 && n < 1000) return {0.0f, int32_t(rint(n))};
  return {maximum, 0};
}

struct RowState {
  Unit unit;
  double sum = 0;       // Σ_{j≠label} e^(x_j / temperature), in units
  double weighted = 0;  // Σ_{j≠label} e · log(e), e in units: for the entropy
  double squares = 0;   // Σ_{j≠label} e²
  float maximum = -INFINITY;
  bool wide = false;    // some e are so far below the unit that a kernel of the CPU has to clamp them
  int64_t argmax = -1;  // first index of the maximum, the label left out

  FPL_HD bool empty() const { return sum == 0; }

  FPL_HD void rescale(Unit to, double inverseTemperature) {
    if (!empty()) {
      const double shift = to.logRatio(unit, inverseTemperature);
      // With equal bases the factor is a power of two: no rounding.
      const double factor = to.base == unit.base ? powerOfTwo(unit.exponent - to.exponent) : expInSweep(-shift);
      weighted = factor == 0 ? 0 : factor * (weighted - shift * sum);
      sum *= factor;
      squares *= factor * factor;
    }
    unit = to;
  }

  // Adds what `other` saw.
  FPL_HD void merge(RowState other, double inverseTemperature) {
    if (other.maximum > maximum || (other.maximum == maximum && other.argmax < argmax)) {
      maximum = other.maximum;
      argmax = other.argmax;
    }
    if (other.empty()) return;
    const bool larger = other.unit.base == unit.base ? other.unit.exponent > unit.exponent
                                                     : other.unit.logRatio(unit, inverseTemperature) > 0;
    if (empty() || larger) {
      rescale(other.unit, inverseTemperature);
    } else {
      other.rescale(unit, inverseTemperature);
    }
    sum += other.sum;
    weighted += other.weighted;
    squares += other.squares;
  }
};

// What the backward needs of a row: 32 bytes, kept from stage 1 to stage 4.
struct TokenState {
  double logProb;     // log p(label)
  double complement;  // 1 - p(label)
  double total;       // Σ_j e^(x_j / temperature) over the whole row, label included, in `unit`; in [1/4, 4)
  Unit unit;
};
static_assert(sizeof(TokenState) == 32, "lib allocates four float64 per row");

// log Σ_j e^(x_j / temperature). `logTotal`: the logarithm of the row's total.
FPL_HD inline double logSumExpOf(const TokenState& token, double logTotal, double inverseTemperature) {
  return double(token.unit.base) * inverseTemperature + token.unit.exponent * kLn2 + logTotal;
}

// Results of a row that are not needed by the backward.
struct TokenByProducts {
  double entropy;
  double logSumExp;
  double sumSquaredProbs;
  int64_t argmax;
};

FPL_HD inline double sigmoid(double z) {
  const double e = exp(-fabs(z));
  return (z >= 0 ? 1 : e) / (1 + e);
}

// log(1 + e^z) and 1 / (1 + e^-z), with one exponential.
struct Logistic {
  double softplus, sigmoid;
};
FPL_HD inline Logistic logistic(double z) {
  const double e = exp(-fabs(z));
  return {(z > 0 ? z : 0) + log1p(e), (z >= 0 ? 1 : e) / (1 + e)};
}

// The end of a row: brings in the label's logit, at index `label`.
FPL_HD inline TokenState finish(const RowState& state, float labelLogit, double inverseTemperature) {
  TokenState token;
  token.unit = state.unit;
  // The label in units: log(e^(x/T) / unit).
  double logLabel = Unit{labelLogit, 0}.logRatio(state.unit, inverseTemperature);
  const bool nothing = state.empty() && labelLogit == -INFINITY;  // the whole row is -inf
  if (nothing || labelLogit == INFINITY || labelLogit != labelLogit || !(state.sum < INFINITY)) {
    token.logProb = token.complement = token.total = NAN;
    return token;
  }
  if (state.empty()) {
    // Only the label has any probability.
    token.logProb = 0;
    token.complement = 0;
    token.unit = {labelLogit, 0};
    token.total = 1;
    return token;
  }
  const double logRest = log(state.sum);
  const Logistic others = logistic(logRest - logLabel);
  token.logProb = -others.softplus;
  token.complement = others.sigmoid;
  // The row's total, in a unit near itself so that it can neither overflow nor vanish.
  if (logLabel > 700) {
    // The label towers over the rest: measure from it (a base of its own keeps the exponent small).
    token.unit = unitFor(labelLogit, inverseTemperature);
    // Anew in this unit: of logLabel, a difference from the rest, less may be left than the sixth digit.
    const double label = Unit{labelLogit, 0}.logRatio(token.unit, inverseTemperature);
    token.total = exp(logRest - token.unit.logRatio(state.unit, inverseTemperature)) + exp(label);
  } else {
    const int32_t up = int32_t(rint((logLabel > logRest ? logLabel : logRest) * kLog2e));
    token.unit.exponent += up;
    token.total = ldexp(state.sum, -up) + exp(logLabel - up * kLn2);
  }
  return token;
}

FPL_HD inline TokenByProducts byProducts(const RowState& state, const TokenState& token, int64_t label,
                                         float labelLogit, double inverseTemperature) {
  TokenByProducts out;
  if (token.logProb != token.logProb) return {NAN, NAN, NAN, -1};
  const double p = exp(token.logProb), logTotal = log(token.total);
  out.logSumExp = logSumExpOf(token, logTotal, inverseTemperature);
  // H = log total - Σ p·log e, with log e measured in the row's own unit so that nothing large cancels.
  RowState rest = state;
  rest.rescale(token.unit, inverseTemperature);
  const double logLabel = Unit{labelLogit, 0}.logRatio(token.unit, inverseTemperature);
  const double labelTerm = p == 0 ? 0 : p * logLabel;
  out.entropy = logTotal - labelTerm - (rest.empty() ? 0 : rest.weighted / token.total);
  if (out.entropy < 0) out.entropy = 0;  // rounding: a certain row has no entropy
  out.sumSquaredProbs = p * p + rest.squares / (token.total * token.total);
  const bool labelWins = labelLogit > state.maximum || (labelLogit == state.maximum && label < state.argmax);
  out.argmax = labelWins ? label : state.argmax;
  return out;
}

}  // namespace fpl
