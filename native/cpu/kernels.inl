// Stages 1 and 4 on one row, for one instruction set. Included once by each of isa_*.cc, inside its namespace and under
// its compiler target, after the definitions of the vector types:
//
//   F32              float vector of F32::kWidth lanes (a divisor of kLanes)
//   F64              double vector of half as many lanes
//   load<T>(p)       F32 from F32::kWidth elements of storage type T, unaligned, converted exactly
//   store(p, v)      F32 to storage type, rounded to nearest even; what is stored is not NaN
//   set1, add, sub, mul
//   fma(a, b, c)     a·b + c, rounded once (baseline: twice)
//   maxKeepNan(x, y), minKeepNan(x, y)   x if x is NaN
//   maxSkipNan(x, y)                     y if x is NaN
//   powerOfBits(v)   the float whose exponent field is the low bits of v's mantissa
//   timesPower(x, v) x · 2^(low bits of v's mantissa), as long as that is a normal number
//   orBits(a, b)
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

// The same for a block like nearly all: no logit further than kReach powers of two below the unit, none much above,
// none infinite or NaN. Then nothing needs clamping, and 2^n is an addition to the exponent. What each logit's n was is
// gathered in `seen`, one instruction a vector; false when it was out of reach, and then the sum is meaningless.
//
// The coefficients carry a factor of 2^-kReach, so that n + kReach is a small number that is not negative: seven bits.
// Four vectors go in step: their latencies overlap without waiting for the reordering window to find that out.
constexpr int32_t kReach = 100;

template <typename T, bool kSplit>
bool sumBlockInReach(const T* block, int64_t count, const ExpConstants& c, int32_t exponent, double& sum) {
  constexpr float kDown = 0x1p-100f;
  const F32 log2e = set1(c.log2e), magic = set1(12582912.0f + float(kReach - exponent));
  const F32 ln2 = set1(kSplit ? -c.ln2High : -c.ln2), ln2Low = set1(-c.ln2Low);
  const F32 c0 = set1(kDown), c1 = set1(c.inverse * kDown), c2 = set1(c.c2 * kDown), c3 = set1(c.c3 * kDown);
  const F32 c4 = set1(c.c4 * kDown), c5 = set1(c.c5 * kDown), c6 = set1(c.c6 * kDown);
  const F32 inReach = set1(12582912.0f);
  F32 seen = inReach;
  LaneSums sums;
  for (int64_t i = 0; i < count; i += kTile) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const T* at = block + i + v * kWidth;
      F32 r[4], n[4], p[4];
      for (int k = 0; k < 4; ++k) r[k] = load(at + k * kLanes);
      for (int k = 0; k < 4; ++k) n[k] = fma(r[k], log2e, magic);
      for (int k = 0; k < 4; ++k) seen = orBits(seen, n[k]);
      for (int k = 0; k < 4; ++k) p[k] = sub(n[k], magic);
      for (int k = 0; k < 4; ++k) r[k] = fma(p[k], ln2, r[k]);
      if (kSplit) {
        for (int k = 0; k < 4; ++k) r[k] = fma(p[k], ln2Low, r[k]);
      }
      for (int k = 0; k < 4; ++k) p[k] = fma(c6, r[k], c5);
      for (int k = 0; k < 4; ++k) p[k] = fma(p[k], r[k], c4);
      for (int k = 0; k < 4; ++k) p[k] = fma(p[k], r[k], c3);
      for (int k = 0; k < 4; ++k) p[k] = fma(p[k], r[k], c2);
      for (int k = 0; k < 4; ++k) p[k] = fma(p[k], r[k], c1);
      for (int k = 0; k < 4; ++k) p[k] = fma(p[k], r[k], c0);
      for (int k = 0; k < 4; ++k) p[k] = timesPower(p[k], n[k]);
      sums.addTile(v, p[0], p[1], p[2], p[3]);
    }
  }
  sum = sums.total();
  if (!kSplit) sum *= 1 - exponent * c.ln2Error;
  float lanes[kWidth];
  store(lanes, seen);
  for (int64_t i = 0; i < kWidth; ++i) {
    if ((bitsOf(lanes[i]) & ~0x7fu) != bitsOf(12582912.0f)) return false;
  }
  return true;
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

