// Stage 4 on the CPU: d logProb / d logits = (onehot - softmax) / temperature, times each sequence's coefficient, and
// what the coefficients of single rows add. Every active row is read once and written once. Inactive rows are not read;
// they become zeros, unless they are skipped. Where the coefficients are left to the caller, they go to `rowScale`.
#include "logits_rows.h"

namespace fpl {
namespace {

// Gradients larger than this are written past the cache, which could not keep them for their reader.
constexpr int64_t kStreamFrom = 16 << 20;

}  // namespace

std::vector<RowOfSequence> writtenRows(const Gradient& g, const Tokens& tokens, const Sequences& sequences) {
  std::vector<RowOfSequence> rows;
  for (const int32_t s : sequences) {
    for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
      if (!g.skipInactive || tokens.targets[row] >= 0) rows.push_back({row, s});
    }
  }
  return rows;
}

RowWriter::RowWriter(const Gradient& g, const Tokens& tokens, const LogitConstants& constants, const Kernels& kernels)
    : gradient_(g), tokens_(tokens), constants_(constants), kernels_(kernels), segments_(g.logits.vocab) {
  const int64_t size = g.logits.count() * g.logits.vocab * elementSize(g.out.dtype);
  stream_ = g.out.data != g.logits.data && size >= kStreamFrom;
}

// Of a row whose scale is deferred, those of its own log-prob. A row that is known to take no part has none.
ResultSlopes RowWriter::slopesOf(const RowOfSequence& at) const {
  if (!gradient_.rowScale) return resultSlopes(tokens_, gradient_, at.sequence, at.row);
  const bool isKnown = gradient_.tokenCoefficients.logProb != nullptr;
  const bool takesPart =
      isKnown ? resultSlopes(tokens_, gradient_, at.sequence, at.row).logProb != 0
              : tokens_.weight(at.row) != 0 || (gradient_.plainCoefficients && tokens_.plainWeights[at.row] != 0);
  ResultSlopes slopes;
  slopes.logProb = takesPart ? 1 : 0;
  return slopes;
}

template <typename T, typename U>
void RowWriter::writeAs(int64_t row, int64_t first, int64_t last, int64_t label, const RowValues& values) const {
  U* out = gradient_.out.at<U>(row);
  for (int64_t s = first; s < last; ++s) {
    const int64_t begin = segments_.begin(s), end = segments_.end(s);
    FPL_ASSERT(begin < end && end <= gradient_.out.vocab && label < gradient_.out.vocab);
    writeGradient(gradient_.logits.at<T>(row), out, begin, end, label, values, constants_, kernels_, stream_);
  }
}

template <typename T>
void RowWriter::writeFrom(int64_t row, int64_t first, int64_t last, int64_t label, const RowValues& values) const {
  switch (gradient_.out.dtype) {
    case DType::kFloat32:
      return writeAs<T, float>(row, first, last, label, values);
    case DType::kFloat16:
      return writeAs<T, Float16>(row, first, last, label, values);
    case DType::kBFloat16:
      return writeAs<T, BFloat16>(row, first, last, label, values);
  }
}

void RowWriter::write(const RowOfSequence& at, int64_t first, int64_t last) const {
  const int64_t row = at.row, label = tokens_.targets[row];
  RowValues values;
  if (label >= 0) values = RowValues(gradient_, row, slopesOf(at), constants_.perLogit);
  switch (gradient_.logits.dtype) {
    case DType::kFloat32:
      return writeFrom<float>(row, first, last, label, values);
    case DType::kFloat16:
      return writeFrom<Float16>(row, first, last, label, values);
    case DType::kBFloat16:
      return writeFrom<BFloat16>(row, first, last, label, values);
  }
}

void rowScales(const Gradient& g, const Tokens& tokens, const Sequences& sequences) {
  for (const int32_t s : sequences) {
    for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
      if (tokens.targets[row] >= 0) g.rowScale[row] = resultSlopes(tokens, g, s, row).logProb;
    }
  }
}

void logitsGradient(const Gradient& g, const Tokens& tokens, const Sequences& sequences, const CpuContext& context) {
  const LogitConstants constants(tokens);
  const RowSegments segments(g.logits.vocab);
  const RowWriter writer(g, tokens, constants, context.kernels);
  const std::vector<RowOfSequence> rows = writtenRows(g, tokens, sequences);
  const int64_t rowCount = int64_t(rows.size());

  if (segments.areShared(rowCount, context)) {
    context.pool.run(rowCount * segments.count, context.threads, [&](int64_t task) {
      const int64_t segment = task % segments.count;
      writer.write(rows[task / segments.count], segment, segment + 1);
    });
    return;
  }
  forEachRow(rowCount, g.logits.vocab, context, [&](int64_t i) { writer.write(rows[i]); });
}

}  // namespace fpl
