// How the threads of a block read a row of logits, 16 bytes a load: stage 1 of the row.
#pragma once

#include "row_reader.h"
#include "row_tasks.h"
#include "softcap.h"
#include "swept.h"
#include "tuning.h"

namespace fpl {
namespace cuda {
namespace sweeping {

constexpr uint32_t kThreads = kBlockThreads;  // that share a segment
// 16-byte loads in flight in each thread: a tile, whose sums are float32. Their bits depend on it.
constexpr uint32_t kLoads = 4;

// What a sweep finds of a row: the sum of its exponentials; the by-products, too; the sum of the logits themselves,
// too; and that of the logits times the weights of their classes.
enum class Sweep { kSum, kByProducts, kLogits, kWeighted };
template <Sweep kFinds>
constexpr int blocksOf(const Tuning& tuning) {
  return kFinds == Sweep::kSum ? tuning.sweepBlocks : tuning.fullSweepBlocks;
}
template <Sweep kFinds>
constexpr int kBlocksOf = blocksOf<kFinds>(kTuning);
template <Sweep kFinds>
constexpr bool kFindsLogits = kFinds == Sweep::kLogits || kFinds == Sweep::kWeighted;

// What a thread has seen of a segment, on its way through shared memory.
template <Sweep kFinds>
struct Share;
template <>
struct Share<Sweep::kSum> {
  static constexpr int kSegments = 8;  // that fit shared memory at once; no more than there are warps
  PartialSums sums;
};
template <>
struct Share<Sweep::kByProducts> {
  static constexpr int kSegments = 4;
  PartialSums sums;
  PartialByProducts byProducts;
};
template <>
struct Share<Sweep::kLogits> {
  static constexpr int kSegments = 3;
  PartialSums sums;
  PartialByProducts byProducts;
  double logits;
};
template <>
struct Share<Sweep::kWeighted> {
  static constexpr int kSegments = 3;
  PartialSums sums;
  PartialByProducts byProducts;
  double logits, weighted;
};

FPL_DEVICE void put(const Swept& swept, Share<Sweep::kSum>& share) { share.sums = partialSums(swept); }
FPL_DEVICE void put(const Swept& swept, Share<Sweep::kByProducts>& share) {
  share.sums = partialSums(swept);
  share.byProducts = partialByProducts(swept);
}
FPL_DEVICE void put(const Swept& swept, Share<Sweep::kLogits>& share) {
  share.sums = partialSums(swept);
  share.byProducts = partialByProducts(swept);
  share.logits = swept.logits;
}
FPL_DEVICE void put(const Swept& swept, Share<Sweep::kWeighted>& share) {
  share.sums = partialSums(swept);
  share.byProducts = partialByProducts(swept);
  share.logits = swept.logits;
  share.weighted = swept.weighted;
}

FPL_DEVICE Swept take(const Share<Sweep::kSum>& share) { return take(share.sums); }
FPL_DEVICE Swept take(const Share<Sweep::kByProducts>& share) { return take(share.sums, share.byProducts); }
FPL_DEVICE Swept take(const Share<Sweep::kLogits>& share) {
  Swept swept = take(share.sums, share.byProducts);
  swept.logits = share.logits;
  return swept;
}
FPL_DEVICE Swept take(const Share<Sweep::kWeighted>& share) {
  Swept swept = take(share.sums, share.byProducts);
  swept.logits = share.logits;
  swept.weighted = share.weighted;
  return swept;
}

template <Sweep kFinds>
FPL_DEVICE Swept sweptAbove(const Swept& mine, int offset) {
  Swept swept;
  RowState& state = swept.state;
  state.sum = fromLaneAbove(mine.state.sum, offset);
  state.unit.base = fromLaneAbove(mine.state.unit.base, offset);
  state.unit.exponent = fromLaneAbove(mine.state.unit.exponent, offset);
  if (kFinds != Sweep::kSum) {
    state.weighted = fromLaneAbove(mine.state.weighted, offset);
    state.squares = fromLaneAbove(mine.state.squares, offset);
    state.maximum = fromLaneAbove(mine.state.maximum, offset);
    state.argmax = fromLaneAbove(int32_t(mine.state.argmax), offset);
  }
  if (kFindsLogits<kFinds>) swept.logits = fromLaneAbove(mine.logits, offset);
  if (kFinds == Sweep::kWeighted) swept.weighted = fromLaneAbove(mine.weighted, offset);
  return swept;
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
        if (x[i] == maximum) state.argmax = index(uint32_t(i));
      }
    }
  }
};

