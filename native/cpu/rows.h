// The parts of stages 1 and 4 that do not depend on where the logits come from.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../core/row_gradient.h"
#include "../core/segment_state_form.h"
#include "stages.h"

namespace fpl {

// The active rows of these sequences, in order: those that predict a label.
std::vector<int64_t> activeRows(const Tokens& tokens, const Sequences& sequences);

// Calls work(i) for every i in [0, rows), on the threads of the context. A task is a run of neighbours, so that logits
// that are fetched ahead, behind the end of a row, are those that the same thread needs next. There are many tasks for
// each thread, so that all threads end at about the same time.
template <typename Work>
void forEachRow(int64_t rows, int64_t vocab, const CpuContext& context, const Work& work) {
  constexpr int64_t kTasksPerThread = 32, kLogitsOfTask = 2 * kBlock;
  const int64_t even = rows / (kTasksPerThread * context.threads);
  const int64_t rowsOfTask = std::max<int64_t>({1, kLogitsOfTask / vocab, even});
  context.pool.run(ceilDiv(rows, rowsOfTask), context.threads, [&](int64_t task) {
    const int64_t last = std::min(rows, (task + 1) * rowsOfTask);
    for (int64_t i = task * rowsOfTask; i < last; ++i) work(i);
  });
}

// Calls work(i, first, last) for segments first .. last of every row i in [0, rows), and so for all of its
// segments. Of few rows the threads share these.
template <typename Work>
void forEachPart(int64_t rows, const RowSegments& segments, const CpuContext& context, const Work& work) {
  const int64_t count = segments.count;
  if (!segments.areShared(rows, context)) {
    return forEachRow(rows, segments.vocab, context, [&](int64_t i) { work(i, 0, count); });
  }
  context.pool.run(rows * count, context.threads,
                   [&](int64_t task) { work(task / count, task % count, task % count + 1); });
}

// What makes the numbers that count of the logits: x / temperature or, capped, tanh(x · capScale) / temperature.
struct LogitConstants {
  ExpConstants exp;
  CapConstants cap;
  double perLogit;  // the derivative with respect to the logit, but for the slope of the tanh

  explicit LogitConstants(const Tokens& tokens)
      : exp(tokens.temperature),
        cap(tokens.capScale),
        perLogit(cap.present ? tokens.capScale * exp.inverseTemperature : exp.inverseTemperature) {}
};

// What stage 1 knows of a row, or of a part of it.
struct SweptRow {
  RowState state;
  double sumOfLogits = 0;
  double weightedSum = 0;  // of the logits times the weights of their classes, where these have any

  void merge(const SweptRow& other, double inverseTemperature) {
    state.merge(other.state, inverseTemperature);
    sumOfLogits += other.sumOfLogits;
    weightedSum += other.weightedSum;
  }
};

// What the segments of a row have given, merged in order.
inline SweptRow merged(const SweptRow* segments, int64_t count, double inverseTemperature) {
  SweptRow swept = segments[0];
  for (int64_t s = 1; s < count; ++s) swept.merge(segments[s], inverseTemperature);
  return swept;
}

// Stage 1 on parts of rows.
class RowSweep {
 public:
  RowSweep(const Forward& forward, const Tokens& tokens, const LogitConstants& constants, const Kernels& kernels)
      : constants_(constants),
        kernels_(kernels),
        update_(forward.wantsByProducts() ? kernels.updateWithByProducts : kernels.update),
        classWeights_(forward.tokenLoss ? forward.tokenLoss->classWeightsFrom(tokens.shard.start) : nullptr),
        sums_(forward.wantsSumOfLogits(forward.tokenLoss)) {}

  // `count` logits; the one at `label`, if that is among them, is left out. `row` begins with column `first`.
  void add(const void* row, DType dtype, int64_t count, int64_t label, int64_t first, SweptRow& swept) const {
    if (!constants_.cap.present) return addCapped(row, dtype, 0, count, label, first, swept);
    alignas(64) float block[kBlock];
    for (int64_t start = 0; start < count; start += kBlock) {
      const int64_t stop = std::min(count, start + kBlock);
      const bool hasLabel = label >= start && label < stop;
      const float maximum = swept.state.maximum;
      kernels_.cap[int(dtype)](row, start, stop, constants_.cap, block, nullptr);
      addCapped(block, DType::kFloat32, 0, stop - start, hasLabel ? label - start : -1, first + start, swept);
      if (swept.state.maximum > maximum) swept.state.argmax += start;
    }
  }

