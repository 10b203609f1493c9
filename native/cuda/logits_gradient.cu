// Stage 4 on a GPU: what each row's logits are turned into, then the rows themselves, cut into tiles that are shared
// out among all multiprocessors. An active row is read once and written once; the others are written as zeros, if at
// all.
#include "../core/row_gradient.h"
#include "stages.h"

namespace fpl {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 4;  // 16-byte loads in flight in each thread

// A row's values lie where its state was.
static_assert(sizeof(RowGradient) <= sizeof(TokenState), "the values take the place of the state");
FPL_DEVICE RowGradient* valuesOf(const TokenState* states, int64_t row) {
  return reinterpret_cast<RowGradient*>(const_cast<TokenState*>(states) + row);
}

FPL_KERNEL(kThreads, 2)
valuesKernel(FPL_ARGUMENT Gradient gradient, FPL_ARGUMENT Tokens tokens) {
  const int64_t row = blockIndex() * kThreads + threadIndex();
  if (row >= gradient.logits.count() || tokens.targets[row] == -1) return;
  int64_t low = 0, high = tokens.sequences;  // the row's sequence is in low .. high
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (tokens.offsets[middle] <= row ? low : high) = middle;
  }
  const int32_t divisor = tokens.average ? tokens.counts[low] : 1;
  double coefficient = weighed(tokens.weight(row), gradient.coefficients[low] / divisor);
  if (gradient.plainCoefficients) {
    coefficient += weighed(tokens.plainWeights[row], gradient.plainCoefficients[low] / divisor);
  }
  const TokenState state = gradient.states[row];
  *valuesOf(gradient.states, row) = rowGradient(state, coefficient, 1 / tokens.temperature);
}

struct GradientArguments {
  Gradient gradient;
  const int32_t* targets;
  int64_t first;   // row of the first block
  int64_t tiles;   // of a row
  double log2e;    // log2(e) / T
  double unitLog;  // T ln 2
};

// factor · e^(x/T), in units: 2^n times a polynomial, so that small values keep their digits. There is time for it
// between the loads and stores of this stage, and the special function unit's 2^x alone would use up the 4 ULP of the
// result.
struct ScaledExp {
  float base, low, log2eHigh, log2eLow, magic;
  float coefficients[kExp2Degree + 1];

  FPL_DEVICE ScaledExp(const RowGradient& values, double log2e, double unitLog) {
    base = values.unit.base;
    log2eHigh = float(log2e);
    log2eLow = float(log2e - double(log2eHigh));
    // The exponent's bias and the unit go along when it is rounded.
    magic = kRounding + float(127 - values.unit.exponent);
    // Below `low` the exponent field is 0 and the result exactly 0, -inf included.
    low = float(double(values.unit.exponent - 127) * unitLog);
#pragma unroll
    for (int k = 0; k <= kExp2Degree; ++k) coefficients[k] = multiply(values.factor, exp2Coefficient(k));
  }

  FPL_DEVICE float operator()(float x) const {
    x = fmaxf(base == 0 ? x : add(x, -base), low);
    const float n = fusedMultiplyAdd(x, log2eHigh, magic);
    const float whole = add(n, -magic);
    const float fraction = fusedMultiplyAdd(x, log2eLow, fusedMultiplyAdd(x, log2eHigh, -whole));
    float p = coefficients[kExp2Degree];
#pragma unroll
    for (int k = kExp2Degree - 1; k >= 0; --k) p = fusedMultiplyAdd(p, fraction, coefficients[k]);
    return multiply(p, floatOf(bitsOf(n) << 23));
  }
};

template <typename T>
FPL_DEVICE void storeElement(T* p, float value) {
  T out;
  fromFloat(value, out);
  *p = out;
}

