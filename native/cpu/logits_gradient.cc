// Stage 4 on the CPU: d logProb / d logits = (onehot - softmax) / temperature, times each sequence's coefficient, and
// what the coefficients of single rows add. Every active row is read once and written once. Inactive rows are not read;
// they become zeros, unless they are skipped.
#include <algorithm>

#include "rows.h"

namespace fpl {
namespace {

// Gradients larger than this are written past the cache, which could not keep them for their reader.
constexpr int64_t kStreamFrom = 16 << 20;

// Logits begin .. end of a row.
template <typename T>
void writeRow(const Gradient& g, int64_t row, int64_t begin, int64_t end, int32_t label, const RowValues& values,
              const LogitConstants& constants, bool stream, const CpuContext& context) {
  FPL_ASSERT(begin < end && end <= g.out.vocab && label < g.out.vocab);
  writeGradient(g.logits.at<T>(row), g.out.at<T>(row), begin, end, label, values, constants, context.kernels, stream);
}

// By DType.
constexpr decltype(&writeRow<float>) kWriteRow[] = {writeRow<float>, writeRow<Float16>, writeRow<BFloat16>};

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
      kWriteRow[int(g.out.dtype)](g, at.row, segments.begin(s), segments.end(s), label, values, constants, stream,
                                  context);
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
