// How the threads of a block write a row's gradient: stage 4 of the row.
#pragma once

#include <cstring>
#include <type_traits>

#include "row_reader.h"
#include "row_tasks.h"
#include "softcap.h"
#include "tuning.h"

namespace fpl {
namespace cuda {
namespace writing {

constexpr uint32_t kThreads = kBlockThreads, kLoads = kTuning.gradientLoads;

struct ValuesArguments {
  Gradient gradient;
  Tokens tokens;
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

// A bound of the magnitudes of a row's derivatives but the label's: no other p is above 1 - p(label), and no p · |log
// p| above 1 / e or the entropy.
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

// As RowGradient says.
FPL_DEVICE RowValues plainValues(const TokenState& token, const ResultSlopes& slopes, double perLogit) {
  const RowGradient plain = rowGradient(token, slopes.logProb, perLogit, slopes.logSumExp);
  RowValues values;
  values.gradient.unit = plain.unit;
  values.gradient.constant = plain.factor;
  values.gradient.atLabel = plain.atLabel;
  return values;
}

// Those of an active row where a gradient makesValues(): the coefficient is all that it takes.
FPL_DEVICE RowValues plainValuesOf(const ValuesArguments& a, int64_t row) {
  return plainValues(a.gradient.states[row], slopesOf(a.gradient, a.tokens, row), a.perLogit);
}

// How rows are written: as RowGradient says; as FullRowGradient says; like that, with weights of classes; and through a
// soft-cap, with such weights or without.
enum class Form { kPlain, kFull, kWeighted, kCapped };
template <Form kForm>
constexpr int blocksOf(const Tuning& tuning) {
  return kForm == Form::kCapped ? tuning.cappedGradientBlocks : tuning.gradientBlocks;
}
template <Form kForm>
constexpr int kBlocksOf = blocksOf<kForm>(kTuning);

// log2(e) / T as the sum of two float32.
struct Log2e {
  explicit Log2e(double exact) : high(float(exact)), low(float(exact - double(high))) {}
  float high, low;
};

struct GradientArguments {
  Gradient gradient;
  const RowValues* values;  // null: the blocks make them of what follows
  ValuesArguments making;
  const int32_t* targets;
  RowTasks tasks;
  uint32_t pieceLength;  // Quads or, where the types differ, logits
  Log2e log2e{0};
  double unitLog;  // T ln 2
  CapConstants cap{0};
};

// What a row's logits x become, in units. With e^(x/T) as 2^n · 2^r, |r| <= 1/2, small values keep their digits. 2^r is
// a polynomial where the gradient is float32: the special function unit's would use up the 4 ULP of the result. What is
// rounded to 16 bits may take that (kFast): within 4 ULP before its rounding, and with fewer instructions.
//
// For Form::kPlain constant · e^(x/T), and the constant is in the polynomial's coefficients. For others
// e^(x/T) · (constant + perLog · log e^(x/T)) + everywhere, where the logarithm is n and r, and `everywhere` may have
// the weight of the logit's class.
template <Form kForm, bool kFast>
struct ScaledExp {
  Log2e log2e;
  float base, low, magic;
  float coefficients[kExp2Degree + 1];
  float fromUnit, perPower, constant;

  FPL_DEVICE ScaledExp(const FullRowGradient& values, const Log2e& log2e, double unitLog)
      : log2e(log2e), base(values.unit.base), constant(values.constant) {
    // The exponent's bias and the unit go along when it is rounded.
    magic = kRounding + float(127 - values.unit.exponent);
    // Below `low` the exponent field is 0 and the result exactly 0, -inf included.
    low = float(double(values.unit.exponent - 127) * unitLog);
#pragma unroll
    for (int k = 0; k <= kExp2Degree; ++k) {
      coefficients[k] = kForm == Form::kPlain ? multiply(constant, exp2Coefficient(k)) : exp2Coefficient(k);
    }
    fromUnit = kRounding + float(127 + values.scale);
    perPower = float(double(values.perLog) * kLn2);
  }

  FPL_DEVICE float operator()(float x, float everywhere) const {
    // A base of 0 changes no bit.
    x = fmaxf(add(x, -base), low);
    const float n = fusedMultiplyAdd(x, log2e.high, magic);
    const float whole = add(n, -magic);
    const float fraction = fusedMultiplyAdd(x, log2e.low, fusedMultiplyAdd(x, log2e.high, -whole));
    float p = kFast ? exp2Fast(fraction) : coefficients[kExp2Degree];
    if (kFast && kForm == Form::kPlain) p = multiply(p, constant);
    if (!kFast) {
#pragma unroll
      for (int k = kExp2Degree - 1; k >= 0; --k) p = fusedMultiplyAdd(p, fraction, coefficients[k]);
    }
    p = multiply(p, floatOf(bitsOf(n) << 23));
    if (kForm == Form::kPlain) return p;
    const float ofPower = fusedMultiplyAdd(add(n, -fromUnit), perPower, constant);
    return fusedMultiplyAdd(p, fusedMultiplyAdd(fraction, perPower, ofPower), everywhere);
  }
};

// A row of logits and of their gradient, of types T and U.
template <typename T, typename U, Form kForm>
class Row {
 public:
  const T* logits;
  U* out;
  uint32_t vocab, label;  // the label may be beyond the vocabulary
  bool active, isRead;    // what is not read is filled

