// Stage 1 on one row: adds the logits to the row's state, a block at a time.
//
//   updateRow      goes over the blocks and gives the state a unit, and a larger one when a block needs it
//   sumInUnit      sums a block
//   Block          a block as spans, in which the label and the filler of a last tile are hidden
//   sumOfLogits    adds up the logits themselves
//   weightedSumOfLogits   the same, each times a weight

// The sum of four vectors of the same lanes.
inline F32 sumOf(const F32 (&v)[4]) { return add(add(v[0], v[1]), add(v[2], v[3])); }

// The float64 sums of the lanes. The type of the logits says which lanes a vector has.
template <typename T>
struct LaneSums {
  F64 lanes[2 * kVectors];

  LaneSums() {
    for (int64_t v = 0; v < 2 * kVectors; ++v) lanes[v] = set1Double(0);
  }

  void add(int64_t v, const float* sum) {
    lanes[2 * v] = addDouble(lanes[2 * v], loadDoubles(sum));
    lanes[2 * v + 1] = addDouble(lanes[2 * v + 1], loadDoubles(sum + kWidth / 2));
  }

  void add(int64_t v, F32 sum) {
    float values[kWidth];
    store(values, sum);
    add(v, values);
  }

  void addProducts(int64_t v, const float* a, const float* b) {
    lanes[2 * v] = addDouble(lanes[2 * v], mulDouble(loadDoubles(a), loadDoubles(b)));
    lanes[2 * v + 1] = addDouble(lanes[2 * v + 1], mulDouble(loadDoubles(a + kWidth / 2), loadDoubles(b + kWidth / 2)));
  }

  // Adds the lanes up: halves onto halves.
  double total() const {
    double lane[kLanes];
    for (int64_t v = 0; v < kVectors; ++v) {
      double values[kWidth];
      storeDoubles(values, lanes[2 * v]);
      storeDoubles(values + kWidth / 2, lanes[2 * v + 1]);
      for (int64_t i = 0; i < kWidth; ++i) lane[laneOf<T>(v, i)] = values[i];
    }
    for (int64_t width = kLanes / 2; width > 0; width /= 2) {
      for (int64_t i = 0; i < width; ++i) lane[i] += lane[i + width];
    }
    return lane[0];
  }
};

// A block of a row as spans of whole tiles. They are in place, but for the tile with the label and a last tile that the
// row does not fill. Of those two the spans have copies, and in the copies `hide` puts a value in the place of the
// label and of the filler.
template <typename T>
class Block {
 public:
  struct Span {
    const T* logits;
    int64_t count;
  };

  Block(const T* row, int64_t start, int64_t end, int64_t label) : logits_(row + start), count_(end - start) {
    FPL_ASSERT(count_ > 0 && count_ <= kBlock);
    const int64_t whole = count_ / kTile * kTile;
    const int64_t hidden = label >= start && label < end ? label - start : -1;
    int64_t next = 0;
    if (hidden >= 0 && hidden < whole) {
      next = hidden / kTile * kTile;
      inPlace(0, next);
      label_ = copy(next, kTile) + (hidden - next);
      next += kTile;
    }
    inPlace(next, whole);
    if (count_ > whole) {
      T* const tile = copy(whole, count_ - whole);
      if (hidden >= whole) label_ = tile + (hidden - whole);
      filler_ = tile + (count_ - whole);
      fillerEnd_ = tile + kTile;
    }
    hide(-INFINITY);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  const Span* begin() const { return spans_; }
  const Span* end() const { return spans_ + spanCount_; }
  // The label is all there is.
  bool allHidden() const { return label_ && count_ == 1; }

  void hide(float value) {
    if (label_) fromFloat(value, *label_);
    for (T* p = filler_; p < fillerEnd_; ++p) fromFloat(value, *p);
  }

 private:
  void inPlace(int64_t from, int64_t to) {
    FPL_ASSERT(spanCount_ < 4);
    if (to > from) spans_[spanCount_++] = {logits_ + from, to - from};
  }

  T* copy(int64_t from, int64_t count) {
    FPL_ASSERT(copyCount_ < 2 && count <= kTile);
    T* const tile = copies_[copyCount_++];
    memcpy(tile, logits_ + from, count * sizeof(T));
    spans_[spanCount_++] = {tile, kTile};
    return tile;
  }

  const T* logits_;
  int64_t count_;
  int32_t spanCount_ = 0, copyCount_ = 0;
  T *label_ = nullptr, *filler_ = nullptr, *fillerEnd_ = nullptr;
  Span spans_[4];
  alignas(64) T copies_[2][kTile];
};

// What a block adds to the RowState fields of these names.
struct BlockSums {
  double sum = 0, weighted = 0, squares = 0;
};

// The float32 sums of a few tiles, 16 lanes each, on their way to float64.
struct TileSums {
  static constexpr int64_t kTiles = 32;
  float tiles[kTiles * kLanes];

