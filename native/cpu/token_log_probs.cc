// Stage 1 on the CPU: reads every active row of logits once and adds it to its row state.
#include <algorithm>

#include "rows.h"

namespace fpl {

RowSegments::RowSegments(int64_t vocabSize) : vocab(vocabSize) {
  constexpr int64_t kTarget = 4 * kBlock;
  const int64_t wanted = ceilDiv(vocab, kTarget);
  length = ceilDiv(ceilDiv(vocab, wanted), kTile) * kTile;
  count = ceilDiv(vocab, length);
  FPL_ASSERT(length % kTile == 0 && begin(count - 1) < vocab);
}

namespace {

float logitAt(const Rows& rows, int64_t row, int64_t index) {
  switch (rows.dtype) {
    case DType::kFloat32:
      return *(rows.at<float>(row) + index);
    case DType::kFloat16:
      return toFloat(*(rows.at<Float16>(row) + index));
    case DType::kBFloat16:
      break;
  }
  return toFloat(*(rows.at<BFloat16>(row) + index));
}

}  // namespace

std::vector<int64_t> activeRows(const Tokens& tokens, const Sequences& sequences) {
  std::vector<int64_t> active;
  for (const int32_t s : sequences) {
    for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
      if (tokens.targets[row] >= 0) active.push_back(row);
    }
  }
  return active;
}

void RowFinisher::operator()(int64_t row, const SweptRow& swept, float labelLogit) const {
  const RowState& state = swept.state;
  const int64_t label = tokens.targets[row];
  FPL_ASSERT(label >= 0 && inverseTemperature > 0);
  const TokenState token = finish(state, labelLogit, inverseTemperature);
  states[row] = token;
  if (forward.tokenLogProbs) forward.tokenLogProbs[row] = float(token.logProb);
  if (forward.tokenMeanLogits) {
    const double mean = swept.sumOfLogits * inverseTemperature / double(forward.logits.vocab);
    forward.tokenMeanLogits[row] = std::isnan(token.logProb) ? NAN : float(mean);
  }
  if (!forward.wantsByProducts()) return;
  const TokenByProducts out = byProducts(state, token, label, labelLogit, inverseTemperature);
  if (forward.entropies) forward.entropies[row] = out.entropy;
  if (forward.tokenEntropies) forward.tokenEntropies[row] = float(out.entropy);
  if (forward.tokenArgmax) forward.tokenArgmax[row] = int32_t(out.argmax);
  if (forward.logSumExp) forward.logSumExp[row] = float(out.logSumExp);
  if (sumSquaredProbs) sumSquaredProbs[row] = float(out.sumSquaredProbs);
}

void tokenLogProbs(const Forward& forward, const Tokens& tokens, const Sequences& sequences, TokenState* states,
                   float* sumSquaredProbs, const CpuContext& context) {
  const Rows& rows = forward.logits;
  const std::vector<int64_t> active = activeRows(tokens, sequences);
  const int64_t activeCount = int64_t(active.size());

  const LogitConstants constants(tokens);
  const RowSegments segments(rows.vocab);
  const RowSweep sweep(forward, constants, context.kernels);

  const auto sweepSegment = [&](int64_t row, int64_t segment) {
    SweptRow swept;
    sweep.add(rows.begin(row), rows.dtype, segments.begin(segment), segments.end(segment), tokens.targets[row], swept);
    return swept;
  };

  const RowFinisher finisher{forward, tokens, states, sumSquaredProbs, constants.exp.inverseTemperature};
  const auto finishRow = [&](int64_t row, const SweptRow& swept) {
    float labelLogit = logitAt(rows, row, tokens.targets[row]);
    sweep.cap(&labelLogit, 1);
    finisher(row, swept, labelLogit);
  };

  if (segments.count > 1 && activeCount < 4 * context.threads) {
    std::vector<SweptRow> partial(activeCount * segments.count);
    context.pool.run(int64_t(partial.size()), context.threads, [&](int64_t task) {
      if (context.cancelled) return;
      partial[task] = sweepSegment(active[task / segments.count], task % segments.count);
    });
    for (int64_t i = 0; i < activeCount; ++i) {
      SweptRow swept = partial[i * segments.count];
      for (int64_t s = 1; s < segments.count; ++s) {
        swept.merge(partial[i * segments.count + s], constants.exp.inverseTemperature);
      }
      finishRow(active[i], swept);
    }
    return;
  }

  forEachRow(activeCount, rows.vocab, context, [&](int64_t i) {
    if (context.cancelled) return;
    SweptRow swept = sweepSegment(active[i], 0);
    for (int64_t s = 1; s < segments.count; ++s) {
      swept.merge(sweepSegment(active[i], s), constants.exp.inverseTemperature);
    }
    finishRow(active[i], swept);
  });
}

}  // namespace fpl