  FPL_DEVICE Row(const GradientArguments& a, uint32_t row, int32_t target, const RowValues& values)
      : Row(a, row, row / uint32_t(a.gradient.logits.time), target, values) {}

  // What the logit at that place becomes, unless it is the label's.
  FPL_DEVICE float of(float x, uint32_t at) const {
    float slope = 1;
    if (kForm == Form::kCapped) x = capped(x, cap_, slope);
    const float value = kForm == Form::kCapped && values_.isConstant() ? everywhere(at) : exp_(x, everywhere(at));
    return kForm == Form::kCapped ? multiply(value, slope) : value;
  }
  FPL_DEVICE float ofLabel() const {
    float slope = 1;
    if (kForm == Form::kCapped && isRead) capped(toFloat(logits[label]), cap_, slope);
    return kForm == Form::kCapped ? multiply(values_.gradient.atLabel, slope) : values_.gradient.atLabel;
  }
  // Without a gradient 0, without an answer NaN.
  FPL_DEVICE float filling(uint32_t at) const {
    return answers_ ? everywhere(at) : active ? values_.gradient.constant : 0;
  }

  FPL_DEVICE float value(uint32_t at) const {
    return at == label ? ofLabel() : isRead ? of(toFloat(logits[at]), at) : filling(at);
  }
  FPL_DEVICE void writeElement(uint32_t at) const { fromFloat(value(at), out[at]); }

 private:
  // A gradient of another type has the bits of the float32 one, rounded.
  static constexpr bool kIsFast = std::is_same_v<T, U> && sizeof(U) == 2;

  FPL_DEVICE Row(const GradientArguments& a, uint32_t row, uint32_t sequence, int32_t target, const RowValues& values)
      : logits(begin<T>(a.gradient.logits, row, sequence)),
        out(begin<U>(a.gradient.out, row, sequence)),
        vocab(uint32_t(a.gradient.logits.vocab)),
        active(target != -1),
        cap_(a.cap),
        classWeights_(a.gradient.classWeights),
        values_(values),
        exp_(values_.gradient, a.log2e, a.unitLog) {
    answers_ = active && !values_.isNan();
    isRead = answers_ && (kForm == Form::kCapped ? !values_.isZero() : !values_.isConstant());
    label = answers_ ? uint32_t(target) : UINT32_MAX;
  }

  // Rows::at, without its divisions of 64 bits.
  template <typename V>
  FPL_DEVICE static V* begin(const Rows& rows, uint32_t row, uint32_t sequence) {
    const uint32_t place = row - sequence * uint32_t(rows.time);
    return static_cast<V*>(rows.data) + (sequence * rows.batchStride + place * rows.timeStride);
  }

  FPL_DEVICE float everywhere(uint32_t at) const {
    if (kForm == Form::kPlain) return 0;
    const float value = values_.gradient.everywhere;
    return kForm == Form::kFull || !classWeights_ ? value : multiply(value, classWeights_[at]);
  }

  bool answers_;
  const CapConstants& cap_;
  const float* classWeights_;
  const RowValues values_;
  const ScaledExp<kForm, kIsFast> exp_;
};

// The Quads of a row's gradient, which lie on 16-byte boundaries, and what is read for them.
template <typename T, Form kForm>
struct Quads {
  const Row<T, T, kForm>& row;
  const RowReader<T> in;
  Quad* const out;
  const uint32_t thread;

  FPL_DEVICE Quads(const Row<T, T, kForm>& row, uint32_t ahead, uint32_t thread)
      : row(row), in(row.logits, row.vocab, ahead), out(reinterpret_cast<Quad*>(row.out - ahead)), thread(thread) {}

  // Those of kLoads loads of each thread; of what is not whole, only what lies before the end.
  template <bool kAligned, bool kWhole>
  FPL_DEVICE void writeTile(uint32_t first, uint32_t end) const {
    Quad quads[kLoads];
    in.template load<kAligned, kWhole, false>(first, 0, end, quads);
    Quad* const to = out + first;
#pragma unroll
    for (uint32_t v = 0; v < kLoads; ++v) {
      const uint32_t quad = first + v * kThreads, at = in.placeOf(quad);
      if (!kWhole && quad >= end) continue;
      float x[kPerQuad<T>];
      unpack(quads[v], x, row.logits);
#pragma unroll
      for (uint32_t i = 0; i < kPerQuad<T>; ++i) x[i] = row.of(x[i], at + i);
      storeStreaming(to + v * kThreads, pack(x, row.logits));
    }
  }

