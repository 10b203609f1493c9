// Stages 1 and 4 on one row, for one instruction set. Included once by each of isa_*.cc, inside its namespace and under
// its compiler target, after the definitions of the vector types:
//
//   F32              float vector of F32::kWidth lanes (a divisor of kLanes)
//   F64              double vector of half as many lanes
//   load<T>(p)       F32 from F32::kWidth elements of storage type T, unaligned, converted exactly
//   store(p, v)      F32 to storage type, rounded to nearest even
//   set1, add, sub, mul
//   fma(a, b, c)     a·b + c, rounded once (baseline: twice)
//   maxKeepNan(x, y), minKeepNan(x, y)   x if x is NaN
//   maxSkipNan(x, y)                     y if x is NaN
//   powerOfBits(v)   the float whose exponent field is the low bits of v's mantissa
//   lowHalf(v), highHalf(v)  the halves, as F64
//   storeDoubles(p, v)

constexpr int64_t kWidth = F32::kWidth;
constexpr int64_t kVectors = kLanes / kWidth;

// ExpConstants as vectors, relative to a unit.
struct Exp {
  F32 base, low, high, log2e, magic, ln2High, ln2Low, c1, c2, c3, c4, c5, c6, one;

  Exp(const ExpConstants& c, Unit unit) {
    base = set1(unit.base);
    log2e = set1(c.log2e);
    // Adding 1.5·2^23 rounds to an integer in the low mantissa bits; adding the exponent's bias and the unit as well
    // leaves there the exponent field of 2^(n - unit).
    magic = set1(12582912.0f + float(127 - unit.exponent));
    ln2High = set1(-c.ln2High);
    ln2Low = set1(-c.ln2Low);
    c1 = set1(c.inverse);
    c2 = set1(c.c2);
    c3 = set1(c.c3);
    c4 = set1(c.c4);
    c5 = set1(c.c5);
    c6 = set1(c.c6);
    one = set1(1.0f);
    // Below `low` the exponent field is 0 and the result exactly 0, -inf included; `high` is far beyond kUnitLimit and
    // keeps the field below that of infinity.
    low = set1(float(double(unit.exponent - 127) * c.unitLog));
    high = set1(float(double(unit.exponent + 126) * c.unitLog));
  }

  // e^(x/T) in units. ≤ 1 ULP, and 1 exactly at the unit itself.
  F32 operator()(F32 x) const {
    F32 n;
    const F32 r = reduce(x, n);
    return mul(polynomial(r), powerOfBits(n));
  }

  // The same, and its logarithm in `log`.
  F32 withLog(F32 x, F32& log) const {
    F32 n;
    const F32 r = reduce(x, n);
    log = fma(sub(n, set1(12582912.0f + 127.0f)), set1(float(kLn2)), mul(r, c1));
    return mul(polynomial(r), powerOfBits(n));
  }

 private:
  F32 reduce(F32 x, F32& n) const {
    x = minKeepNan(maxKeepNan(sub(x, base), low), high);
    n = fma(x, log2e, magic);
    const F32 whole = sub(n, magic);
    return fma(whole, ln2Low, fma(whole, ln2High, x));
  }

  F32 polynomial(F32 r) const {
    F32 p = fma(c6, r, c5);
    p = fma(p, r, c4);
    p = fma(p, r, c3);
    p = fma(p, r, c2);
    p = fma(p, r, c1);
    return fma(p, r, one);
  }
};

// kLanes float64 sums, added to from four float32 vectors a lane at a time.
struct LaneSums {
  F64 lanes[2 * kVectors];

  LaneSums() {
    for (int64_t v = 0; v < 2 * kVectors; ++v) lanes[v] = set1Double(0);
  }

  void addTile(int64_t vector, F32 a, F32 b, F32 c, F32 d) {
    const F32 sum = add(add(a, b), add(c, d));
    lanes[2 * vector] = addDouble(lanes[2 * vector], lowHalf(sum));
    lanes[2 * vector + 1] = addDouble(lanes[2 * vector + 1], highHalf(sum));
  }

  double total() const {
    double lane[kLanes];
    for (int64_t v = 0; v < 2 * kVectors; ++v) storeDoubles(lane + v * (kWidth / 2), lanes[v]);
    for (int64_t width = kLanes / 2; width > 0; width /= 2) {
      for (int64_t i = 0; i < width; ++i) lane[i] += lane[i + width];
    }
    return lane[0];
  }
};

struct BlockSums {
  double sum = 0, weighted = 0, squares = 0;
};

// `count` is a multiple of kTile here and below.
template <typename T>
BlockSums sumBlock(const T* block, int64_t count, const Exp& exp) {
  LaneSums sums;
  for (int64_t i = 0; i < count; i += kTile) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const T* p = block + i + v * kWidth;
      sums.addTile(v, exp(load(p)), exp(load(p + kLanes)), exp(load(p + 2 * kLanes)), exp(load(p + 3 * kLanes)));
    }
  }
  BlockSums out;
  out.sum = sums.total();
  return out;
}

