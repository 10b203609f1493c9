// The second attempt of exact_math.h at exp, expm1, log and log1p, in integers of 192 bits: off by less than 2^-125 of
// the result, where 2^-115 is the nearest known that a result comes to the middle of two float64.
//
// - e^x = 2^(x log2 e). The fraction of x log2 e is i/32 + g: 2^(i/32) comes from a table, 2^g from its Taylor series.
// - log x = n ln 2 - log c + log(1 + z). c, from a table by the first bits of the significand m, is near 1/m; z = c·m -
// 1
//   without rounding, as c has 9 bits. |z| < 1/64: log(1 + z) is its Taylor series.
#pragma once

#include <cstdint>
#include <cstring>

#include "exact_math_tables.h"
#include "platform.h"

namespace fpl {
namespace exact {

// A number in [0, 1), its first bits first. What an operation leaves beyond the last word is cut off, and what reaches
// 1 begins again at 0: a number from 1/2 on is also a negative one, as its two's complement.
struct Fraction {
  uint64_t words[3];
};
constexpr uint64_t kFirstBit = uint64_t(1) << 63;
FPL_HD inline Fraction zero() { return {{0, 0, 0}}; }
FPL_HD inline Fraction half() { return {{kFirstBit, 0, 0}}; }

FPL_HD inline Fraction fractionOf(const uint64_t* row) { return {{row[0], row[1], row[2]}}; }

// The upper half of the 128 bits of a · b, for compilers that have no such product.
FPL_HD inline uint64_t multiplyHighInParts(uint64_t a, uint64_t b) {
  const uint64_t low = 0xffffffffu, a0 = a & low, a1 = a >> 32, b0 = b & low, b1 = b >> 32;
  const uint64_t middle = a1 * b0 + (a0 * b0 >> 32);
  return a1 * b1 + (middle >> 32) + (((middle & low) + a0 * b1) >> 32);
}

FPL_HD inline uint64_t multiplyHigh(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(a, b);
#elif defined(__SIZEOF_INT128__)
  __extension__ typedef unsigned __int128 Product;
  return uint64_t(Product(a) * b >> 64);
#else
  return multiplyHighInParts(a, b);
#endif
}

// a + b + carry, and the carry out of it.
FPL_HD inline uint64_t addWithCarry(uint64_t a, uint64_t b, uint64_t& carry) {
  const uint64_t sum = a + b, out = sum + carry;
  carry = uint64_t(sum < a) | uint64_t(out < sum);
  return out;
}

FPL_HD inline Fraction add(Fraction a, const Fraction& b, uint64_t& carry) {
  for (int i = 2; i >= 0; --i) a.words[i] = addWithCarry(a.words[i], b.words[i], carry);
  return a;
}
FPL_HD inline Fraction add(const Fraction& a, const Fraction& b) {
  uint64_t carry = 0;
  return add(a, b, carry);
}
FPL_HD inline Fraction complement(const Fraction& a) { return {{~a.words[0], ~a.words[1], ~a.words[2]}}; }
FPL_HD inline Fraction subtract(const Fraction& a, const Fraction& b) {
  uint64_t carry = 1;
  return add(a, complement(b), carry);
}
FPL_HD inline Fraction addOrSubtract(const Fraction& a, const Fraction& b, bool subtracts) {
  return subtracts ? subtract(a, b) : add(a, b);
}

FPL_HD inline Fraction multiply(const Fraction& a, const Fraction& b) {
  uint64_t product[6] = {};
  for (int i = 2; i >= 0; --i) {
    uint64_t high = 0;
    for (int j = 2; j >= 0; --j) {
      uint64_t carry = 0;
      uint64_t& at = product[i + j + 1];
      at = addWithCarry(at, a.words[i] * b.words[j], carry);
      const uint64_t next = multiplyHigh(a.words[i], b.words[j]) + carry;
      carry = 0;
      at = addWithCarry(at, high, carry);
      high = next + carry;
    }
    product[i] = high;
  }
  return fractionOf(product);
}
// a · b / 2^64
FPL_HD inline Fraction multiply(const Fraction& a, uint64_t b) { return multiply(a, Fraction{{b, 0, 0}}); }

// a · 2^-bits
FPL_HD inline Fraction shiftDown(const Fraction& a, int bits) {
  Fraction out = zero();
  for (int i = 0, to = bits / 64; to < 3; ++i, ++to) {
    out.words[to] = a.words[i] >> bits % 64;
    if (i > 0 && bits % 64 > 0) out.words[to] |= a.words[i - 1] << (64 - bits % 64);
  }
  return out;
}

// a · 2^bits
FPL_HD inline Fraction shiftUp(const Fraction& a, int bits) {
  Fraction out = zero();
  for (int from = bits / 64, i = 0; from < 3; ++from, ++i) {
    out.words[i] = a.words[from] << bits % 64;
    if (from < 2 && bits % 64 > 0) out.words[i] |= a.words[from + 1] >> (64 - bits % 64);
  }
  return out;
}

// ± fraction · 2^exponent
struct Number {
  bool negative;
  int exponent;
  Fraction fraction;
};

// The same number with a fraction of at least 1/2; x is not 0.
FPL_HD inline Number normalized(Number x) {
  while (x.fraction.words[0] == 0) {
    x.fraction = shiftUp(x.fraction, 64);
    x.exponent -= 64;
  }
  while (!(x.fraction.words[0] & kFirstBit)) {
    x.fraction = shiftUp(x.fraction, 1);
    --x.exponent;
  }
  return x;
}

FPL_HD inline uint64_t bitsOf(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
FPL_HD inline double doubleOf(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// A finite x that is not 0, normalized.
FPL_HD inline Number numberOf(double x) {
  const uint64_t bits = bitsOf(x);
  const bool negative = bits >> 63;
  const int field = int(bits >> 52) & 0x7ff;
  if (field == 0) return normalized({negative, -1010, {{bits & ~kFirstBit, 0, 0}}});
  return {negative, field - 1022, {{bits << 11 | kFirstBit, 0, 0}}};
}

// The float64 nearest to x, which is normalized and not in the middle of two.
FPL_HD inline double nearest(const Number& x) {
  // Below 2^-1022 there are fewer bits than 53, and none below 2^-1075.
  const int bits = x.exponent > -1022 ? 53 : x.exponent + 1074;
  uint64_t out = 0;
  if (x.exponent > 1024) {
    out = uint64_t(0x7ff) << 52;
  } else if (bits >= 0) {
    // The leading 1 adds one to the exponent, and so does a carry out of the rounding.
    out = (uint64_t(bits < 53 ? 0 : x.exponent + 1021) << 52) + (((x.fraction.words[0] >> (63 - bits)) + 1) >> 1);
  }
  return doubleOf(x.negative ? out | kFirstBit : out);
}

// (2^g - 1) / g for g = w/32: ln 2 + g · Σ_k w^k expTerm(k)
FPL_HD inline Fraction powerSeries(const Fraction& w) {
  Fraction sum = fractionOf(expTerm(kExpTerms - 1));
  for (int k = kExpTerms - 2; k >= 0; --k) sum = add(fractionOf(expTerm(k)), multiply(w, sum));
  return add(fractionOf(ln2()), shiftDown(multiply(w, sum), 5));
}

// x · log2 e, not normalized.
FPL_HD inline Number inPowersOfTwo(const Number& x) {
  return {x.negative, x.exponent + 1, multiply(fractionOf(halfLog2e()), x.fraction.words[0])};
}

// 2^y for |y| < 2^11, y irrational.
FPL_HD inline Number powerOfTwo(const Number& y) {
  // y = whole + f
  int whole = 0;
  Fraction f = shiftDown(y.fraction, y.exponent < 0 ? -y.exponent : 0);
  if (y.exponent > 0) {
    whole = int(y.fraction.words[0] >> (64 - y.exponent));
    f = shiftUp(y.fraction, y.exponent);
  }
  if (y.negative) {
    whole = -whole - 1;
    f = complement(f);  // 1 - f but for the last bit
  }
  const Fraction w = shiftUp(f, 5), power = fractionOf(halfPower(int(f.words[0] >> 59)));
  const Fraction less1 = shiftDown(multiply(w, powerSeries(w)), 5);
  return {false, whole + 1, add(power, multiply(power, less1))};
}

// e^x and e^x - 1 for 2^-55 < |x| < 1024.
FPL_SELDOM inline double expWide(double x) { return nearest(powerOfTwo(inPowersOfTwo(numberOf(x)))); }

FPL_SELDOM inline double expm1Wide(double x) {
  const Number power = powerOfTwo(inPowersOfTwo(numberOf(x)));
  if (power.exponent > 0) {
    const Fraction one = shiftDown(half(), power.exponent - 1);
    return nearest(normalized({false, power.exponent, subtract(power.fraction, one)}));
  }
  return nearest(normalized({true, 1, subtract(half(), shiftDown(power.fraction, 1 - power.exponent))}));
}

// 1 - log(1 + z) / z for z = ± w/64: z · Σ_k (∓w)^k logTerm(k); without its sign, which is z's.
FPL_HD inline Fraction logSeries(const Fraction& w, bool negative) {
  Fraction sum = fractionOf(logTerm(kLogTerms - 1));
  for (int k = kLogTerms - 2; k >= 0; --k) sum = addOrSubtract(fractionOf(logTerm(k)), multiply(w, sum), !negative);
  return shiftDown(multiply(w, sum), 6);
}

// log(x), x normalized and positive, and not 1.
FPL_HD inline Number logOf(const Number& x) {
  const int row = int(x.fraction.words[0] >> 57) & 63;
  const bool upper = row >= kUpper;
  // The whole bits of c·m, those of m or of 2 m, are shifted out: what is left is z, or 1 + z where z is negative.
  Fraction z = shiftUp(multiply(x.fraction, uint64_t(inverse(row)) << 55), upper ? 1 : 2);
  const bool below1 = z.words[0] & kFirstBit;
  if (below1) z = subtract(zero(), z);
  const int power = upper ? x.exponent : x.exponent - 1;

  // The sum of the three parts, divided by 2^11.
  const Fraction w = shiftUp(z, 6), near1 = addOrSubtract(z, multiply(z, logSeries(w, below1)), !below1);
  const uint64_t powers = uint64_t(power < 0 ? -power : power);
  Fraction sum = multiply(fractionOf(ln2()), powers << 53);
  if (power < 0) sum = subtract(zero(), sum);
  sum = addOrSubtract(sum, shiftDown(fractionOf(logOfInverse(row)), 11), upper);
  sum = addOrSubtract(sum, shiftDown(near1, 11), below1);
  const bool negative = sum.words[0] & kFirstBit;
  return normalized({negative, 11, negative ? subtract(zero(), sum) : sum});
}

// log(x) for x > 0, finite and not 1.
FPL_SELDOM inline double logWide(double x) { return nearest(logOf(numberOf(x))); }

// log(1 + x) for x > -1, finite, |x| >= 2^-54.
FPL_SELDOM inline double log1pWide(double x) {
  const Number number = numberOf(x);
  // 1 + x, exact but for a 1 that is far below the last bit of x.
  const int exponent = number.exponent > 1 ? number.exponent : 1;
  const Fraction one = shiftDown(half(), exponent - 1), other = shiftDown(number.fraction, exponent - number.exponent);
  if (number.negative) return nearest(logOf(normalized({false, exponent, subtract(one, other)})));
  uint64_t carry = 0;
  const Fraction sum = add(one, other, carry);
  return nearest(
      logOf(carry ? Number{false, exponent + 1, add(half(), shiftDown(sum, 1))} : Number{false, exponent, sum}));
}

}  // namespace exact
}  // namespace fpl
