// Stage 1 on a GPU: every active row of logits is read once, 16 bytes a load, into its row state.
#include "stages.h"

namespace fpl {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 4;  // 16-byte loads in flight in each thread

// What a thread has seen of a segment, on its way through shared memory.
template <bool kByProducts>
struct Share;
template <>
struct Share<false> {
  static constexpr int kSegments = 8;  // that fit shared memory at once; no more than there are warps
  PartialSums sums;
};
template <>
struct Share<true> {
  static constexpr int kSegments = 4;
  PartialSums sums;
  PartialByProducts byProducts;
};

FPL_DEVICE void put(const RowState& state, Share<false>& share) { share.sums = {state.sum, state.unit}; }
FPL_DEVICE void put(const RowState& state, Share<true>& share) {
  share.sums = {state.sum, state.unit};
  share.byProducts = {state.weighted, state.squares, state.maximum, int32_t(state.argmax)};
}

FPL_DEVICE RowState take(const PartialSums& sums) {
  RowState state;
  state.sum = sums.sum;
  state.unit = sums.unit;
  return state;
}
FPL_DEVICE RowState take(const PartialSums& sums, const PartialByProducts& more) {
  RowState state = take(sums);
  state.weighted = more.weighted;
  state.squares = more.squares;
  state.maximum = more.maximum;
  state.argmax = more.argmax;
  return state;
}
FPL_DEVICE RowState take(const Share<false>& share) { return take(share.sums); }
FPL_DEVICE RowState take(const Share<true>& share) { return take(share.sums, share.byProducts); }

template <bool kByProducts>
FPL_DEVICE RowState stateAbove(const RowState& mine, int offset) {
  RowState state;
  state.sum = fromLaneAbove(mine.sum, offset);
  state.unit.base = fromLaneAbove(mine.unit.base, offset);
  state.unit.exponent = fromLaneAbove(mine.unit.exponent, offset);
  if (kByProducts) {
    state.weighted = fromLaneAbove(mine.weighted, offset);
    state.squares = fromLaneAbove(mine.squares, offset);
    state.maximum = fromLaneAbove(mine.maximum, offset);
    state.argmax = fromLaneAbove(int32_t(mine.argmax), offset);
  }
  return state;
}

// 2^(x · log2e / T) relative to a unit. The constant is one float32; what it is off by is the same factor for all
// logits near the unit, and is put right once a tile. So a thread's unit follows its logits closely.
//
// 16-bit logits come so fast that there is time for no more than the special function unit's 2^x, to 2 ULP, which is
// enough for them; float32 ones leave the time for a polynomial.
struct UnitExp {
  float log2e = 0, base = 0, exponent = 0;
  double correction = 1, logCorrection = 0;

  UnitExp() = default;
  FPL_DEVICE UnitExp(const Unit& unit, double log2eExact) {
    log2e = float(log2eExact);
    base = unit.base;
    exponent = float(unit.exponent);
    logCorrection = unit.exponent * ((log2eExact - double(log2e)) / log2eExact * kLn2);
    correction = 1 + logCorrection + 0.5 * logCorrection * logCorrection;
  }
};
constexpr float kTileLimit = 64;  // units; a tile whose unit is its own maximum's has less

template <int kCount>
FPL_DEVICE float maximumOf(const float (&x)[kCount]) {
  float maximum = -INFINITY;
#pragma unroll
  for (int i = 0; i < kCount; ++i) maximum = fmaxf(x[i], maximum);  // NaN is skipped: it shows in the sums
  return maximum;
}

struct TileSums {
  float sum, weighted, squares;
};

// 2^t to 1 ULP; 0 and infinity where it leaves the normal numbers, NaN for NaN.
FPL_DEVICE float exp2Exact(float t) {
  t = t < -127.0f ? -127.0f : t > 128.0f ? 128.0f : t;
  const float n = add(t, kRounding + 127.0f);
  const float fraction = add(t, -add(n, -(kRounding + 127.0f)));
  float p = exp2Coefficient(kExp2Degree);
#pragma unroll
  for (int k = kExp2Degree - 1; k >= 0; --k) p = fusedMultiplyAdd(p, fraction, exp2Coefficient(k));
  return multiply(p, floatOf(bitsOf(n) << 23));
}

template <bool kFast, bool kByProducts, bool kBase, int kCount>
FPL_DEVICE TileSums sumsOf(const float (&x)[kCount], const UnitExp& exp) {
  float s[4] = {}, w[4] = {}, q[4] = {};
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float t = fusedMultiplyAdd(kBase ? add(x[i], -exp.base) : x[i], exp.log2e, -exp.exponent);
    const float e = kFast ? exp2Fast(t) : exp2Exact(t);
    s[i % 4] = add(s[i % 4], e);
    if (kByProducts) {
      // e log e → 0 where e is 0, and there t may be -inf.
      w[i % 4] = fusedMultiplyAdd(e, e == 0 ? 0 : t, w[i % 4]);
      q[i % 4] = fusedMultiplyAdd(e, e, q[i % 4]);
    }
  }
  return {add(add(s[0], s[1]), add(s[2], s[3])), add(add(w[0], w[1]), add(w[2], w[3])),
          add(add(q[0], q[1]), add(q[2], q[3]))};
}

