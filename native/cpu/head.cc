#include "head.h"

#include <cstring>

namespace fpl {
namespace {

// How many of `bytesEach` fit into `bytes`: a multiple of `step`, from `step` to `most`.
int64_t fitting(int64_t bytes, int64_t bytesEach, int64_t step, int64_t most) {
  return std::min(most, std::max<int64_t>(1, bytes / (bytesEach * step)) * step);
}

// Whether the logits are a product of pairs of bfloat16, where the CPU has such a product.
bool arePairs(const Head& head) {
  return head.hidden.dtype == DType::kBFloat16 && head.weight.dtype == DType::kBFloat16 && head.width() % 2 == 0;
}

}  // namespace

HeadTiling::HeadTiling(const Head& head, int64_t vocab) {
  constexpr int64_t kSegments = 64;
  const int64_t vectorBytes = head.width() * int64_t(sizeof(float));
  groupRows = fitting(4 << 20, vectorBytes, kRows, 11 * kRows);
  tileWords = fitting(1 << 20, vectorBytes, kWordsOfTile, 2 * kWordsOfTile);
  blockWords = fitting(2 << 20, vectorBytes, tileWords, 6 * kWordsOfTile);
  segmentWords = ceilDiv(ceilDiv(vocab, tileWords), kSegments) * tileWords;
  FPL_ASSERT(groupRows % kRows == 0 && tileWords % kWordsOfTile == 0 && blockWords % tileWords == 0);
}

HeadReader::HeadReader(const Head& head, int64_t vocab, const Kernels& kernels)
    : head_(head),
      packing_{kernels, arePairs(head) ? kernels.pairs : nullptr},
      byWord_(head.weight.columnStride == 1),
      zeros_(byWord_ ? head.width() * elementSize(head.weight.dtype) : 0) {
  if (head.bias.data) {
    bias_.resize(vocab);
    Vectors{head.bias.dtype, &head.bias.data}.copy(0, 0, vocab, bias_.data());
  }
  const int64_t stride = byWord_ ? head.weight.rowStride : head.weight.columnStride;
  weights_.resize(byWord_ ? vocab : head.width());
  for (size_t i = 0; i < weights_.size(); ++i) {
    weights_[i] = static_cast<const char*>(head.weight.data) + int64_t(i) * stride * elementSize(head.weight.dtype);
  }
  weights_.push_back(zeros_.data());
}

void HeadReader::packHidden(const void* const* states, int64_t count, int64_t from, int64_t to, float* panels) const {
  const int64_t rows = packing_.kernels.panels.rows;
  packing_.along({head_.hidden.dtype, states}, count, head_.width(), rows, from, to, panels, panel(rows));
  packing_.putLeast(from, to, panels, panel(rows));
}

void HeadReader::packForLogits(int64_t first, int64_t count, int64_t from, int64_t to, float* panels) const {
  const DType dtype = head_.weight.dtype;
  const int64_t width = head_.width(), columns = packing_.kernels.panels.columns;
  if (byWord_) {
    packing_.along({dtype, weights_.data() + first}, count, width, columns, from, to, panels, panel(columns));
  } else {
    packing_.across({dtype, weights_.data()}, first, count, width, columns, from, to, panels, panel(columns));
  }
  packing_.putLeast(from, to, panels, panel(columns));
}

void HeadReader::packForHidden(const Packing& packing, int64_t first, int64_t count, int64_t columns, int64_t from,
                               int64_t to, float* panels) const {
  const DType dtype = head_.weight.dtype;
  const int64_t width = head_.width(), panel = packing.panel(count, columns);
  if (byWord_) {
    packing.across({dtype, weights_.data() + first}, 0, width, count, columns, from, to, panels, panel);
  } else {
    packing.along({dtype, weights_.data(), packing.depth(first)}, width, count, columns, from, to, panels, panel);
  }
  packing.putLeast(from, to, panels, panel);
}

const float* HeadReader::weights(int64_t word, int64_t d, int64_t count, float* buffer) const {
  const Vectors vectors{head_.weight.dtype, weights_.data()};
  if (byWord_) return vectors.read(word, d, count, buffer);
  for (int64_t i = 0; i < count; ++i) buffer[i] = *vectors.read(d + i, word, 1, buffer + i);
  return buffer;
}

void HeadReader::logits(const float* hiddenPanels, int64_t rows, const float* weightPanels, int64_t first,
                        int64_t words, float* tile, int64_t stride) const {
  const bool biased = !bias_.empty();
  if (biased) {
    for (int64_t r = 0; r < rows; ++r) std::copy_n(bias_.begin() + first, words, tile + r * stride);
  }
  const PanelShape shape = packing_.kernels.panels;
  FPL_ASSERT(rows <= HeadTiling::kRows && words <= stride && (!biased || first + words <= int64_t(bias_.size())));
  packing_.multiply({hiddenPanels, weightPanels, panel(shape.rows), panel(shape.columns), rows, words,
                     packing_.depth(head_.width()), tile, stride, biased});
}

}  // namespace fpl
