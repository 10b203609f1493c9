// Stage 4 on the CPU: d logProb / d logits = (onehot - softmax) / temperature, times each sequence's coefficient, and
// what the coefficients of single rows add. Every active row is read once and written once; the others are written as
// zeros, if at all, and not read.
#include <algorithm>

#include "rows.h"

namespace fpl {
namespace {

// Gradients larger than this are written past the cache, which could not keep them for whoever reads them next.
constexpr int64_t kStreamFrom = 16 << 20;

template <typename T>
void writeRow(const Gradient& g, const RowSegments& segments, int64_t row, int64_t segment, int32_t label,
              const RowValues& values, const LogitConstants& constants, bool stream, const CpuContext& context) {
  T* out = g.out.at<T>(row);
  const int64_t begin = segments.begin(segment), end = segments.end(segment);
  FPL_ASSERT(begin < end && end <= g.out.vocab && label < g.out.vocab);
  writeGradient(g.logits.at<T>(row), out, begin, end, label, values, constants, context.kernels, stream);
}

}  // namespace

void logitsGradient(const Gradient& g, const Tokens& tokens, const Sequences& sequences, const CpuContext& context) {
  const LogitConstants constants(tokens);
  const RowSegments segments(g.logits.vocab);
  const int64_t size = g.logits.count() * g.logits.vocab * elementSize(g.out.dtype);
  const bool stream = g.out.data != g.logits.data && size >= kStreamFrom;

  struct Row {
    int64_t row;
    ResultSlopes slopes;
  };
  std::vector<Row> rows;
  for (const int32_t s : sequences) {
    for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
      if (g.skipInactive && tokens.targets[row] < 0) continue;
      rows.push_back({row, tokens.targets[row] < 0 ? ResultSlopes{} : resultSlopes(tokens, g, s, row)});
    }
  }
  const int64_t rowCount = int64_t(rows.size());

  const auto write = [&](const Row& at, int64_t firstSegment, int64_t lastSegment) {
    const int32_t label = tokens.targets[at.row];
    RowValues values;
    if (label >= 0) values = RowValues(g, at.row, at.slopes, constants.perLogit);
    for (int64_t s = firstSegment; s < lastSegment; ++s) {
      switch (g.out.dtype) {
        case DType::kFloat32:
          writeRow<float>(g, segments, at.row, s, label, values, constants, stream, context);
          break;
        case DType::kFloat16:
          writeRow<Float16>(g, segments, at.row, s, label, values, constants, stream, context);
          break;
        case DType::kBFloat16:
          writeRow<BFloat16>(g, segments, at.row, s, label, values, constants, stream, context);
          break;
      }
    }
  };

  if (segments.count > 1 && rowCount < 4 * context.threads) {
    context.pool.run(rowCount * segments.count, context.threads, [&](int64_t task) {
      const int64_t segment = task % segments.count;
      write(rows[task / segments.count], segment, segment + 1);
    });
    return;
  }
  forEachRow(rowCount, g.logits.vocab, context, [&](int64_t i) { write(rows[i], 0, segments.count); });
}

}  // namespace fpl
