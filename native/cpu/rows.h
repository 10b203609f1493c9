// The parts of stages 1 and 4 that do not depend on where the logits come from.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "../core/row_gradient.h"
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

// The end of stage 1 for one row: writes its state and the outputs of its token.
struct RowFinisher {
  const Forward& forward;
  const Tokens& tokens;
  TokenState* states;
  float* sumSquaredProbs;
  double inverseTemperature;

  void operator()(int64_t row, const RowState& state, float labelLogit) const;
};

// d loss / d logProb of a row, from the coefficients of its sequence s.
template <typename AnyGradient>
double rowCoefficient(const Tokens& tokens, const AnyGradient& gradient, int64_t s, int64_t row) {
  const int32_t divisor = tokens.average ? tokens.counts[s] : 1;
  const double coefficient = weighed(tokens.weight(row), gradient.coefficients[s] / divisor);
  if (!gradient.plainCoefficients) return coefficient;
  return coefficient + weighed(tokens.plainWeights[row], gradient.plainCoefficients[s] / divisor);
}

// Stage 4 for logits begin .. end of a row. `out` may be `logits`.
template <typename T, typename Kernel>
void writeGradient(const T* logits, T* out, int64_t begin, int64_t end, int64_t label, const RowGradient& values,
                   const ExpConstants& constants, Kernel kernel) {
  if (values.factor == 0) {
    memset(static_cast<void*>(out + begin), 0, (end - begin) * sizeof(T));
    return;
  }
  if (std::isnan(values.factor)) {
    for (int64_t i = begin; i < end; ++i) fromFloat(NAN, out[i]);
    return;
  }
  kernel(logits, out, begin, end, constants, values.unit, values.factor);
  if (label >= begin && label < end) fromFloat(values.atLabel, out[label]);
}

}  // namespace fpl
