// Stage 4 on a GPU: what each row's logits are turned into, then the rows themselves, cut into tiles that are shared
// out among all multiprocessors. An active row is read once and written once; the others are written as zeros, if at
// all.
#include <type_traits>

#include "softcap.h"
#include "stages.h"

namespace fpl {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 4;  // 16-byte loads in flight in each thread

struct ValuesArguments {
  Gradient gradient;
  Tokens tokens;
  RowValues* values;
  bool isFull;
  double perLogit;   // the derivative of what counts with respect to the logit, but for the slope of a soft-cap
  float mostWeight;  // the largest weight of a class
};

// What the sequence's results have of d loss / d results of the row, and its own.
FPL_DEVICE ResultSlopes slopesOf(const Gradient& gradient, const Tokens& tokens, int64_t row) {
  int64_t low = 0, high = tokens.sequences;  // the row's sequence is in low .. high
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (tokens.offsets[middle] <= row ? low : high) = middle;
  }
  const int32_t divisor = tokens.average ? tokens.counts[low] : 1;
  ResultSlopes slopes;
  slopes.logProb = weighed(tokens.weight(row), gradient.coefficients[low] / divisor);
  if (gradient.plainCoefficients) {
    slopes.logProb += weighed(tokens.plainWeights[row], gradient.plainCoefficients[low] / divisor);
  }
  const TokenCoefficients& own = gradient.tokenCoefficients;
  if (own.logProb) slopes.logProb += own.logProb[row];
  if (own.logSumExp) slopes.logSumExp = own.logSumExp[row];
  if (own.entropy) slopes.entropy = own.entropy[row];
  if (own.meanLogit) slopes.meanLogit = own.meanLogit[row];
  return slopes;
}

// A bound of the magnitudes of a row's derivatives: no other p is above 1 - p(label), and no p · |log p| above 1 / e or
// the entropy.
FPL_DEVICE double largestOf(const TokenState& token, const ResultSlopes& slopes, double entropy, double perLogit) {
  constexpr double kMostOfPLogP = 0.367879441171442322;
  double largest = fabs((slopes.logSumExp - slopes.logProb) * perLogit) * token.complement;
  if (slopes.entropy == 0) return largest;
  const double ofEntropy = (entropy < kMostOfPLogP ? entropy : kMostOfPLogP) + token.complement * entropy;
  return largest + fabs(slopes.entropy * perLogit) * ofEntropy;
}

// Of a row whose scale is deferred, those of its own log-prob. A row that is known to take no part has none.
FPL_DEVICE ResultSlopes deferred(const Gradient& gradient, const Tokens& tokens, int64_t row, double scale) {
  const bool takesPart = gradient.tokenCoefficients.logProb
                             ? scale != 0
                             : tokens.weight(row) != 0 || (gradient.plainCoefficients && tokens.plainWeights[row] != 0);
  ResultSlopes slopes;
  slopes.logProb = takesPart ? 1 : 0;
  return slopes;
}

FPL_KERNEL(kThreads, 2)
valuesKernel(FPL_ARGUMENT ValuesArguments a) {
  const Gradient& g = a.gradient;
  const int64_t row = blockIndex() * kThreads + threadIndex();
  if (row >= g.logits.count()) return;
  const int32_t label = a.tokens.targets[row];
  if (label == -1) {
    if (g.rowScale) g.rowScale[row] = 0;
    return;
  }
  ResultSlopes slopes = slopesOf(g, a.tokens, row);
  if (g.rowScale) {
    g.rowScale[row] = slopes.logProb;
    slopes = deferred(g, a.tokens, row, slopes.logProb);
  }
  const TokenState token = g.states[row];
  const double entropy = slopes.entropy == 0 ? 0 : g.entropies[row];
  RowValues values;
  FullRowGradient& full = values.gradient;
  if (g.classWeights) {
    const double perClass = slopes.meanLogit * a.perLogit / double(g.logits.vocab);
    slopes.meanLogit = 0;
    full = fullRowGradient(token, slopes, entropy, a.perLogit, g.logits.vocab);
    if (full.constant == full.constant) full.everywhere = float(perClass);
    if (label >= 0) full.atLabel = float(double(full.atLabel) + weighed(double(g.classWeights[label]), perClass));
  } else if (a.isFull) {
    full = fullRowGradient(token, slopes, entropy, a.perLogit, g.logits.vocab);
  } else {
    const RowGradient plain = rowGradient(token, slopes.logProb, a.perLogit, slopes.logSumExp);
    full.unit = plain.unit;
    full.constant = plain.factor;
    full.atLabel = plain.atLabel;
  }
  const float others = float(largestOf(token, slopes, entropy, a.perLogit)) + fabsf(full.everywhere) * a.mostWeight;
  values.largest = fmaxf(fabsf(full.atLabel), others);
  a.values[row] = values;
}

