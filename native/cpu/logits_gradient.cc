// Stage 4 on the CPU: d logProb / d logits = (onehot - softmax) / temperature, times each sequence's coefficient, and
// what the coefficients of single rows add. Every active row is read once and written once. Inactive rows are not read;
// they become zeros, unless they are skipped. Where the coefficients are left to the caller, they go to `rowScale`.
#include <cstring>

#include "logits_rows.h"

namespace fpl {
namespace {

// Gradients larger than this are written past the cache, which could not keep them for their reader.
constexpr int64_t kStreamFrom = 16 << 20;

template <typename T>
void fillAs(const Row& out, int64_t begin, int64_t end, float value) {
  T* const elements = static_cast<T*>(out.data);
  T element;
  fromFloat(value, element);
  std::fill(elements + begin, elements + end, element);
}

void fill(const Row& out, int64_t begin, int64_t end, float value) {
  switch (out.dtype) {
    case DType::kFloat32:
      return fillAs<float>(out, begin, end, value);
    case DType::kFloat16:
      return fillAs<Float16>(out, begin, end, value);
    case DType::kBFloat16:
      return fillAs<BFloat16>(out, begin, end, value);
  }
}

// For logits that are capped already, if they have to be; but for what their classes add.
void writeCappedGradient(const Row& logits, const Row& out, int64_t begin, int64_t end, int64_t label,
                         const RowValues& values, const ExpConstants& constants, const Kernels& kernels, bool stream) {
  const int type = int(logits.dtype), outType = int(out.dtype);
  if (values.isZero()) {
    void* const first = out.from(begin).data;
    const int64_t bytes = (end - begin) * elementSize(out.dtype);
    stream ? kernels.streamZeros(first, bytes) : void(memset(first, 0, bytes));
    return;
  }
  if (values.isConstant() || values.isNan()) {
    fill(out, begin, end, values.isNan() ? NAN : values.constant());
    if (values.isNan()) return;
  } else if (values.isFull) {
    const auto& kernel = stream ? kernels.fullGradientStreamed : kernels.fullGradient;
    kernel[outType][type](logits.data, out.data, begin, end, constants, values.full);
  } else {
    const auto& kernel = stream ? kernels.gradientStreamed : kernels.gradient;
    kernel[outType][type](logits.data, out.data, begin, end, constants, values.plain.unit, values.plain.factor);
  }
  if (label >= begin && label < end) fill(out, label, label + 1, values.atLabel());
}

}  // namespace

// Where logits are capped or classes add to them, parts go through buffers that stay in the first-level cache.
void writeGradient(const Row& logits, const Row& out, int64_t begin, int64_t end, int64_t label,
                   const RowValues& values, const LogitConstants& constants, const Kernels& kernels, bool stream) {
  const bool capped = constants.cap.present;
  if ((!capped && !values.classWeights) || values.isZero()) {
    return writeCappedGradient(logits, out, begin, end, label, values, constants.exp, kernels, stream);
  }
  constexpr int64_t kPart = 16 * kTile;
  const int type = int(logits.dtype), outType = int(out.dtype);
  alignas(64) float part[kPart], slopes[kPart];
  const Row partRow{part, DType::kFloat32};
  for (int64_t start = begin; start < end; start += kPart) {
    const int64_t stop = std::min(end, start + kPart), count = stop - start;
    if (capped) {
      kernels.capWithSlopes[type](logits.data, start, stop, constants.cap, part, slopes);
      writeCappedGradient(partRow, partRow, 0, count, label - start, values, constants.exp, kernels, false);
    } else {
      writeCappedGradient(logits.from(start), partRow, 0, count, label - start, values, constants.exp, kernels, false);
    }
    if (values.classWeights) {
      const float* const weights = values.classWeights + start;
      if (!capped) {
        kernels.addMultiple[outType](part, weights, values.perClass, out.data, start, stop);
        continue;
      }
      kernels.addMultiple[0](part, weights, values.perClass, part, 0, count);
    }
    kernels.multiplyBySlopes[outType](part, slopes, out.data, start, stop);
  }
}

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

void RowWriter::write(const RowOfSequence& at, int64_t first, int64_t last) const {
  const int64_t row = at.row, label = tokens_.column(row);
  RowValues values;
  if (tokens_.targets[row] >= 0) {
    values = RowValues(gradient_, row, slopesOf(at), constants_.perLogit, tokens_.vocabOf(gradient_.logits));
  }
  const Row logits{gradient_.logits.begin(row), gradient_.logits.dtype};
  const Row out{gradient_.out.begin(row), gradient_.out.dtype};
  for (int64_t s = first; s < last; ++s) {
    const int64_t begin = segments_.begin(s), end = segments_.end(s);
    FPL_ASSERT(begin < end && end <= gradient_.out.vocab);
    writeGradient(logits, out, begin, end, label, values, constants_, kernels_, stream_);
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
  forEachPart(int64_t(rows.size()), segments, context,
              [&](int64_t i, int64_t first, int64_t last) { writer.write(rows[i], first, last); });
}

}  // namespace fpl