  // Quads first .. end, of which each thread has every kThreads-th. From back to front: of a row that a sweep has just
  // read, the back is the likeliest to lie in a cache.
  template <bool kAligned>
  FPL_DEVICE void write(uint32_t first, uint32_t end) const {
    constexpr uint32_t kTile = kLoads * kThreads;
    const uint32_t own = first + thread;
    uint32_t at = own + (end - first) / kTile * kTile;
    if (at < end) writeTile<kAligned, false>(at, end);
    while (at > own) {
      at -= kTile;
      writeTile<kAligned, true>(at, end);
    }
  }

  FPL_DEVICE void fill(uint32_t first, uint32_t end) const {
    for (uint32_t at = first + thread; at < end; at += kThreads) {
      float x[kPerQuad<T>];
#pragma unroll
      for (uint32_t i = 0; i < kPerQuad<T>; ++i) x[i] = row.filling(in.placeOf(at) + i);
      storeStreaming(out + at, pack(x, row.logits));
    }
  }
};

// The ends of the row are written element by element, with the first piece; the label's value after the Quad that it is
// in, by the same thread. `thread`: of the kThreads that have the piece.
template <typename T, Form kForm>
FPL_DEVICE void writePiece(const Row<T, T, kForm>& row, uint32_t piece, uint32_t length, uint32_t thread) {
  const uint32_t ahead = reinterpret_cast<uintptr_t>(row.out) % sizeof(Quad) / sizeof(T);
  const Quads<T, kForm> quads(row, ahead, thread);
  const RowReader<T>& in = quads.in;
  const uint32_t begin = in.begin(), end = in.end();
  if (piece == 0) {
    const uint32_t headEnd = in.placeOf(begin), tailBegin = in.placeOf(end);
    const uint32_t head = headEnd < row.vocab ? headEnd : row.vocab;
    const uint32_t tail = tailBegin < row.vocab ? row.vocab - tailBegin : 0;
    for (uint32_t i = thread; i < head + tail; i += kThreads) {
      row.writeElement(i < head ? i : tailBegin + (i - head));
    }
  }

  const uint32_t from = begin + piece * length, first = from < end ? from : end;
  const uint32_t last = first + length < end ? first + length : end;
  const uint32_t labelQuad = (row.label + ahead) / kPerQuad<T>;
  const bool hasLabel =
      row.label < row.vocab && labelQuad >= first && labelQuad < last && (labelQuad - first) % kThreads == thread;
  const float atLabel = hasLabel ? row.ofLabel() : 0;
  if (!row.isRead) {
    quads.fill(first, last);
  } else if (in.isAligned()) {
    quads.template write<true>(first, last);
  } else {
    quads.template write<false>(first, last);
  }
  if (hasLabel) fromFloat(atLabel, row.out[row.label]);
}

// Room for a row's values, which one thread makes for its block.
struct Made {
  uint32_t words[sizeof(RowValues) / sizeof(uint32_t)];
};

// The values of a row, for all threads of a block.
template <Form kForm>
FPL_DEVICE RowValues valuesFor(const GradientArguments& a, uint32_t row, int32_t target, Made& made) {
  RowValues values;
  if (target == -1) return values;
  if (a.values || kForm == Form::kFull || kForm == Form::kWeighted) return a.values[row];
  barrier();  // all have taken those of the row before
  if (threadIndex() == 0) {
    values = plainValuesOf(a.making, row);
    memcpy(&made, &values, sizeof made);
  }
  barrier();
  memcpy(static_cast<void*>(&values), &made, sizeof made);
  return values;
}

// Whether any row's values may be those of a FullRowGradient.
inline bool isFull(const Gradient& gradient) {
  return gradient.tokenCoefficients.entropy || gradient.tokenCoefficients.meanLogit;
}

inline int64_t dividedUp(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Calls `body` with a constant whose value is the form of the rows.
template <typename Body>
void withForm(const GradientArguments& a, const Body& body) {
  if (a.cap.present) return body(std::integral_constant<Form, Form::kCapped>());
  if (a.gradient.classWeights) return body(std::integral_constant<Form, Form::kWeighted>());
  if (isFull(a.gradient)) return body(std::integral_constant<Form, Form::kFull>());
  body(std::integral_constant<Form, Form::kPlain>());
}

inline ValuesArguments valuesArguments(const Gradient& gradient, const Tokens& tokens, float mostWeight) {
  ValuesArguments a{gradient, tokens, isFull(gradient), 0, mostWeight};
  a.gradient.logits.vocab = tokens.vocabOf(gradient.logits);
  a.perLogit = (tokens.capScale == 0 ? 1 : tokens.capScale) / tokens.temperature;
  return a;
}

// But for how rows are cut and shared out.
inline GradientArguments gradientArguments(const Gradient& gradient, const RowValues* values, const Tokens& tokens,
                                           const Tokens& columns) {
  GradientArguments a;
  a.gradient = gradient;
  if (gradient.classWeights) a.gradient.classWeights += columns.shard.start;
  a.values = values;
  a.making = valuesArguments(gradient, tokens, 1);
  a.targets = columns.targets;
  a.log2e = Log2e(kLog2e / columns.temperature);
  a.unitLog = columns.temperature * kLn2;
  a.cap = CapConstants(columns.capScale);
  return a;
}

}  // namespace writing
}  // namespace cuda
}  // namespace fpl