// How rows are written: as RowGradient says; as FullRowGradient says; like that, with weights of classes; and through a
// soft-cap, with such weights or without.
enum class Form { kPlain, kFull, kWeighted, kCapped };

struct GradientArguments {
  Gradient gradient;
  const RowValues* values;
  const int32_t* targets;
  int64_t first;   // row of the first block
  int64_t tiles;   // of a row
  double log2e;    // log2(e) / T
  double unitLog;  // T ln 2
  CapConstants cap{0};
};

// What a row's logits x become, in units. With e^(x/T) as 2^n times a polynomial small values keep their digits. There
// is time for it between the loads and stores of this stage, and the special function unit's 2^x alone would use up the
// 4 ULP of the result.
//
// For Form::kPlain constant · e^(x/T), and the constant is in the polynomial's coefficients. For others
// e^(x/T) · (constant + perLog · log e^(x/T)) + everywhere, where the logarithm is n and the polynomial's argument, and
// `everywhere` may have the weight of the logit's class.
template <Form kForm>
struct ScaledExp {
  float base, low, log2eHigh, log2eLow, magic;
  float coefficients[kExp2Degree + 1];
  float fromUnit, perPower, constant;

  FPL_DEVICE ScaledExp(const FullRowGradient& values, double log2e, double unitLog) {
    base = values.unit.base;
    log2eHigh = float(log2e);
    log2eLow = float(log2e - double(log2eHigh));
    // The exponent's bias and the unit go along when it is rounded.
    magic = kRounding + float(127 - values.unit.exponent);
    // Below `low` the exponent field is 0 and the result exactly 0, -inf included.
    low = float(double(values.unit.exponent - 127) * unitLog);
    if (kForm == Form::kPlain) {
#pragma unroll
      for (int k = 0; k <= kExp2Degree; ++k) coefficients[k] = multiply(values.constant, exp2Coefficient(k));
      return;
    }
    fromUnit = kRounding + float(127 + values.scale);
    perPower = float(double(values.perLog) * kLn2);
    constant = values.constant;
  }

  FPL_DEVICE float operator()(float x, float everywhere) const {
    x = fmaxf(base == 0 ? x : add(x, -base), low);
    const float n = fusedMultiplyAdd(x, log2eHigh, magic);
    const float whole = add(n, -magic);
    const float fraction = fusedMultiplyAdd(x, log2eLow, fusedMultiplyAdd(x, log2eHigh, -whole));
    float p = coefficient(kExp2Degree);
#pragma unroll
    for (int k = kExp2Degree - 1; k >= 0; --k) p = fusedMultiplyAdd(p, fraction, coefficient(k));
    p = multiply(p, floatOf(bitsOf(n) << 23));
    if (kForm == Form::kPlain) return p;
    const float ofPower = fusedMultiplyAdd(add(n, -fromUnit), perPower, constant);
    return fusedMultiplyAdd(p, fusedMultiplyAdd(fraction, perPower, ofPower), everywhere);
  }

 private:
  FPL_DEVICE float coefficient(int k) const { return kForm == Form::kPlain ? coefficients[k] : exp2Coefficient(k); }
};

template <typename T>
FPL_DEVICE void storeElement(T* p, float value) {
  T out;
  fromFloat(value, out);
  *p = out;
}

