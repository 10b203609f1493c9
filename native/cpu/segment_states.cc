// Stage 1 in two jobs, for a vocabulary that several processes share: each sweeps the segments among its own columns,
// and all begin from the states of all segments. These are merged in the order of the columns, as those of a row that
// one job reads.
#include <cstring>

#include "head.h"
#include "logits_rows.h"

namespace fpl {

SegmentStore::SegmentStore(const Forward& forward)
    : segments_(forward.segments),
      count_(segments_.areMade() ? segments_.boundCount - 1 : segments_.count),
      form_(forward, forward.tokenLoss) {}

void SegmentStore::putOne(int64_t row, int64_t segment, const SweptRow& swept) const {
  char* to = reinterpret_cast<char*>(at(row, segment));
  SweptRow values = swept;
  form_.eachValue(values.state, values.sumOfLogits, values.weightedSum, [&](auto& value) {
    memcpy(to, &value, sizeof value);
    to += sizeof value;
  });
}

void SegmentStore::put(int64_t row, const SweptRow* segments, double inverseTemperature) const {
  if (!wantsAll()) return putOne(row, 0, merged(segments, count_, inverseTemperature));
  for (int64_t s = 0; s < count_; ++s) putOne(row, s, segments[s]);
}

SweptRow SegmentStore::get(int64_t row, double inverseTemperature) const {
  SweptRow swept;
  for (int64_t s = 0; s < count_; ++s) {
    const char* from = reinterpret_cast<const char*>(at(row, s));
    SweptRow segment;
    form_.eachValue(segment.state, segment.sumOfLogits, segment.weightedSum, [&](auto& value) {
      memcpy(&value, from, sizeof value);
      from += sizeof value;
    });
    if (s == 0) {
      swept = segment;
    } else {
      swept.merge(segment, inverseTemperature);
    }
  }
  return swept;
}

void sweepSegments(const Forward& forward, const Tokens& tokens, const Sequences& sequences,
                   const CpuContext& context) {
  if (forward.head.present()) return headTokenLogProbs(forward, tokens, sequences, nullptr, nullptr, context);
  const std::vector<int64_t> active = activeRows(tokens, sequences);
  const LogitConstants constants(tokens);
  const RowSegments segments(forward);
  const RowReader reader(forward, tokens, nullptr, nullptr, constants, context.kernels);
  const SegmentStore store(forward);
  const int64_t count = segments.count;
  std::vector<SweptRow> swept(store.wantsAll() ? 0 : int64_t(active.size()) * count);
  forEachRow(int64_t(active.size()) * count, ceilDiv(segments.vocab, count), context, [&](int64_t task) {
    if (context.cancelled) return;
    const int64_t row = active[task / count];
    const int64_t segment = task % count;
    if (store.wantsAll()) {
      store.putOne(row, segment, reader.sweep(row, segment));
    } else {
      swept[task] = reader.sweep(row, segment);
    }
  });
  if (context.cancelled) return;
  for (size_t i = 0; i < active.size(); ++i) {
    const int64_t row = active[i];
    const int64_t label = tokens.column(row);
    if (!store.wantsAll()) store.put(row, swept.data() + i * count, constants.exp.inverseTemperature);
    if (label >= 0 && label < segments.vocab) forward.segments.labelLogits[row] = reader.labelLogit(row);
  }
}

void finishSegments(const Forward& forward, const Tokens& tokens, const Sequences& sequences, TokenState* states,
                    float* sumSquaredProbs, const CpuContext& context) {
  constexpr int64_t kLikeLogits = 1024;  // what it costs to finish a row
  const std::vector<int64_t> active = activeRows(tokens, sequences);
  const double inverseTemperature = LogitConstants(tokens).exp.inverseTemperature;
  const RowFinisher finish{forward, tokens, states, sumSquaredProbs, inverseTemperature};
  const SegmentStore store(forward);
  forEachRow(int64_t(active.size()), kLikeLogits, context, [&](int64_t i) {
    const int64_t row = active[i];
    finish(row, store.get(row, inverseTemperature), forward.segments.labelLogits[row]);
  });
}

}  // namespace fpl
