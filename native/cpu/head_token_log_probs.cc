// Stage 1 on logits that exist a tile at a time.
#include "head.h"

namespace fpl {
namespace {

// Where segments begin, and the end of the last.
std::vector<int64_t> segmentBounds(const Forward& forward, const HeadTiling& tiling) {
  const SegmentStates& given = forward.segments;
  if (given.areMade()) return {given.bounds, given.bounds + given.boundCount};
  std::vector<int64_t> bounds;
  for (int64_t first = 0; first < forward.logits.vocab; first += tiling.segmentWords) bounds.push_back(first);
  bounds.push_back(forward.logits.vocab);
  return bounds;
}

}  // namespace

void headTokenLogProbs(const Forward& forward, const Tokens& tokens, const Sequences& sequences, TokenState* states,
                       float* sumSquaredProbs, const CpuContext& context) {
  if constexpr (kHasChunks) {
    if (context.isChunked()) return chunkedTokenLogProbs(forward, tokens, sequences, states, sumSquaredProbs, context);
  }
  const Kernels& kernels = context.kernels;
  const PanelShape shape = kernels.panels;
  const Head& head = forward.head;
  const int64_t vocab = forward.logits.vocab;
  const HeadTiling tiling(head, vocab);
  const std::vector<int64_t> bounds = segmentBounds(forward, tiling);
  const int64_t segments = int64_t(bounds.size()) - 1;
  const HeadReader reader(head, vocab, kernels);
  const LogitConstants constants(tokens);
  const RowSweep sweep(forward, tokens, constants, kernels);
  const RowFinisher finish{forward, tokens, states, sumSquaredProbs, constants.exp.inverseTemperature};

  const std::vector<int64_t> active = activeRows(tokens, sequences);
  const int64_t groupRows = std::min(tiling.groupRows, int64_t(active.size()));
  const FloatBuffer hiddenPanels(reader.panels(groupRows, shape.rows));
  const SegmentStore store(forward);
  std::vector<SweptRow> partial(groupRows * segments);
  std::vector<float> labelLogits(groupRows);
  std::vector<const void*> hidden(groupRows);
  const int64_t tileWords = std::min(tiling.tileWords, vocab), busy = std::min(context.threads, segments);
  BufferPool tiles(busy, HeadTiling::kRows * tileWords);
  BufferPool weights(busy, reader.panels(tileWords, shape.columns));

  for (int64_t start = 0; start < int64_t(active.size()); start += groupRows) {
    const int64_t* rows = active.data() + start;
    const int64_t count = std::min(groupRows, int64_t(active.size()) - start);
    for (int64_t i = 0; i < count; ++i) hidden[i] = head.hidden.begin(rows[i]);
    const int64_t panelsPerTask = HeadTiling::kRows / shape.rows, panels = ceilDiv(count, shape.rows);
    context.pool.run(ceilDiv(panels, panelsPerTask), context.threads, [&](int64_t task) {
      reader.packHidden(hidden.data(), count, task * panelsPerTask, std::min(panels, (task + 1) * panelsPerTask),
                        hiddenPanels.data());
    });

    context.pool.run(segments, context.threads, [&](int64_t segment) {
      const BufferPool::Loan weightPanels(weights), tile(tiles);
      const int64_t end = bounds[segment + 1];
      for (int64_t i = 0; i < count; ++i) partial[i * segments + segment] = {};
      for (int64_t first = bounds[segment]; first < end; first += tileWords) {
        if (context.cancelled) return;
        const int64_t words = std::min(tileWords, end - first);
        reader.packForLogits(first, words, 0, ceilDiv(words, shape.columns), weightPanels.data());
        for (int64_t r = 0; r < count; r += HeadTiling::kRows) {
          const int64_t tileRows = std::min(HeadTiling::kRows, count - r);
          // A tile whose rows are all kept is made where it is kept.
          const bool keeps = start + r + tileRows <= forward.kept.rows;
          float* const made = keeps ? forward.kept.of(start + r) + first : tile.data();
          const int64_t stride = keeps ? forward.kept.stride : tileWords;
          reader.logits(hiddenPanels.data() + reader.panels(r, shape.rows), tileRows, weightPanels.data(), first, words,
                        made, stride);
          for (int64_t i = 0; i < tileRows; ++i) {
            const float* logits = sweep.capped(made + i * stride, words, tile.data() + i * tileWords);
            const int64_t label = tokens.column(rows[r + i]) - first;
            const bool hasLabel = label >= 0 && label < words;
            if (hasLabel) labelLogits[r + i] = logits[label];
            SweptRow& swept = partial[(r + i) * segments + segment];
            const float maximum = swept.state.maximum;
            sweep.addCapped(logits, DType::kFloat32, 0, words, hasLabel ? label : -1, first, swept);
            if (swept.state.maximum > maximum) swept.state.argmax += tokens.shard.start + first;
          }
        }
      }
    });
    if (context.cancelled) return;

    context.pool.run(ceilDiv(count, HeadTiling::kRows), context.threads, [&](int64_t task) {
      const int64_t last = std::min(count, (task + 1) * HeadTiling::kRows);
      for (int64_t i = task * HeadTiling::kRows; i < last; ++i) {
        const SweptRow* const ofRow = partial.data() + i * segments;
        if (forward.segments.areMade()) {
          store.put(rows[i], ofRow, constants.exp.inverseTemperature);
          forward.segments.labelLogits[rows[i]] = labelLogits[i];
          continue;
        }
        finish(rows[i], merged(ofRow, segments, constants.exp.inverseTemperature), labelLogits[i]);
      }
    });
  }
}

}  // namespace fpl