struct Temperature {
  double inverse, log2e;  // 1 / T, log2(e) / T
};

// What one thread knows of the segment it walks over.
template <bool kFast, bool kByProducts>
struct Walker {
  RowState state;
  UnitExp exp;

  FPL_DEVICE void setUnit(const Unit& unit, const Temperature& temperature) {
    state.rescale(unit, temperature.inverse);
    exp = UnitExp(unit, temperature.log2e);
  }

  template <int kCount>
  FPL_DEVICE TileSums sums(const float (&x)[kCount]) const {
    return exp.base == 0 ? sumsOf<kFast, kByProducts, false>(x, exp) : sumsOf<kFast, kByProducts, true>(x, exp);
  }

  // A tile of logits; `index(i)` is where x[i] stands in the row. The sum is the same with and without by-products.
  template <int kCount, typename Index>
  FPL_DEVICE void add(const float (&x)[kCount], const Temperature& temperature, const Index& index) {
    float maximum = -INFINITY;
    if (kByProducts || state.empty()) maximum = maximumOf(x);
    if (state.empty()) setUnit(unitFor(maximum, temperature.inverse), temperature);
    TileSums tile = sums(x);
    if (!(tile.sum < kTileLimit)) {
      // The unit is too small, or there is NaN or +inf: in a unit of its own the tile tells which.
      maximum = maximumOf(x);
      setUnit(unitFor(maximum, temperature.inverse), temperature);
      tile = sums(x);
      if (!(tile.sum < kTileLimit)) tile.sum = NAN;
    }
    state.sum = fusedMultiplyAdd(double(tile.sum), exp.correction, state.sum);
    if (!kByProducts) return;
    state.weighted += exp.correction * (double(tile.weighted) * kLn2 + exp.logCorrection * double(tile.sum));
    state.squares += exp.correction * exp.correction * double(tile.squares);
    if (maximum > state.maximum) {
      state.maximum = maximum;
      state.argmax = -1;
#pragma unroll
      for (int i = kCount; i-- > 0;) {
        if (x[i] == maximum) state.argmax = index(i);
      }
    }
  }
};

// The threads of a block share a segment out among them by Quads of the row, wherever the row lies in memory.
template <typename T, bool kByProducts, bool kAligned>
FPL_DEVICE RowState segmentShare(const T* row, int64_t vocab, int64_t begin, int64_t end, int64_t label,
                                 const Temperature& temperature) {
  constexpr int kPer = kPerQuad<T>;
  constexpr int64_t kStride = int64_t(kThreads) * kPer;
  Walker<sizeof(T) == 2, kByProducts> walker;
  for (int64_t tile = begin + threadIndex() * kPer; tile < end; tile += kLoads * kStride) {
    Quad quads[kLoads];
    bool whole[kLoads];
    loadQuads<T, kAligned>(row, row + vocab, tile, kStride, end, quads, whole);
    float x[kLoads * kPer];
#pragma unroll
    for (int v = 0; v < kLoads; ++v) {
      const int64_t at = tile + v * kStride;
      unpack(quads[v], x + v * kPer, row);
      if (!whole[v]) {
#pragma unroll
        for (int i = 0; i < kPer; ++i) x[v * kPer + i] = at + i < end ? toFloat(row[at + i]) : -INFINITY;
      }
      if (label >= at && label < at + kPer) {
#pragma unroll
        for (int i = 0; i < kPer; ++i) x[v * kPer + i] = at + i == label ? -INFINITY : x[v * kPer + i];
      }
    }
    walker.add(x, temperature, [=](int i) { return tile + i / kPer * kStride + i % kPer; });
  }
  return walker.state;
}