// Σ of numbers: in float32 together with what its rounding leaves out or, where it is infinite, in float64.
template <int kCount>
FPL_DEVICE double sumOfLogits(const float (&x)[kCount]) {
  float sum = 0, rest = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float next = add(sum, x[i]), taken = add(next, -sum);
    rest = add(rest, add(add(sum, -add(next, -taken)), add(x[i], -taken)));
    sum = next;
  }
  if (fabsf(sum) < INFINITY) return double(sum) + double(rest);
  double wide = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) wide += double(x[i]);
  return wide;
}

struct SweepArguments {
  Rows logits;
  const int32_t* targets;
  SweepScratch partials;
  Temperature temperature;
  CapConstants cap{0};
  RowTasks tasks;
  int segmentsPerTask;  // 1, or all of a row's
};

// Adds the logits of a tile times the weights of their classes to a sum. They are read anew, a Quad at a time: what
// that takes of registers would not be there beside the whole tile.
template <typename T, bool kCaps, bool kAligned>
FPL_DEVICE double plusWeighted(double sum, const RowReader<T>& row, uint32_t first, const SweepArguments& a) {
  constexpr uint32_t kPer = kPerQuad<T>;
#pragma unroll 1
  for (uint32_t quad = first; quad < first + kLoads * kThreads; quad += kThreads) {
    float x[kPer];
    row.template read<kAligned, true>(quad, 0, x);
#pragma unroll
    for (uint32_t i = 0; i < kPer; ++i) {
      const uint32_t at = row.placeOf(quad) + i;
      const float weight = at < uint32_t(a.logits.vocab) ? a.partials.classWeights[at] : 0;
      // A logit of weight 0 takes no part, whatever it is.
      if (weight != 0) sum = fusedMultiplyAdd(double(weight), double(kCaps ? capped(x[i], a.cap) : x[i]), sum);
    }
  }
  return sum;
}

// What a thread sees of a segment, of which it has every kThreads-th Quad. `kKeeps`: the row will be read again soon.
template <typename T, Sweep kFinds, bool kCaps, bool kAligned, bool kKeeps>
FPL_DEVICE Swept segmentShare(const RowReader<T>& row, uint32_t segment, uint32_t label, uint32_t thread,
                              const SweepArguments& a) {
  constexpr uint32_t kPer = kPerQuad<T>, kTile = kLoads * kThreads, kQuads = RowSegments::kLength / kPer;
  static_assert(kQuads % kTile == 0, "a segment is a number of tiles");
  // Whether the label and what lies behind the row take part in something before they are hidden.
  constexpr bool kHidesLate = kCaps || kFindsLogits<kFinds>;
  constexpr bool kReadsAgain = kKeeps || kFinds == Sweep::kWeighted;
  const uint32_t vocab = uint32_t(a.logits.vocab), begin = segment * kQuads;
  const uint32_t end = vocab - begin * kPer < kQuads * kPer ? (vocab + kPer - 1) / kPer : begin + kQuads;
  const uint32_t ofLabel = label / kPer % kThreads == thread ? label / kPer : UINT32_MAX;  // the Quad, if it has that
  Walker<sizeof(T) == 2, kFinds != Sweep::kSum> walker;
  double logits = 0, weighted = 0;
  for (uint32_t first = begin + thread; first < end; first += kTile) {
    const auto placeOf = [=](uint32_t i) { return (first + i / kPer * kThreads) * kPer + i % kPer; };
    float x[kLoads * kPer];
    const bool isWhole = row.template read<kAligned, kReadsAgain>(first, kHidesLate ? 0 : -INFINITY, x);
    if (kCaps) {
#pragma unroll
      for (uint32_t i = 0; i < kLoads * kPer; ++i) x[i] = capped(x[i], a.cap);
    }
    if (kFindsLogits<kFinds>) logits += sumOfLogits(x);
    if (kFinds == Sweep::kWeighted) weighted = plusWeighted<T, kCaps, kAligned>(weighted, row, first, a);
    if ((kHidesLate && !isWhole) || ofLabel - first < kTile) {
#pragma unroll
      for (uint32_t i = 0; i < kLoads * kPer; ++i) {
        const uint32_t at = placeOf(i);
        if (at == label || (kHidesLate && at >= vocab)) x[i] = -INFINITY;
      }
    }
    walker.add(x, a.temperature, placeOf);
  }
  return {walker.state, logits, weighted};
}