template <typename T>
BlockSums sumBlockWithByProducts(const T* block, int64_t count, const Exp& exp) {
  LaneSums sums, weighted, squares;
  for (int64_t i = 0; i < count; i += kTile) {
    for (int64_t v = 0; v < kVectors; ++v) {
      F32 e[4], log[4];
      for (int64_t k = 0; k < 4; ++k) e[k] = exp.withLog(load(block + i + k * kLanes + v * kWidth), log[k]);
      sums.addTile(v, e[0], e[1], e[2], e[3]);
      weighted.addTile(v, mul(e[0], log[0]), mul(e[1], log[1]), mul(e[2], log[2]), mul(e[3], log[3]));
      squares.addTile(v, mul(e[0], e[0]), mul(e[1], e[1]), mul(e[2], e[2]), mul(e[3], e[3]));
    }
  }
  BlockSums out;
  out.sum = sums.total();
  out.weighted = weighted.total();
  out.squares = squares.total();
  return out;
}

// NaN is skipped: it shows in the sums.
template <typename T>
float maximumOf(const T* block, int64_t count) {
  F32 maximum = set1(-INFINITY);
  for (int64_t i = 0; i < count; i += kWidth) maximum = maxSkipNan(load(block + i), maximum);
  float lanes[kWidth];
  store(lanes, maximum);
  float out = lanes[0];
  for (int64_t i = 1; i < kWidth; ++i) out = lanes[i] > out ? lanes[i] : out;
  return out;
}

template <typename T, bool kByProducts>
void updateRow(const void* rowData, int64_t begin, int64_t end, int64_t label, const ExpConstants& constants,
               RowState& state) {
  const T* row = static_cast<const T*>(rowData);
  alignas(64) T buffer[kBlock];
  for (int64_t start = begin; start < end; start += kBlock) {
    int64_t count = end - start < kBlock ? end - start : kBlock;
    const T* block = row + start;
    const bool hasLabel = label >= start && label < start + count;
    if (hasLabel || count % kTile != 0) {
      // A copy whose label and padding have no probability.
      memcpy(buffer, block, count * sizeof(T));
      if (hasLabel) fromFloat(-INFINITY, buffer[label - start]);
      for (; count % kTile != 0; ++count) fromFloat(-INFINITY, buffer[count]);
      block = buffer;
    }

    if (state.empty()) state.unit = unitFor(maximumOf(block, count), constants.inverseTemperature);
    BlockSums sums;
    for (;;) {
      const Exp exp(constants, state.unit);
      sums = kByProducts ? sumBlockWithByProducts(block, count, exp) : sumBlock(block, count, exp);
      if (sums.sum < kUnitLimit) break;
      // The block overflows the unit, or holds NaN or +inf: in its own unit it does not, unless it does.
      const float maximum = maximumOf(block, count);
      const Unit unit = unitFor(maximum, constants.inverseTemperature);
      if (!(maximum < INFINITY) || (unit.base == state.unit.base && unit.exponent == state.unit.exponent)) {
        state.sum = NAN;
        return;
      }
      state.rescale(unit, constants.inverseTemperature);
    }
    state.sum += sums.sum;
    if (kByProducts) {
      state.weighted += sums.weighted;
      state.squares += sums.squares;
      const float maximum = maximumOf(block, count);
      if (maximum > state.maximum) {
        state.maximum = maximum;
        int64_t i = 0;
        while (toFloat(block[i]) != maximum) ++i;
        state.argmax = start + i;
      }
    }
  }
}

template <typename T>
void gradientRow(const void* rowData, void* outData, int64_t begin, int64_t end, const ExpConstants& constants,
                 Unit unit, float scale) {
  const T* row = static_cast<const T*>(rowData);
  T* out = static_cast<T*>(outData);
  const Exp exp(constants, unit);
  const F32 factor = set1(scale);
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    for (int64_t v = 0; v < kLanes; v += kWidth) store(out + i + v, mul(exp(load(row + i + v)), factor));
  }
  if (i == end) return;
  T buffer[kLanes] = {};
  memcpy(buffer, row + i, (end - i) * sizeof(T));
  for (int64_t v = 0; v < kLanes; v += kWidth) store(buffer + v, mul(exp(load(buffer + v)), factor));
  memcpy(out + i, buffer, (end - i) * sizeof(T));
}

#define FPL_KERNELS(name)                                                                   \
  {                                                                                         \
    name, {updateRow<float, false>, updateRow<Float16, false>, updateRow<BFloat16, false>}, \
        {updateRow<float, true>, updateRow<Float16, true>, updateRow<BFloat16, true>},      \
        {gradientRow<float>, gradientRow<Float16>, gradientRow<BFloat16>},                  \
  }