// A block of a row, in place or, when it holds the label or does not fill its last tile, a copy in which these can be
// hidden.
template <typename T>
struct Block {
  const T* logits;
  int64_t count;

  Block(const T* row, int64_t start, int64_t end, int64_t label, T* buffer) : logits(row + start), count(end - start) {
    hasLabel_ = label >= start && label < end;
    label_ = label - start;
    filled_ = count;
    if (!hasLabel_ && count % kTile == 0) return;
    memcpy(buffer, logits, count * sizeof(T));
    logits = copy_ = buffer;
    count = (count + kTile - 1) / kTile * kTile;
    hide(-INFINITY);
  }

  void hide(float value) {
    if (!copy_) return;
    if (hasLabel_) fromFloat(value, copy_[label_]);
    for (int64_t i = filled_; i < count; ++i) fromFloat(value, copy_[i]);
  }

 private:
  T* copy_ = nullptr;
  bool hasLabel_;
  int64_t label_, filled_;
};

// False when the unit is too small for the block, or the block holds NaN or +inf.
template <typename T, bool kByProducts>
bool sumInUnit(Block<T>& block, const ExpConstants& constants, Unit unit, BlockSums& out) {
  if (!kByProducts && unit.base == 0) {
    // What is hidden must be in reach too: 2^-96 of a unit is below the last bit of any sum.
    block.hide(float((unit.exponent - kReach + 4) * constants.unitLog));
    const auto sum = constants.oneConstant ? sumBlockInReach<T, false> : sumBlockInReach<T, true>;
    if (sum(block.logits, block.count, constants, unit.exponent, out.sum)) return true;
    block.hide(-INFINITY);
  }
  const Exp exp(constants, unit);
  out = (kByProducts ? sumBlockWithByProducts<T> : sumBlock<T>)(block.logits, block.count, exp);
  return out.sum < kUnitLimit;
}

template <typename T, bool kByProducts>
void updateRow(const void* rowData, int64_t begin, int64_t end, int64_t label, const ExpConstants& constants,
               RowState& state) {
  const T* row = static_cast<const T*>(rowData);
  alignas(64) T buffer[kBlock];
  for (int64_t start = begin; start < end; start += kBlock) {
    Block<T> block(row, start, end - start < kBlock ? end : start + kBlock, label, buffer);
    if (state.empty()) state.unit = unitFor(maximumOf(block.logits, block.count), constants.inverseTemperature);
    BlockSums sums;
    while (!sumInUnit<T, kByProducts>(block, constants, state.unit, sums)) {
      // In a unit of its own the block is not too large; if that is what it had, it holds NaN or +inf.
      const float maximum = maximumOf(block.logits, block.count);
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
      const float maximum = maximumOf(block.logits, block.count);
      if (maximum > state.maximum) {
        state.maximum = maximum;
        int64_t i = 0;
        while (toFloat(block.logits[i]) != maximum) ++i;
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
  for (; i + kTile <= end; i += kTile) {
    for (int64_t v = 0; v < kTile; v += kWidth) store(out + i + v, mul(exp(load(row + i + v)), factor));
  }
  if (i == end) return;
  T buffer[kTile] = {};
  memcpy(buffer, row + i, (end - i) * sizeof(T));
  for (int64_t v = 0; v < kTile; v += kWidth) store(buffer + v, mul(exp(load(buffer + v)), factor));
  memcpy(out + i, buffer, (end - i) * sizeof(T));
}

#define FPL_KERNELS(name)                                                                   \
  {                                                                                         \
    name, {updateRow<float, false>, updateRow<Float16, false>, updateRow<BFloat16, false>}, \
        {updateRow<float, true>, updateRow<Float16, true>, updateRow<BFloat16, true>},      \
        {gradientRow<float>, gradientRow<Float16>, gradientRow<BFloat16>},                  \
  }
