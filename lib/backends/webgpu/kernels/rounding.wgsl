// Float32 rounded to 16 bits, to nearest even; NaN stays NaN.

// In the first half of a word; the other half does not count.
fn bfloat16Word(x: f32) -> u32 {
  let bits = bitsOf(x);
  let isOdd = (bits & 0x10000) != 0;
  return select(bits + select(0x7fffu, 0x8000u, isOdd), bits | 0x400000, isNan(x));
}

fn bfloat16Bits(x: f32) -> u32 { return bfloat16Word(x) >> 16; }
fn bfloat16Pair(first: f32, second: f32) -> u32 { return bfloat16Bits(first) | (bfloat16Word(second) & 0xffff0000); }

fn float16Bits(x: f32) -> u32 {
  let bits = bitsOf(x);
  let sign = (bits >> 16) & 0x8000;
  let size = bits & 0x7fffffff;
  if (size > INFINITY_BITS) { return sign | 0x7e00; }
  if (size >= 0x477ff000) { return sign | 0x7c00; }
  if (size >= 0x38800000) {
    // Normal: the exponent's bias changes by 112.
    let shifted = size - (112u << 23);
    return sign | ((shifted + 0xfff + ((shifted >> 13) & 1)) >> 13);
  }
  // Subnormal: a multiple of 2^-24.
  let exponent = size >> 23;
  if (exponent < 102) { return sign; }
  let shift = 126 - exponent;
  let mantissa = (size & 0x7fffff) | 0x800000;
  let kept = mantissa >> shift;
  let rest = mantissa & ((1u << shift) - 1);
  let half = 1u << (shift - 1);
  let up = rest > half || (rest == half && (kept & 1) == 1);
  return sign | (kept + u32(up));
}

fn float16Pair(first: f32, second: f32) -> u32 { return float16Bits(first) | (float16Bits(second) << 16); }
