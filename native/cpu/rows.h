// What stages 1 and 4 do with a row wherever its logits come from.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "../core/row_gradient.h"
#include "stages.h"

namespace fpl {

// The rows of these sequences that predict something, in order.
std::vector<int64_t> activeRows(const Tokens& tokens, const Sequences& sequences);

// Calls work(i) for every i in [0, rows), on the threads of the context. A task is a run of neighbours: what is fetched
// ahead beyond the end of a row is then wanted by the same thread. Many tasks a thread, so that all end together.
template <typename Work>
void forEachRow(int64_t rows, int64_t vocab, const CpuContext& context, const Work& work) {
  constexpr int64_t kTasksPerThread = 32, kLogitsOfTask = 2 * kBlock;
  const int64_t even = rows / (kTasksPerThread * context.threads);
  const int64_t rowsOfTask = std::max<int64_t>({1, kLogitsOfTask / vocab, even});
  context.pool.run((rows + rowsOfTask - 1) / rowsOfTask, context.threads, [&](int64_t task) {
    const int64_t last = std::min(rows, (task + 1) * rowsOfTask);
    for (int64_t i = task * rowsOfTask; i < last; ++i) work(i);
  });
}

// What stage 1 knows of a row, or of a part of it.
struct SweptRow {
  RowState state;
  double sumOfLogits = 0;

  void merge(const SweptRow& other, double inverseTemperature) {
    state.merge(other.state, inverseTemperature);
    sumOfLogits += other.sumOfLogits;
  }
};

// Stage 1 on parts of rows.
class RowSweep {
 public:
  RowSweep(const Forward& forward, const ExpConstants& constants, const Kernels& kernels)
      : constants_(constants),
        update_(forward.wantsByProducts() ? kernels.updateWithByProducts : kernels.update),
        sum_(kernels.sum),
        sums_(forward.tokenMeanLogits || (forward.tokenLoss && forward.tokenLoss->wantsMeanLogit())) {}

  // Logits begin .. end, `begin` a multiple of kTile; `label` is among them, or left out already.
  void add(const void* row, DType dtype, int64_t begin, int64_t end, int64_t label, SweptRow& swept) const {
    const int type = int(dtype);
    if (!sums_) return update_[type](row, begin, end, label, constants_, swept.state);
    // A block is added up while it lies in the cache.
    for (int64_t start = begin; start < end; start += kBlock) {
      const int64_t stop = std::min(end, start + kBlock);
      update_[type](row, start, stop, label, constants_, swept.state);
      swept.sumOfLogits += sum_[type](row, start, stop);
    }
  }

 private:
  const ExpConstants& constants_;
  const decltype(Kernels::update)& update_;
  const decltype(Kernels::sum)& sum_;
  const bool sums_;
};

// Stage 1's end for one row.
struct RowFinisher {
  const Forward& forward;
  const Tokens& tokens;
  TokenState* states;
  float* sumSquaredProbs;
  double inverseTemperature;

  void operator()(int64_t row, const SweptRow& swept, float labelLogit) const;

 private:
  void putTokenLoss(const TokenLoss& stage, int64_t row, double meanLogit) const;
};

// d loss / d logProb of a row of sequence s, from those of the sequence.
template <typename AnyGradient>
double rowCoefficient(const Tokens& tokens, const AnyGradient& gradient, int64_t s, int64_t row) {
  const int32_t divisor = tokens.average ? tokens.counts[s] : 1;
  const double coefficient = weighed(tokens.weight(row), gradient.coefficients[s] / divisor);
  if (!gradient.plainCoefficients) return coefficient;
  return coefficient + weighed(tokens.plainWeights[row], gradient.plainCoefficients[s] / divisor);
}

// d loss / d results of an active row of sequence s: what the sequence's have of it, and its own.
template <typename AnyGradient>
ResultSlopes resultSlopes(const Tokens& tokens, const AnyGradient& gradient, int64_t s, int64_t row) {
  const TokenCoefficients& own = gradient.tokenCoefficients;
  ResultSlopes out;
  out.logProb = rowCoefficient(tokens, gradient, s, row);
  if (own.logProb) out.logProb += own.logProb[row];
  if (own.logSumExp) out.logSumExp = own.logSumExp[row];
  if (own.entropy) out.entropy = own.entropy[row];
  if (own.meanLogit) out.meanLogit = own.meanLogit[row];
  return out;
}

// What stage 4 writes to a row: as RowGradient says, or as FullRowGradient does where it has to be. By default zeros.
struct RowValues {
  bool isFull = false;
  RowGradient plain;
  FullRowGradient full;

  RowValues() = default;
  template <typename AnyGradient>
  RowValues(const AnyGradient& gradient, int64_t row, const ResultSlopes& slopes, double inverseTemperature)
      : isFull(slopes.entropy != 0 || slopes.meanLogit != 0) {
    const TokenState& token = gradient.states[row];
    if (isFull) {
      const double entropy = slopes.entropy == 0 ? 0 : gradient.entropies[row];
      full = fullRowGradient(token, slopes, entropy, inverseTemperature, gradient.logits.vocab);
    } else {
      plain = rowGradient(token, slopes.logProb, inverseTemperature, slopes.logSumExp);
    }
  }

  float atLabel() const { return isFull ? full.atLabel : plain.atLabel; }
  // Whether all logits but the label's get the same value, which is then it.
  bool isConstant() const { return isFull ? full.constant == 0 && full.perLog == 0 : plain.factor == 0; }
  float constant() const { return isFull ? full.everywhere : 0; }
  bool isNan() const { return std::isnan(isFull ? full.constant : plain.factor); }
};

// Stage 4 for logits begin .. end of a row, which may be where the gradient goes.
template <typename T>
void writeGradient(const T* logits, T* out, int64_t begin, int64_t end, int64_t label, const RowValues& values,
                   const ExpConstants& constants, const Kernels& kernels, bool stream = false) {
  constexpr int kType = int(kDTypeOf<T>);
  if (values.isConstant() || values.isNan()) {
    T value;
    fromFloat(values.isNan() ? NAN : values.constant(), value);
    std::fill(out + begin, out + end, value);
    if (values.isNan() || values.atLabel() == 0) return;
  } else if (values.isFull) {
    const auto& kernel = stream ? kernels.fullGradientStreamed : kernels.fullGradient;
    kernel[kType](logits, out, begin, end, constants, values.full);
  } else {
    const auto& kernel = stream ? kernels.gradientStreamed : kernels.gradient;
    kernel[kType](logits, out, begin, end, constants, values.plain.unit, values.plain.factor);
  }
  if (label >= begin && label < end) fromFloat(values.atLabel(), out[label]);
}

}  // namespace fpl
