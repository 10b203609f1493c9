// Stage 1 on the CPU: reads every active row of logits once and adds it to its row state.
#include "logits_rows.h"

namespace fpl {

RowSegments::RowSegments(int64_t vocabSize) : vocab(vocabSize) {
  constexpr int64_t kTarget = 4 * kBlock;
  const int64_t wanted = ceilDiv(vocab, kTarget);
  length = ceilDiv(ceilDiv(vocab, wanted), kTile) * kTile;
  count = ceilDiv(vocab, length);
  FPL_ASSERT(length % kTile == 0 && begin(count - 1) < vocab);
}

RowSegments::RowSegments(const Forward& forward) : RowSegments(forward.logits.vocab) {
  const SegmentStates& given = forward.segments;
  if (!given.areMade()) return;
  bounds = given.bounds;
  count = given.boundCount - 1;
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

void RowFinisher::putTokenLoss(const TokenLoss& stage, int64_t row, double meanLogit) const {
  const double weight = tokens.weight(row), slope = weight / stage.divisor, scale = stage.gradientScale;
  const double labelWeight = stage.labelWeight(tokens.targets[row]);
  const TokenLossValue value = tokenLoss(stage.constants, states[row], meanLogit, labelWeight, inverseTemperature);
  stage.losses[row] = weighed(weight, value.loss);
  if (!stage.ofLogProb) return;
  stage.ofLogProb[row] = scale * weighed(slope, value.slopes.logProb);
  stage.ofLogSumExp[row] = scale * weighed(slope, value.slopes.logSumExp);
  stage.ofMeanLogit[row] = scale * weighed(slope, value.slopes.meanLogit);
}

void RowFinisher::operator()(int64_t row, const SweptRow& swept, float labelLogit) const {
  const RowState& state = swept.state;
  const int64_t label = tokens.targets[row];
  FPL_ASSERT(label >= 0 && inverseTemperature > 0);
  const TokenState token = finish(state, labelLogit, inverseTemperature);
  states[row] = token;
  const auto mean = [&](double sum) { return sum * inverseTemperature / double(tokens.vocabOf(forward.logits)); };
  const double meanLogit = mean(swept.sumOfLogits);
  if (const TokenLoss* const loss = forward.tokenLoss) {
    putTokenLoss(*loss, row, loss->classWeights ? mean(swept.weightedSum) : meanLogit);
  }
  if (forward.tokenLogProbs) forward.tokenLogProbs[row] = float(token.logProb);
  if (forward.tokenMeanLogits) {
    forward.tokenMeanLogits[row] = std::isnan(token.logProb) ? NAN : float(meanLogit);
  }
  if (!forward.wantsByProducts()) return;
  const TokenByProducts out = byProducts(state, token, label, labelLogit, inverseTemperature);
  if (forward.entropies) forward.entropies[row] = out.entropy;
  if (forward.tokenEntropies) forward.tokenEntropies[row] = float(out.entropy);
  if (forward.tokenArgmax) forward.tokenArgmax[row] = int32_t(out.argmax);
  if (forward.logSumExp) forward.logSumExp[row] = float(out.logSumExp);
  if (sumSquaredProbs) sumSquaredProbs[row] = float(out.sumSquaredProbs);
}

RowReader::RowReader(const Forward& forward, const Tokens& tokens, TokenState* states, float* sumSquaredProbs,
                     const LogitConstants& constants, const Kernels& kernels)
    : rows_(forward.logits),
      tokens_(tokens),
      segments_(forward),
      sweep_(forward, tokens, constants, kernels),
      finish_{forward, tokens, states, sumSquaredProbs, constants.exp.inverseTemperature} {}

SweptRow RowReader::sweep(int64_t row, int64_t segment) const {
  SweptRow swept;
  const int64_t begin = segments_.begin(segment);
  const Row logits = Row{rows_.begin(row), rows_.dtype}.from(begin);
  sweep_.add(logits.data, logits.dtype, segments_.end(segment) - begin, tokens_.column(row) - begin, begin, swept);
  if (swept.state.argmax >= 0) swept.state.argmax += tokens_.shard.start + begin;
  return swept;
}

float RowReader::labelLogit(int64_t row) const {
  float logit = logitAt(rows_, row, tokens_.column(row));
  return *sweep_.capped(&logit, 1, &logit);
}

void RowReader::finish(int64_t row, const SweptRow& swept) const { finish_(row, swept, labelLogit(row)); }

void RowReader::read(int64_t row) const {
  SweptRow swept = sweep(row, 0);
  for (int64_t s = 1; s < segments_.count; ++s) swept.merge(sweep(row, s), finish_.inverseTemperature);
  finish(row, swept);
}

void tokenLogProbs(const Forward& forward, const Tokens& tokens, const Sequences& sequences, TokenState* states,
                   float* sumSquaredProbs, const CpuContext& context) {
  const std::vector<int64_t> active = activeRows(tokens, sequences);
  const int64_t count = int64_t(active.size());
  const LogitConstants constants(tokens);
  const RowSegments segments(forward);
  const RowReader reader(forward, tokens, states, sumSquaredProbs, constants, context.kernels);

  if (segments.areShared(count, context)) {
    std::vector<SweptRow> partial(count * segments.count);
    context.pool.run(int64_t(partial.size()), context.threads, [&](int64_t task) {
      if (context.cancelled) return;
      partial[task] = reader.sweep(active[task / segments.count], task % segments.count);
    });
    for (int64_t i = 0; i < count; ++i) {
      const SweptRow* const ofRow = partial.data() + i * segments.count;
      reader.finish(active[i], merged(ofRow, segments.count, constants.exp.inverseTemperature));
    }
    return;
  }

  forEachRow(count, forward.logits.vocab, context, [&](int64_t i) {
    if (!context.cancelled) reader.read(active[i]);
  });
}

}  // namespace fpl