// The Quads of a tile lie on 16-byte boundaries of `out`; those at the ends of the row are written element by element.
template <typename T, Form kForm, bool kAligned>
FPL_DEVICE void writeTile(const T* logits, T* out, int64_t vocab, int64_t first, int64_t label, bool active,
                          const RowValues& values, const ScaledExp<kForm>& exp, const CapConstants& cap,
                          const float* classWeights) {
  constexpr int kPer = kPerQuad<T>;
  constexpr int64_t kStride = int64_t(kThreads) * kPer;
  // Without a gradient 0, without an answer NaN.
  const bool answers = active && !values.isNan(), isConstant = values.isConstant();
  const bool read = answers && (kForm == Form::kCapped ? !values.isZero() : !isConstant);
  const float nothing = active ? values.gradient.constant : 0;
  const auto everywhere = [&](int64_t at) {
    if (kForm == Form::kPlain) return 0.0f;
    const float value = values.gradient.everywhere;
    if (kForm == Form::kFull || !classWeights || at < 0 || at >= vocab) return value;
    return multiply(value, classWeights[at]);
  };
  Quad quads[kLoads];
  bool whole[kLoads];
  if (read) loadQuads<T, kAligned>(logits, logits + vocab, first, kStride, vocab, quads, whole);
#pragma unroll
  for (int v = 0; v < kLoads; ++v) {
    const int64_t at = first + v * kStride;
    if (at >= vocab || at + kPer <= 0) continue;
    const bool inside = at >= 0 && at + kPer <= vocab;
    float x[kPer], slopes[kPer];
    if (read) {
      if (inside && whole[v]) {
        unpack(quads[v], x, logits);
      } else {
#pragma unroll
        for (int i = 0; i < kPer; ++i) x[i] = at + i >= 0 && at + i < vocab ? toFloat(logits[at + i]) : -INFINITY;
      }
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        if (kForm == Form::kCapped) x[i] = capped(x[i], cap, slopes[i]);
        x[i] = kForm == Form::kCapped && isConstant ? everywhere(at + i) : exp(x[i], everywhere(at + i));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kPer; ++i) x[i] = kForm != Form::kPlain && answers ? everywhere(at + i) : nothing;
    }
    if (answers && label >= at && label < at + kPer) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) x[i] = at + i == label ? values.gradient.atLabel : x[i];
    }
    if (kForm == Form::kCapped && read) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) x[i] = multiply(x[i], slopes[i]);
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

template <typename T, Form kForm>
FPL_KERNEL(kThreads, kForm == Form::kCapped ? 3 : 4)
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
  const RowValues values = active ? a.values[row] : RowValues{};
  const ScaledExp<kForm> exp(values.gradient, a.log2e, a.unitLog);
  const bool aligned = (reinterpret_cast<uintptr_t>(logits) - reinterpret_cast<uintptr_t>(out)) % sizeof(Quad) == 0;
  if (aligned) {
    writeTile<T, kForm, true>(logits, out, g.logits.vocab, first, label, active, values, exp, a.cap, g.classWeights);
  } else {
    writeTile<T, kForm, false>(logits, out, g.logits.vocab, first, label, active, values, exp, a.cap, g.classWeights);
  }
}

// Logits in a block of the kernel below.
constexpr int64_t kElements = int64_t(kThreads) * 8;

// The same for a gradient of another type than the logits', element by element.
template <typename T, typename U, Form kForm>
FPL_KERNEL(kThreads, 4)
convertingKernel(FPL_ARGUMENT GradientArguments a) {
  const Gradient& g = a.gradient;
  const int64_t row = a.first + blockIndex() / a.tiles, vocab = g.logits.vocab;
  const int64_t label = a.targets[row];
  const bool active = label != -1;
  if (!active && g.skipInactive) return;
  const T* logits = g.logits.template at<T>(row);
  U* out = g.out.template at<U>(row);
  const RowValues values = active ? a.values[row] : RowValues{};
  const ScaledExp<kForm> exp(values.gradient, a.log2e, a.unitLog);
  const bool read = active && !values.isNan() && !values.isZero();
  const int64_t first = blockIndex() % a.tiles * kElements + threadIndex();
  for (int64_t at = first; at < first + kElements && at < vocab; at += kThreads) {
    float value = active ? values.gradient.constant : 0, slope = 1;  // NaN or 0
    if (read) {
      float x = toFloat(logits[at]), everywhere = values.gradient.everywhere;
      if (kForm == Form::kCapped) x = capped(x, a.cap, slope);
      if (g.classWeights) everywhere = multiply(everywhere, g.classWeights[at]);
      value = values.isConstant() ? everywhere : exp(x, everywhere);
      if (at == label) value = values.gradient.atLabel;
      if (kForm == Form::kCapped) value = multiply(value, slope);
    }
    storeElement(out + at, value);
  }
}

