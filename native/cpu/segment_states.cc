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

void sweepRows(const Forward& forward, const LogitsOfRows& rows, const Tokens& tokens, const CpuContext& context) {
  const LogitConstants constants(tokens);
  const RowSegments segments(forward);
  const RowReader reader(forward, rows.logits, tokens, nullptr, nullptr, constants, context.kernels);
  const SegmentStore store(forward);
  const int64_t count = segments.count;
  std::vector<SweptRow> swept(store.wantsAll() ? 0 : rows.count * count);
  forEachRow(rows.count * count, ceilDiv(segments.vocab, count), context, [&](int64_t task) {
    if (context.cancelled) return;
    const LogitsRow at = rows[task / count];
    const int64_t segment = task % count;
    if (store.wantsAll()) {
      store.putOne(at.row, segment, reader.sweep(at, segment));
    } else {
      swept[task] = reader.sweep(at, segment);
    }
  });
  if (context.cancelled) return;
  for (int64_t i = 0; i < rows.count; ++i) {
    const LogitsRow at = rows[i];
    const int64_t label = tokens.column(at.row);
    if (!store.wantsAll()) store.put(at.row, swept.data() + i * count, constants.exp.inverseTemperature);
    if (label >= 0 && label < segments.vocab) forward.segments.labelLogits[at.row] = reader.labelLogit(at);
  }
}

void sweepSegments(const Forward& forward, const Tokens& tokens, const Sequences& sequences,
                   const CpuContext& context) {
  if (forward.head.present()) return headTokenLogProbs(forward, tokens, sequences, nullptr, nullptr, context);
  const std::vector<int64_t> active = activeRows(tokens, sequences);
  sweepRows(forward, {forward.logits, active.data(), int64_t(active.size())}, tokens, context);
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