template <typename T, bool kByProducts>
struct SweepArguments {
  Rows logits;
  const int32_t* targets;
  PartialSums* sums;  // one every `sumsStride` bytes
  int64_t sumsStride;
  PartialByProducts* byProducts;
  Temperature temperature;
  int64_t first;             // row of the first block
  int64_t segments;          // in a row
  int64_t segmentsPerBlock;  // 1, or all of a row's
};

template <typename T, bool kByProducts>
FPL_KERNEL(kThreads, kByProducts ? 2 : 3)
sweepKernel(FPL_ARGUMENT SweepArguments<T, kByProducts> a) {
  constexpr int kSegments = Share<kByProducts>::kSegments;
  struct Shares {
    Share<kByProducts> of[kSegments][kThreads];
  };
  struct Results {
    Share<kByProducts> of[kSegments];
  };
  FPL_SHARED(Shares, shares);
  FPL_SHARED(Results, results);

  const int64_t blocksPerRow = a.segments / a.segmentsPerBlock;
  const int64_t row = a.first + blockIndex() / blocksPerRow;
  const int64_t label = a.targets[row];
  if (label < 0) return;
  const T* logits = a.logits.template at<T>(row);
  const int64_t vocab = a.logits.vocab;
  const bool aligned = reinterpret_cast<uintptr_t>(logits) % sizeof(Quad) == 0;
  const int64_t firstSegment = blockIndex() % blocksPerRow * a.segmentsPerBlock;
  const int thread = threadIndex(), warp = thread / kWarp, lane = thread % kWarp;

  RowState total;  // thread 0's
  for (int64_t done = 0; done < a.segmentsPerBlock; done += kSegments) {
    const int count = int(a.segmentsPerBlock - done < kSegments ? a.segmentsPerBlock - done : kSegments);
    for (int s = 0; s < count; ++s) {
      const int64_t begin = (firstSegment + done + s) * RowSegments::kLength;
      const int64_t end = begin + RowSegments::kLength < vocab ? begin + RowSegments::kLength : vocab;
      const RowState share = aligned
                                 ? segmentShare<T, kByProducts, true>(logits, vocab, begin, end, label, a.temperature)
                                 : segmentShare<T, kByProducts, false>(logits, vocab, begin, end, label, a.temperature);
      put(share, shares.of[s][thread]);
    }
    barrier();
    if (warp < count) {
      RowState state = take(shares.of[warp][lane]);
      for (int t = lane + kWarp; t < kThreads; t += kWarp) state.merge(take(shares.of[warp][t]), a.temperature.inverse);
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        state.merge(stateAbove<kByProducts>(state, offset), a.temperature.inverse);
      }
      if (lane == 0) put(state, results.of[warp]);
    }
    barrier();
    if (thread == 0) {
      for (int s = 0; s < count; ++s) {
        if (done + s == 0)
          total = take(results.of[s]);
        else
          total.merge(take(results.of[s]), a.temperature.inverse);
      }
    }
  }
  if (thread != 0) return;
  const int64_t place = row * blocksPerRow + firstSegment / a.segmentsPerBlock;
  PartialSums& sums = *reinterpret_cast<PartialSums*>(reinterpret_cast<char*>(a.sums) + place * a.sumsStride);
  sums = {total.sum, total.unit};
  if (kByProducts) a.byProducts[place] = {total.weighted, total.squares, total.maximum, int32_t(total.argmax)};
}

template <typename T, bool kByProducts>
void sweep(const Forward& forward, const Tokens& tokens, const SweepScratch& scratch, int64_t first, int64_t end,
           Stream stream) {
  SweepArguments<T, kByProducts> a;
  a.logits = forward.logits;
  a.targets = tokens.targets;
  a.sums = scratch.sums ? scratch.sums : reinterpret_cast<PartialSums*>(forward.states);
  a.sumsStride = scratch.sums ? sizeof(PartialSums) : sizeof(TokenState);
  a.byProducts = scratch.byProducts;
  a.temperature = {1 / tokens.temperature, kLog2e / tokens.temperature};
  a.segments = RowSegments(forward.logits.vocab).count;
  a.segmentsPerBlock = scratch.split ? 1 : a.segments;
  const int64_t blocksPerRow = a.segments / a.segmentsPerBlock, mostRows = kMostBlocks / blocksPerRow;
  for (a.first = first; a.first < end; a.first += mostRows) {
    const int64_t rows = end - a.first < mostRows ? end - a.first : mostRows;
    FPL_LAUNCH("token log-probs", (sweepKernel<T, kByProducts>), rows * blocksPerRow, kThreads, stream, a);
  }
}