  // Logits begin .. end that are capped already, if they have to be. `row` begins with column `first`.
  void addCapped(const void* row, DType dtype, int64_t begin, int64_t end, int64_t label, int64_t first,
                 SweptRow& swept) const {
    const int type = int(dtype);
    if (!sums_ && !classWeights_) return update_[type](row, begin, end, label, constants_.exp, swept.state);
    // A block is added up while it lies in the cache.
    for (int64_t start = begin; start < end; start += kBlock) {
      const int64_t stop = std::min(end, start + kBlock);
      update_[type](row, start, stop, label, constants_.exp, swept.state);
      if (sums_) swept.sumOfLogits += kernels_.sum[type](row, start, stop);
      if (classWeights_) swept.weightedSum += kernels_.weightedSum[type](row, classWeights_ + first, start, stop);
    }
  }

  // These float32 logits, capped in `buffer` if they have to be. It may be where they are.
  const float* capped(const float* logits, int64_t count, float* buffer) const {
    if (!constants_.cap.present) return logits;
    kernels_.cap[0](logits, 0, count, constants_.cap, buffer, nullptr);
    return buffer;
  }

 private:
  const LogitConstants& constants_;
  const Kernels& kernels_;
  const decltype(Kernels::update)& update_;
  const float* const classWeights_;
  const bool sums_;
};

// The states of segments in a job's arrays. A state is its row's unit, sum and what else the job asks for, as 32-bit
// words; lib knows how many (lib/call/segments.ts).
class SegmentStore {
 public:
  explicit SegmentStore(const Forward& forward);

  // What the segments of a row have given; merges them where the job wants one state of a row.
  void put(int64_t row, const SweptRow* segments, double inverseTemperature) const;
  // One of them, where the job wants all.
  void putOne(int64_t row, int64_t segment, const SweptRow& swept) const;
  bool wantsAll() const { return count_ == segments_.count; }
  // All of them, merged in order.
  SweptRow get(int64_t row, double inverseTemperature) const;

 private:
  int32_t* at(int64_t row, int64_t segment) const {
    return segments_.states + (row * segments_.count + segment) * form_.words();
  }

  const SegmentStates& segments_;
  const int64_t count_;  // of a row, before they are merged
  const SegmentStateForm form_;
};

// The end of stage 1 for one row: writes its state and the outputs of its token.
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

// d loss / d logProb of a row, from the coefficients of its sequence s.
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

// What stage 4 writes to a row: as RowGradient says, or as FullRowGradient does where it has to be, and perClass times
// the weight of its class for each logit. By default zeros.
struct RowValues {
  bool isFull = false;
  RowGradient plain;
  FullRowGradient full;
  const float* classWeights = nullptr;  // or null: none are added
  float perClass = 0;

  RowValues() = default;
  // `vocab`: of the whole row, of which the gradient may have a part.
  template <typename AnyGradient>
  RowValues(const AnyGradient& gradient, int64_t row, const ResultSlopes& slopes, double perLogit, int64_t vocab)
      : isFull(slopes.entropy != 0 || (slopes.meanLogit != 0 && !gradient.classWeights)) {
    const TokenState& token = gradient.states[row];
    if (gradient.classWeights && slopes.meanLogit != 0 && !std::isnan(token.logProb)) {
      FPL_ASSERT(!isFull);  // entropies have no weights
      classWeights = gradient.classWeights;
      perClass = float(slopes.meanLogit * perLogit / double(vocab));
    }
    if (isFull) {
      const double entropy = slopes.entropy == 0 ? 0 : gradient.entropies[row];
      full = fullRowGradient(token, slopes, entropy, perLogit, vocab);
    } else {
      plain = rowGradient(token, slopes.logProb, perLogit, slopes.logSumExp);
    }
  }

  // The same for logits of which the first is that of class `first`.
  RowValues from(int64_t first) const {
    RowValues out = *this;
    if (classWeights) out.classWeights += first;
    return out;
  }

  float atLabel() const { return isFull ? full.atLabel : plain.atLabel; }
  // Whether all logits but the label's get the same value, which is then it.
  bool isConstant() const { return isFull ? full.constant == 0 && full.perLog == 0 : plain.factor == 0; }
  float constant() const { return isFull ? full.everywhere : 0; }
  bool isZero() const { return isConstant() && constant() == 0 && atLabel() == 0 && perClass == 0; }
  bool isNan() const { return std::isnan(isFull ? full.constant : plain.factor); }
};

// A row of logits, or of their gradient.
struct Row {
  void* data;
  DType dtype;

  // The same from element `first` on.
  Row from(int64_t first) const { return {static_cast<char*>(data) + first * elementSize(dtype), dtype}; }
};

// Stage 4 for logits begin .. end of a row. `out` may be where they are.
void writeGradient(const Row& logits, const Row& out, int64_t begin, int64_t end, int64_t label,
                   const RowValues& values, const LogitConstants& constants, const Kernels& kernels,
                   bool stream = false);

}  // namespace fpl