  void put(int64_t tile, int64_t v, const F32 (&x)[4]) { store(tiles + tile * kLanes + v * kWidth, sumOf(x)); }

  template <typename T>
  void addTo(LaneSums<T>& sums, int64_t count) const {
    for (const float* t = tiles; t < tiles + count * kLanes; t += kLanes) {
      for (int64_t v = 0; v < kVectors; ++v) sums.add(v, t + v * kWidth);
    }
  }
};

// A row's unit is this many powers of two above the largest e of its first tile, so that few rows outgrow it.
constexpr int32_t kHeadroom = 30;

inline Unit unitWithHeadroom(float maximum, double inverseTemperature) {
  Unit unit = unitFor(maximum, inverseTemperature);
  if (unit.base == 0) unit.exponent += kHeadroom;
  return unit;
}

// A block with a larger sum than this, in units, gets a larger unit. In the old one, blocks after it would be summed
// twice, too.
constexpr double kOutgrown = 0x1p26;

// Sums a block; false where it holds NaN or a logit far above the unit or, but for kAny, out of reach, and `out` is
// then meaningless. The block's largest e is about 2^peak units. Logarithms are taken relative to it: those that count
// are then small, and the entropy keeps its digits.
template <typename T, bool kAny, bool kBase, bool kSplit, bool kByProducts>
bool sumOfBlock(const Block<T>& block, int32_t peak, const ExpConstants& c, Unit unit, BlockSums& out) {
  using Exp = Exp<kAny, kBase, kSplit>;
  const Exp exp(c, unit);
  const F32 fromPeak = set1(kRounding + float(kSteps * (Exp::kUnit + peak)));
  F32 seen = set1(kRounding);
  LaneSums<T> sums, weighted, squares;
  for (const auto& span : block) {
    const T* tile = span.logits;
    for (int64_t left = span.count / kTile; left > 0;) {
      TileSums tileSums, tileWeighted, tileSquares;
      const int64_t tiles = left < TileSums::kTiles ? left : TileSums::kTiles;
      left -= tiles;
      for (int64_t t = 0; t < tiles; ++t, tile += kTile) {
        prefetch(tile, kTile);
        forEachVector([&](auto v) {
          F32 r[4], n[4], e[4];
          for (int k = 0; k < 4; ++k) r[k] = loadLanes<v>(tile + k * kLanes);
          exp(r, n, e);
          for (int k = 0; k < 4; ++k) seen = orBits(seen, n[k]);
          tileSums.put(t, v, e);
          if (kByProducts) {
            // log(e / 2^peak) = (n - peak) ln 2 + r / T, n in units
            for (int k = 0; k < 4; ++k) n[k] = sub(n[k], fromPeak);
            inStep(n);
            for (int k = 0; k < 4; ++k) n[k] = fma(n[k], set1(float(kLn2 / kSteps)), mul(r[k], set1(c.inverse)));
            inStep(n);
            for (int k = 0; k < 4; ++k) n[k] = mul(n[k], e[k]);
            for (int k = 0; k < 4; ++k) e[k] = mul(e[k], e[k]);
            tileWeighted.put(t, v, n);
            tileSquares.put(t, v, e);
          }
        });
      }
      tileSums.addTo(sums, tiles);
      if (kByProducts) {
        tileWeighted.addTo(weighted, tiles);
        tileSquares.addTo(squares, tiles);
      }
      if (!Exp::allInReach(seen)) return false;
    }
  }
  // One constant for T ln 2 leaves a factor in every e, and its logarithm in every log e: those of the largest, which
  // is that of the first tile but where the sum says that there are larger ones.
  const double sum = sums.total();
  int exponent;
  frexp(sum, &exponent);
  constexpr int32_t kMostOfBlock = 13;  // the powers of two in a sum of kBlock e of 1
  const int32_t largest = unit.exponent + std::max(exponent - kMostOfBlock, -kHeadroom);
  const double error = kSplit ? 0 : largest * c.ln2Error, factor = (1 - error) / kScale;
  out.sum = factor * sum;
  if (kByProducts) {
    out.weighted = factor * (weighted.total() + (peak * kLn2 - error) * sum);
    out.squares = factor * factor * squares.total();
  }
  return out.sum < kOutgrown;
}

// The largest of `count` logits. NaN is skipped: it shows in the sums.
template <typename T>
float maximumOf(const T* tiles, int64_t count) {
  F32 maxima[4], x[4];
  for (F32& maximum : maxima) maximum = set1(-INFINITY);
  for (int64_t i = 0; i < count; i += 4 * kWidth) {
    loadFour(tiles + i, x);
    for (int k = 0; k < 4; ++k) maxima[k] = maxSkipNan(x[k], maxima[k]);
  }
  for (int k = 1; k < 4; ++k) maxima[0] = maxSkipNan(maxima[0], maxima[k]);
  float lanes[kWidth];
  store(lanes, maxima[0]);
  float out = lanes[0];
  for (int64_t i = 1; i < kWidth; ++i) out = lanes[i] > out ? lanes[i] : out;
  return out;
}

template <typename T>
float maximumOf(const Block<T>& block) {
  float maximum = -INFINITY;
  for (const auto& span : block) {
    const float ofSpan = maximumOf(span.logits, span.count);
    if (ofSpan > maximum) maximum = ofSpan;
  }
  return maximum;
}

// Sums a block. False when the unit is too small for it, or when the block holds NaN or +inf. `maximum` is the block's
// and is used for the by-products alone. `wide`: a block of the row had a logit out of reach, so this one is likely to.
template <typename T, bool kByProducts>
bool sumInUnit(Block<T>& block, float maximum, const ExpConstants& constants, Unit unit, bool& wide, BlockSums& out) {
  int32_t peak = 0;
  if (kByProducts) {
    const double log = Unit{maximum, 0}.logRatio(unit, constants.inverseTemperature);
    if (fabs(log) < 100) peak = int32_t(rint(log * kLog2e));
  }
  // A sum may do with one constant for T ln 2.
  const bool one = F32::kFused && constants.oneConstant && unit.base == 0;
  if (!wide && unit.base == 0 && (kSteps == 8 || constants.inReach)) {
    // The hidden values must be in reach, too. They are 2^-96 units, which is below the last bit of any sum.
    block.hide(float((unit.exponent - kReach + 4) * constants.unitLog));
    const auto sum =
        one ? sumOfBlock<T, false, false, false, kByProducts> : sumOfBlock<T, false, false, true, kByProducts>;
    wide = !sum(block, peak, constants, unit, out);
    block.hide(-INFINITY);
    if (!wide) return true;
  }
  const auto sum = one ? sumOfBlock<T, true, false, false, kByProducts> : sumOfBlock<T, true, true, true, kByProducts>;
  return sum(block, peak, constants, unit, out);
}

template <typename T, bool kByProducts>
void updateRow(const void* rowData, int64_t begin, int64_t end, int64_t label, const ExpConstants& constants,
               RowState& state) {
  FPL_ASSERT(begin >= 0 && begin % kTile == 0 && begin < end);
  const T* row = static_cast<const T*>(rowData);
  // The plain loop takes bfloat16, whose conversion is next to nothing, as it is.
  if constexpr (kByWayOfFloats<T> && (kByProducts || !std::is_same_v<T, BFloat16>)) {
    alignas(64) float logits[kBlock];
    for (int64_t start = begin; start < end; start += kBlock) {
      const int64_t count = end - start < kBlock ? end - start : kBlock;
      const float maximum = state.maximum;
      convert(row + start, count, logits);
      updateRow<float, kByProducts>(logits, 0, count, label - start, constants, state);
      if (state.maximum > maximum) state.argmax += start;
    }
    return;
  }
  for (int64_t start = begin; start < end; start += kBlock) {
    Block<T> block(row, start, end - start < kBlock ? end : start + kBlock, label);
    if (block.allHidden()) continue;
    float maximum = -INFINITY;
    if (kByProducts) maximum = maximumOf(block);
    if (state.empty()) {
      // The maximum of the first tile is near enough for a unit, nearly always.
      float near = maximumOf(block.begin()->logits, kTile);
      if (near == -INFINITY) near = maximumOf(block);
      state.unit = unitWithHeadroom(near, constants.inverseTemperature);
    }
    BlockSums sums;
    while (!sumInUnit<T, kByProducts>(block, maximum, constants, state.unit, state.wide, sums)) {
      // In a unit of its own, no block is too large. A block that had that unit already holds NaN or +inf.
      maximum = maximumOf(block);
      const Unit unit = unitWithHeadroom(maximum, constants.inverseTemperature);
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
      if (maximum > state.maximum) {
        state.maximum = maximum;
        int64_t i = start;
        while (i == label || toFloat(row[i]) != maximum) ++i;
        state.argmax = i;
      }
    }
  }
}

// Σ of the logits in float64: the lanes' sums of all tiles. A last tile that the row does not fill is filled with
// zeros.
template <typename T>
double sumOfLogits(const void* rowData, int64_t begin, int64_t end) {
  FPL_ASSERT(begin >= 0 && begin % kTile == 0 && begin < end);
  const T* row = static_cast<const T*>(rowData);
  LaneSums<T> sums;
  alignas(64) T last[kTile] = {};
  for (int64_t i = begin; i < end; i += kTile) {
    const T* tile = row + i;
    if (end - i < kTile) {
      memcpy(last, tile, (end - i) * sizeof(T));
      tile = last;
    }
    forEachVector([&](auto v) {
      F32 x[4];
      for (int k = 0; k < 4; ++k) x[k] = loadLanes<v>(tile + k * kLanes);
      for (int k = 0; k < 4; ++k) sums.add(v, x[k]);
    });
  }
  return sums.total();
}

// Adds the products of kLanes logits and their weights, which float64 holds exactly.
template <typename T>
inline void addWeighted(const T* logits, const float* weights, LaneSums<float>& sums) {
  forEachVector([&](auto v) {
    float values[kWidth];
    store(values, load(logits + v * kWidth));
    sums.addProducts(v, values, weights + v * kWidth);
  });
}

// Where a sum of products is no number: logits of weight 0 take no part, whatever they are.
template <typename T>
FPL_SELDOM double sumOfCounted(const T* row, const float* weights, int64_t begin, int64_t end) {
  double sum = 0;
  for (int64_t i = begin; i < end; ++i) {
    if (weights[i] != 0) sum += double(weights[i]) * double(toFloat(row[i]));
  }
  return sum;
}

// Σ of weights[i] · row[i] in float64.
template <typename T>
double weightedSumOfLogits(const void* rowData, const float* weights, int64_t begin, int64_t end) {
  FPL_ASSERT(begin >= 0 && begin % kTile == 0 && begin < end);
  const T* row = static_cast<const T*>(rowData);
  LaneSums<float> sums;
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) addWeighted(row + i, weights + i, sums);
  if (i < end) {
    T last[kLanes] = {};
    float lastWeights[kLanes] = {};
    memcpy(last, row + i, (end - i) * sizeof(T));
    memcpy(lastWeights, weights + i, (end - i) * sizeof(float));
    addWeighted(last, lastWeights, sums);
  }
  const double total = sums.total();
  return std::isnan(total) ? sumOfCounted(row, weights, begin, end) : total;
}