// One of the groups of kThreads threads that a block has.
struct Group {
  int index, count;
};

template <Sweep kFinds>
struct Shares {
  Share<kFinds> of[Share<kFinds>::kSegments][kThreads];
};
template <Sweep kFinds>
struct SegmentResults {
  Share<kFinds> of[Share<kFinds>::kSegments];
};

// What thread 0 has of the segments first .. first + a.segmentsPerTask of a row, which the groups of the block share
// out among them. They are merged in their order.
template <typename T, Sweep kFinds, bool kCaps, bool kKeeps>
FPL_DEVICE Swept sweptSegments(const SweepArguments& a, const T* row, uint32_t label, int64_t first, Group group,
                               Shares<kFinds>& shares, SegmentResults<kFinds>& results) {
  constexpr int kSegments = Share<kFinds>::kSegments;
  const RowReader<T> reader(row, uint32_t(a.logits.vocab), 0);
  const int warp = threadIndex() / kWarp, lane = threadIndex() % kWarp;
  const uint32_t thread = uint32_t(threadIndex() - group.index * kThreads);
  Swept total;
  for (int done = 0; done < a.segmentsPerTask; done += kSegments) {
    const int count = a.segmentsPerTask - done < kSegments ? a.segmentsPerTask - done : kSegments;
    for (int s = group.index; s < count; s += group.count) {
      const uint32_t segment = uint32_t(first + done + s);
      const Swept share = reader.isAligned()
                              ? segmentShare<T, kFinds, kCaps, true, kKeeps>(reader, segment, label, thread, a)
                              : segmentShare<T, kFinds, kCaps, false, kKeeps>(reader, segment, label, thread, a);
      put(share, shares.of[s][thread]);
    }
    barrier();
    if (warp < count) {
      Swept swept = take(shares.of[warp][lane]);
      for (uint32_t t = lane + kWarp; t < kThreads; t += kWarp) {
        swept.merge(take(shares.of[warp][t]), a.temperature.inverse);
      }
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        swept.merge(sweptAbove<kFinds>(swept, offset), a.temperature.inverse);
      }
      if (lane == 0) put(swept, results.of[warp]);
    }
    // Also before `shares` are written again, and `results` after the next one.
    barrier();
    if (threadIndex() != 0) continue;
    for (int s = 0; s < count; ++s) {
      if (done + s == 0)
        total = take(results.of[s]);
      else
        total.merge(take(results.of[s]), a.temperature.inverse);
    }
  }
  return total;
}

// Leaves it where a row is finished from; `place`: of the row's partial.
template <Sweep kFinds>
FPL_DEVICE void putPartial(const Swept& swept, const SweepScratch& partials, int64_t place) {
  partials.sums[place] = partialSums(swept);
  if (kFinds != Sweep::kSum) partials.byProducts[place] = partialByProducts(swept);
  if (kFindsLogits<kFinds>) partials.logits[place] = swept.logits;
  if (kFinds == Sweep::kWeighted) partials.weighted[place] = swept.weighted;
}

inline SweepArguments sweepArguments(const Forward& forward, const Tokens& tokens, const SweepScratch& scratch) {
  SweepArguments a;
  a.logits = forward.logits;
  a.targets = tokens.targets;
  a.partials = scratch;
  if (scratch.classWeights) a.partials.classWeights += tokens.shard.start;
  a.temperature = {1 / tokens.temperature, kLog2e / tokens.temperature};
  a.cap = CapConstants(tokens.capScale);
  return a;
}

}  // namespace sweeping
}  // namespace cuda
}  // namespace fpl