struct FinishArguments {
  Forward forward;
  Tokens tokens;
  const PartialSums* sums;
  int64_t sumsStride;
  const PartialByProducts* byProducts;
  int64_t partials;  // of a row
  const int32_t* places;
  double inverseTemperature;
  int64_t rows;
};

FPL_DEVICE float logitAt(const Rows& rows, int64_t row, int64_t index) {
  if (rows.dtype == DType::kFloat32) return rows.at<float>(row)[index];
  return rows.dtype == DType::kFloat16 ? toFloat(rows.at<Float16>(row)[index]) : toFloat(rows.at<BFloat16>(row)[index]);
}

FPL_KERNEL(kThreads, 2)
finishKernel(FPL_ARGUMENT FinishArguments a) {
  const int64_t row = blockIndex() * kThreads + threadIndex();
  if (row >= a.rows) return;
  const int64_t to = a.places ? a.places[row] : row;
  if (to < 0) return;
  const int32_t label = a.tokens.targets[row];
  const Forward& f = a.forward;
  // An inactive row, and one whose label is out of range.
  const double nothing = label == -1 ? 0 : NAN;
  TokenState token{nothing, nothing, nothing, {}};
  TokenByProducts more{nothing, nothing, nothing, -1};
  if (label >= 0) {
    const auto partial = [&](int64_t i) {
      const int64_t place = row * a.partials + i;
      const auto& sums =
          *reinterpret_cast<const PartialSums*>(reinterpret_cast<const char*>(a.sums) + place * a.sumsStride);
      return a.byProducts ? take(sums, a.byProducts[place]) : take(sums);
    };
    RowState state = partial(0);
    for (int64_t i = 1; i < a.partials; ++i) state.merge(partial(i), a.inverseTemperature);
    const float labelLogit = logitAt(f.logits, row, label);
    token = finish(state, labelLogit, a.inverseTemperature);
    if (a.byProducts) more = byProducts(state, token, label, labelLogit, a.inverseTemperature);
  }
  f.states[to] = token;
  if (f.tokenLogProbs) f.tokenLogProbs[to] = float(token.logProb);
  if (f.tokenEntropies) f.tokenEntropies[to] = float(more.entropy);
  if (f.tokenArgmax) f.tokenArgmax[to] = int32_t(more.argmax);
  if (f.logSumExp) f.logSumExp[to] = float(more.logSumExp);
  if (f.sumSquaredProbs) f.sumSquaredProbs[to] = float(more.sumSquaredProbs);
}

}  // namespace

void sweepRows(const Forward& forward, const Tokens& tokens, const SweepScratch& scratch, int64_t first, int64_t end,
               Stream stream) {
  const bool more = scratch.byProducts != nullptr;
  switch (forward.logits.dtype) {
    case DType::kFloat32:
      return (more ? sweep<float, true> : sweep<float, false>)(forward, tokens, scratch, first, end, stream);
    case DType::kFloat16:
      return (more ? sweep<Float16, true> : sweep<Float16, false>)(forward, tokens, scratch, first, end, stream);
    case DType::kBFloat16:
      return (more ? sweep<BFloat16, true> : sweep<BFloat16, false>)(forward, tokens, scratch, first, end, stream);
  }
}

void finishRows(const Forward& forward, const Tokens& tokens, const SweepScratch& scratch, const int32_t* places,
                Stream stream) {
  FinishArguments a;
  a.forward = forward;
  a.tokens = tokens;
  a.sums = scratch.sums ? scratch.sums : reinterpret_cast<const PartialSums*>(forward.states);
  a.sumsStride = scratch.sums ? sizeof(PartialSums) : sizeof(TokenState);
  a.byProducts = scratch.byProducts;
  a.partials = scratch.split ? RowSegments(forward.logits.vocab).count : 1;
  a.places = places;
  a.inverseTemperature = 1 / tokens.temperature;
  a.rows = forward.logits.count();
  FPL_LAUNCH("token log-probs", finishKernel, (a.rows + kThreads - 1) / kThreads, kThreads, stream, a);
}

}  // namespace cuda
}  // namespace fpl
