// exp, log, log1p and expm1 of float64, correctly rounded: always the float64 nearest to the exact value, so that their
// bits are the same with every C library, compiler and processor. They have the names of <cmath>'s: what is written in
// namespace fpl means these.
//
// A first attempt in float64 gives the value in two parts and a bound on its error. Where that leaves open which
// float64 is nearest, once in a hundred calls or less often, exact_math_wide.h decides. The exact value never is in the
// middle of two float64, nor nearer to it than 2^-118 of itself (Lefèvre and Muller, "Worst cases for correct rounding
// of the elementary functions in double precision", 2001).
//
// Rounding must be to nearest. A compiler may fuse multiply-adds: the bounds hold all the same.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "exact_math_tables.h"
#include "exact_math_wide.h"
#include "platform.h"

namespace fpl {
namespace exact {

// A value that is high + low but for `error`, which allows for its own addition to `low` as well.
struct Approximation {
  double high, low, error;
};

// Whether one float64 is nearest to all that the value may be; `out` is that one.
FPL_HD inline bool round(const Approximation& x, double& out) {
  out = x.high + (x.low - x.error);
  return out == x.high + (x.low + x.error);
}

// 2^exponent for a normal number.
FPL_HD inline double normalPower(int exponent) { return doubleOf(uint64_t(exponent + 1023) << 52); }

// e^r - 1 - r for |r| < 0.0028, off by less than 2^-51 r²; r^7 / 5040 is left out.
FPL_HD inline double expBeyondLinear(double r) {
  const double square = r * r;
  return square * ((0.5 + r * (1.0 / 6)) + square * ((1.0 / 24 + r * (1.0 / 120)) + square * (1.0 / 720)));
}

// e^x = mantissa · 2^exponent, for |x| < 746.
struct Power {
  Approximation mantissa;
  int exponent;
};

FPL_HD inline Power powerOf(double x) {
  // x = n ln 2 / 128 + r, |r| < 0.00272. Adding 1.5·2^52 rounds to a whole number.
  constexpr double kRounding = 0x1.8p52, k128ByLn2 = 0x1.71547652b82fep7;
  const double shifted = x * k128ByLn2 + kRounding, n = shifted - kRounding;
  // The first product is exact with 18 + 34 bits, and so is its difference from x, which is near it.
  const double most = x - n * ln2By128()[0], less = n * ln2By128()[1];
  const double r = most - less, rest = (most - r) - less;
  const int32_t whole = int32_t(uint32_t(bitsOf(shifted)));
  const double* power = powerParts(whole & 127);
  // Half a unit in the last place is lost of the product with r, of `low`, and when the error is added to it: for a
  // 2^(i/128) of 1.4 and more 2^-61 each, below that half as much. All else is less than 2^-67.
  const double low = power[0] * r + (power[1] + (power[1] * r + power[0] * (rest + expBeyondLinear(r))));
  return {{power[0], low, power[0] * 0x1.1p-60}, whole >> 7};
}

// log((1 + z) · 2^n · 256 / inverse(row)) for z = zHigh + zLow, |z| < 1/64. zLow is below 2^-51, and 0 where n and the
// row's logarithm are.
FPL_HD inline Approximation logOf(int n, int row, double zHigh, double zLow) {
  // Exact with 11 + 42 bits.
  const double whole = n * ln2Parts()[0] + logParts(row)[0];
  const double high = whole + zHigh, part = high - whole;
  const double lost = (whole - (high - part)) + (zHigh - part);
  // log(1 + z) - z. What is left out is z^13 / 13.
  const double z = zHigh, square = z * z, fourth = square * square;
  const double series = square * ((-1.0 / 2 + z * (1.0 / 3)) + square * (-1.0 / 4 + z * (1.0 / 5)) +
                                  fourth * ((-1.0 / 6 + z * (1.0 / 7)) + square * (-1.0 / 8 + z * (1.0 / 9)) +
                                            fourth * ((-1.0 / 10 + z * (1.0 / 11)) + square * (-1.0 / 12))));
  const double low = series + ((zLow - zLow * (z - square)) + (lost + (n * ln2Parts()[1] + logParts(row)[1])));
  // Lost are 5/4 · 2^-52 z² at most in the series, a quarter of 2^-52 z² each in `low` and in adding the error, and
  // less than 2^-85 of `whole` elsewhere.
  return {high, low, square * 0x1p-51 + fabs(whole) * 0x1p-80};
}

// log(x + less) for a normal x > 0; |less| is at most half a unit in the last place of x.
FPL_HD inline Approximation logOf(double x, double less) {
  const uint64_t bits = bitsOf(x);
  const int row = int(bits >> 46) & 63, upper = row >= kUpper, n = int(bits >> 52) - 1023 + upper;
  // 1 + z is x / 2^n times inverse / 256. In integers, with 53 + 9 bits.
  const int64_t mantissa = int64_t((bits & ((uint64_t(1) << 52) - 1)) | uint64_t(1) << 52);
  const int64_t z = mantissa * inverse(row) - (int64_t(1) << (60 + upper));
  // Of |z| < 2^55 without three bits float64 has all others; those of a number near 1 are 0.
  const double unit = upper ? 0x1p-61 : 0x1p-60, zHigh = double(z & ~int64_t(7)), zLow = double(z & 7);
  // A 1 less than 2^-100 of x is as good as that.
  const double zLess = less * normalPower(n < 100 ? -n : -100) * (inverse(row) * 0x1p-8);
  return logOf(n, row, zHigh * unit, zLow * unit + zLess);
}

// log(1 + x) for a finite x > -1, |x| > 2^-54.
FPL_HD inline Approximation log1pOf(double x) {
  if (fabs(x) < 0x1p-6) return logOf(0, 0, x, 0);
  const double sum = 1 + x;
  return logOf(sum, x < 1 ? x - (sum - 1) : 1 - (sum - x));
}

// e^x - 1 for -38 < x < 708, |x| > 2^-54.
FPL_HD inline Approximation expm1Of(double x) {
  if (fabs(x) < 0.0027) return {x, expBeyondLinear(x), x * x * 0x1p-51};
  const Power power = powerOf(x);
  const double scale = normalPower(power.exponent), much = scale * power.mantissa.high;
  const double high = much - 1, part = high - much, lost = (much - (high - part)) + (-1 - part);
  return {high, scale * power.mantissa.low + lost, much * 0x1p-59 + 0x1p-104};
}

}  // namespace exact

FPL_HD inline double exp(double x) {
  if (!(fabs(x) < 708)) {
    if (x != x) return x;
    if (x >= 710) return INFINITY;
    if (x <= -746) return 0;
    return exact::expWide(x);  // where the result may be subnormal or infinite
  }
  const exact::Power power = exact::powerOf(x);
  double out;
  return exact::round(power.mantissa, out) ? out * exact::normalPower(power.exponent) : exact::expWide(x);
}

// e^x - 1
FPL_HD inline double expm1(double x) {
  // NaN, and where x itself is nearest: x² / 2 is less than half the spacing.
  if (!(fabs(x) > 0x1p-54)) return x;
  if (x <= -38) return -1;
  if (x >= 708) return x >= 710 ? INFINITY : exact::expm1Wide(x);
  double out;
  return exact::round(exact::expm1Of(x), out) ? out : exact::expm1Wide(x);
}

FPL_HD inline double log(double x) {
  if (!(x >= 0x1p-1022 && x < INFINITY)) {
    if (x == 0) return -INFINITY;
    if (x < 0) return NAN;
    return x < 1 ? exact::logWide(x) : x;
  }
  if (x == 1) return 0;
  double out;
  return exact::round(exact::logOf(x, 0), out) ? out : exact::logWide(x);
}

// log(1 + x)
FPL_HD inline double log1p(double x) {
  // NaN and +inf, and where x itself is nearest.
  if (!(fabs(x) > 0x1p-54) || x == INFINITY) return x;
  if (!(x > -1)) return x == -1 ? -INFINITY : NAN;
  double out;
  return exact::round(exact::log1pOf(x), out) ? out : exact::log1pWide(x);
}

}  // namespace fpl