// The Quads of a tile lie on 16-byte boundaries of `out`; those at the ends of the row are written element by element.
template <typename T, bool kAligned>
FPL_DEVICE void writeTile(const T* logits, T* out, int64_t vocab, int64_t first, int64_t label, bool active,
                          const RowGradient& values, const ScaledExp& exp) {
  constexpr int kPer = kPerQuad<T>;
  constexpr int64_t kStride = int64_t(kThreads) * kPer;
  const bool read = active && values.factor == values.factor && values.factor != 0;
  Quad quads[kLoads];
  bool whole[kLoads];
  if (read) loadQuads<T, kAligned>(logits, logits + vocab, first, kStride, vocab, quads, whole);
#pragma unroll
  for (int v = 0; v < kLoads; ++v) {
    const int64_t at = first + v * kStride;
    if (at >= vocab || at + kPer <= 0) continue;
    const bool inside = at >= 0 && at + kPer <= vocab;
    float x[kPer];
    if (read) {
      if (inside && whole[v]) {
        unpack(quads[v], x, logits);
      } else {
#pragma unroll
        for (int i = 0; i < kPer; ++i) x[i] = at + i >= 0 && at + i < vocab ? toFloat(logits[at + i]) : -INFINITY;
      }
#pragma unroll
      for (int i = 0; i < kPer; ++i) x[i] = exp(x[i]);
    } else {
      // Without a gradient 0, without an answer NaN.
#pragma unroll
      for (int i = 0; i < kPer; ++i) x[i] = active ? values.factor : 0;
    }
    if (read && label >= at && label < at + kPer) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) x[i] = at + i == label ? values.atLabel : x[i];
    }
    if (inside) {
      storeStreaming(reinterpret_cast<Quad*>(out + at), pack(x, logits));
    } else {
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        if (at + i >= 0 && at + i < vocab) storeElement(out + at + i, x[i]);
      }
    }
  }
}

// Logits in a tile.
template <typename T>
constexpr int64_t kTile = int64_t(kThreads) * kPerQuad<T> * kLoads;

template <typename T>
FPL_KERNEL(kThreads, 4)
gradientKernel(FPL_ARGUMENT GradientArguments a) {
  const Gradient& g = a.gradient;
  const int64_t row = a.first + blockIndex() / a.tiles;
  const int64_t label = a.targets[row];
  const bool active = label != -1;
  if (!active && g.skipInactive) return;
  const T* logits = g.logits.template at<T>(row);
  T* out = g.out.template at<T>(row);
  // The first Quad of the row begins at or before the row.
  const int64_t ahead = int64_t(reinterpret_cast<uintptr_t>(out) % sizeof(Quad) / sizeof(T));
  const int64_t first = blockIndex() % a.tiles * kTile<T> + threadIndex() * kPerQuad<T> - ahead;
  const RowGradient values = active ? *valuesOf(g.states, row) : RowGradient{};
  const ScaledExp exp(values, a.log2e, a.unitLog);
  const bool aligned = (reinterpret_cast<uintptr_t>(logits) - reinterpret_cast<uintptr_t>(out)) % sizeof(Quad) == 0;
  if (aligned) {
    writeTile<T, true>(logits, out, g.logits.vocab, first, label, active, values, exp);
  } else {
    writeTile<T, false>(logits, out, g.logits.vocab, first, label, active, values, exp);
  }
}

template <typename T>
void gradientRows(const Gradient& gradient, const Tokens& tokens, int64_t first, int64_t end, Stream stream) {
  GradientArguments a;
  a.gradient = gradient;
  a.targets = tokens.targets;
  a.tiles = (gradient.logits.vocab + kPerQuad<T> - 1 + kTile<T> - 1) / kTile<T>;
  a.log2e = kLog2e / tokens.temperature;
  a.unitLog = tokens.temperature * kLn2;
  const int64_t mostRows = kMostBlocks / a.tiles;
  for (a.first = first; a.first < end; a.first += mostRows) {
    const int64_t rows = end - a.first < mostRows ? end - a.first : mostRows;
    FPL_LAUNCH("logits gradient", gradientKernel<T>, rows * a.tiles, kThreads, stream, a);
  }
}

}  // namespace

void rowGradients(const Gradient& gradient, const Tokens& tokens, Stream stream) {
  const int64_t blocks = (gradient.logits.count() + kThreads - 1) / kThreads;
  FPL_LAUNCH("logits gradient", valuesKernel, blocks, kThreads, stream, gradient, tokens);
}

void logitsGradient(const Gradient& gradient, const Tokens& tokens, int64_t first, int64_t end, Stream stream) {
  switch (gradient.out.dtype) {
    case DType::kFloat32:
      return gradientRows<float>(gradient, tokens, first, end, stream);
    case DType::kFloat16:
      return gradientRows<Float16>(gradient, tokens, first, end, stream);
    case DType::kBFloat16:
      return gradientRows<BFloat16>(gradient, tokens, first, end, stream);
  }
}

}  // namespace cuda
}  // namespace fpl