// Whether any row's values may be those of a FullRowGradient.
bool isFull(const Gradient& gradient) {
  return gradient.tokenCoefficients.entropy || gradient.tokenCoefficients.meanLogit;
}

template <typename T, typename U, Form kForm>
void gradientRows(const Gradient& gradient, const RowValues* values, const Tokens& tokens, int64_t first, int64_t end,
                  Stream stream) {
  constexpr bool kConverts = !std::is_same_v<T, U>;
  const int64_t vocab = gradient.logits.vocab;
  GradientArguments a;
  a.gradient = gradient;
  if (gradient.classWeights) a.gradient.classWeights += tokens.shard.start;
  a.values = values;
  a.targets = tokens.targets;
  a.tiles = kConverts ? (vocab + kElements - 1) / kElements : (vocab + kPerQuad<T> - 1 + kTile<T> - 1) / kTile<T>;
  a.log2e = kLog2e / tokens.temperature;
  a.unitLog = tokens.temperature * kLn2;
  a.cap = CapConstants(tokens.capScale);
  const int64_t mostRows = kMostBlocks / a.tiles;
  for (a.first = first; a.first < end; a.first += mostRows) {
    const int64_t rows = end - a.first < mostRows ? end - a.first : mostRows;
    if constexpr (kConverts) {
      FPL_LAUNCH("logits gradient", (convertingKernel<T, U, kForm>), rows * a.tiles, kThreads, stream, a);
    } else {
      FPL_LAUNCH("logits gradient", (gradientKernel<T, kForm>), rows * a.tiles, kThreads, stream, a);
    }
  }
}

template <typename T, typename U>
void gradientTo(const Gradient& gradient, const RowValues* values, const Tokens& tokens, int64_t first, int64_t end,
                Stream stream) {
  const auto chosen = tokens.capScale != 0    ? gradientRows<T, U, Form::kCapped>
                      : gradient.classWeights ? gradientRows<T, U, Form::kWeighted>
                      : isFull(gradient)      ? gradientRows<T, U, Form::kFull>
                                              : gradientRows<T, U, Form::kPlain>;
  chosen(gradient, values, tokens, first, end, stream);
}

template <typename T>
void gradientOf(const Gradient& gradient, const RowValues* values, const Tokens& tokens, int64_t first, int64_t end,
                Stream stream) {
  switch (gradient.out.dtype) {
    case DType::kFloat32:
      return gradientTo<T, float>(gradient, values, tokens, first, end, stream);
    case DType::kFloat16:
      return gradientTo<T, Float16>(gradient, values, tokens, first, end, stream);
    case DType::kBFloat16:
      return gradientTo<T, BFloat16>(gradient, values, tokens, first, end, stream);
  }
}

}  // namespace

void rowValues(const Gradient& gradient, const Tokens& tokens, float mostWeight, RowValues* values, Stream stream) {
  ValuesArguments a;
  a.gradient = gradient;
  a.gradient.logits.vocab = tokens.vocabOf(gradient.logits);
  a.tokens = tokens;
  a.values = values;
  a.isFull = isFull(gradient);
  a.mostWeight = mostWeight;
  a.perLogit = (tokens.capScale == 0 ? 1 : tokens.capScale) / tokens.temperature;
  const int64_t blocks = (gradient.logits.count() + kThreads - 1) / kThreads;
  FPL_LAUNCH("logits gradient", valuesKernel, blocks, kThreads, stream, a);
}

void logitsGradient(const Gradient& gradient, const RowValues* values, const Tokens& columns, int64_t first,
                    int64_t end, Stream stream) {
  switch (gradient.logits.dtype) {
    case DType::kFloat32:
      return gradientOf<float>(gradient, values, columns, first, end, stream);
    case DType::kFloat16:
      return gradientOf<Float16>(gradient, values, columns, first, end, stream);
    case DType::kBFloat16:
      return gradientOf<BFloat16>(gradient, values, columns, first, end, stream);
  }
}

}  // namespace cuda
}  // namespace fpl
