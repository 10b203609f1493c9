// Products of an output layer whose states and weights are bfloat16, on tiles.
#if !defined(__wasm__)
#include <vector>

#include "head_products.h"
#include "tiles.h"

namespace fpl {
namespace {

constexpr TileTerms kHead = TileTerms::kBFloat16;  // states and weights
constexpr int64_t kWordsOfLogits = 256;            // of a task that makes logits
constexpr int64_t kWordsOfTask = 128;              // of a task that makes a gradient of weight
constexpr int64_t kMostRows = 128;                 // of a task that makes a gradient of hidden

// Terms that are packed at a time, so that a panel of either factor stays in the first-level cache.
constexpr int64_t depthOf(TileTerms terms) { return kStepOfTiles * 12 / termsOf(terms); }

// Elements of the panels of so many rows or columns.
int64_t panelsOf(int64_t count, int64_t depth, TileTerms terms) {
  return ceilDiv(count, kPanelOfTiles) * panelOfTiles(depth, terms);
}

class TileProducts : public HeadProducts {
 public:
  TileProducts(const Head& head, int64_t vocab, int64_t mostRows, DType precision, const CpuContext& context)
      : head_(head),
        context_(context),
        tiles_(*context.tiles),
        gradient_(precision == DType::kFloat32 ? TileTerms::kSplit : TileTerms::kRounded),
        vocab_(vocab),
        width_(head.width()),
        byWord_(head.weight.columnStride == 1),
        bias_(head.bias.data ? vocab : 0),
        none_(width_, 0),
        hidden_(panelsOf(mostRows, width_, kHead)),
        states_(panelsOf(width_, mostRows, kHead)),
        weights_(panelsOf(width_, kStepOfSums, kHead)),
        buffers_(context.threads, std::max({panelsOf(kWordsOfLogits, width_, kHead),
                                            panelsOf(kWordsOfTask, depthOf(gradient_), gradient_),
                                            panelsOf(kMostRows, depthOf(gradient_), gradient_) + kMostRows * width_})),
        rows_(mostRows) {
    FPL_ASSERT(head.hidden.dtype == DType::kBFloat16 && head.weight.dtype == DType::kBFloat16);
    const int64_t stride = byWord_ ? head.weight.rowStride : head.weight.columnStride;
    for (int64_t i = 0; i < (byWord_ ? vocab : width_); ++i) {
      begins_.push_back(static_cast<const BFloat16*>(head.weight.data) + i * stride);
    }
    if (head.bias.data) Vectors{head.bias.dtype, &head.bias.data}.copy(0, 0, vocab, bias_.data());
  }

  void setRows(const int64_t* rows, int64_t count) override {
    count_ = count;
    for (int64_t i = 0; i < count; ++i) rows_[i] = head_.hidden.begin(rows[i]);
    forParts(ceilDiv(count, kPanelOfTiles), 1, context_, [&](int64_t panel, int64_t end) {
      tiles_.packLeft[int(kHead)]({DType::kBFloat16, rows_.data()}, true, count, width_, panel, end, hidden_.data());
    });
  }

  void setStates(const int64_t* rows, const char* takesPart, int64_t count) override {
    for (int64_t i = 0; i < count; ++i) rows_[i] = takesPart[i] ? head_.hidden.begin(rows[i]) : none_.data();
    forParts(ceilDiv(width_, kPanelOfTiles), 1, context_, [&](int64_t panel, int64_t end) {
      const auto pack = byWord_ ? tiles_.packRight : tiles_.packLeft;
      pack[int(kHead)]({DType::kBFloat16, rows_.data()}, false, width_, count, panel, end, states_.data());
    });
  }

  void logits(const Words& block, float* out, int64_t stride) override {
    const bool biased = head_.bias.data != nullptr;
    const int64_t panel = panelOfTiles(width_, kHead);
    forParts(block.count(), kWordsOfLogits, context_, [&](int64_t begin, int64_t end) {
      const BufferPool::Loan weights(buffers_);
      const int64_t words = end - begin, first = block.first + begin;
      float* const to = out + begin;
      tiles_.packRight[int(kHead)](wordsFrom(first), byWord_, words, width_, 0, ceilDiv(words, kPanelOfTiles),
                                   weights.data());
      for (int64_t i = 0; biased && i < count_; ++i) std::copy_n(bias_.data() + first, words, to + i * stride);
      tiles_.multiply(
          {hidden_.data(), weights.data(), panel, panel, kHead, kHead, count_, words, width_, to, stride, biased});
    });
  }

  void hiddenSums(const Words& block, const float* gradient, int64_t stride, int64_t count, float* out) override {
    setGradient(gradient, stride, count);
    const int64_t share = ceilDiv(count, context_.threads);
    const int64_t rowsOfTask = std::min(kMostRows, ceilDiv(share, kPanelOfTiles) * kPanelOfTiles);
    const int64_t depth = depthOf(gradient_);
    for (int64_t first = block.first; first < block.end; first += kStepOfSums) {
      const int64_t words = std::min(kStepOfSums, block.end - first), panel = panelOfTiles(words, kHead);
      forParts(ceilDiv(width_, kPanelOfTiles), 1, context_, [&](int64_t begin, int64_t end) {
        tiles_.packRight[int(kHead)](wordsFrom(first), !byWord_, width_, words, begin, end, weights_.data());
      });
      forParts(count, rowsOfTask, context_, [&](int64_t row, int64_t end) {
        const BufferPool::Loan buffer(buffers_);
        const int64_t rows = end - row;
        float *const panels = buffer.data(), *const to = out + row * width_;
        float* const sums = first > 0 ? panels + panelsOf(rows, depth, gradient_) : to;
        for (int64_t k = 0; k < words; k += depth) {
          const int64_t terms = std::min(depth, words - k);
          tiles_.packLeft[int(gradient_)]({DType::kFloat32, rows_.data() + row, first - block.first + k}, true, rows,
                                          terms, 0, ceilDiv(rows, kPanelOfTiles), panels);
          tiles_.multiply({panels, weights_.data() + panelOfTiles(k, kHead), panelOfTiles(terms, gradient_), panel,
                           gradient_, kHead, rows, width_, terms, sums, width_, k > 0});
        }
        if (first > 0) context_.kernels.addMultiple[int(DType::kFloat32)](to, sums, 1, to, 0, rows * width_);
      });
    }
  }

  void weightSums(const Words& block, const float* gradient, int64_t stride, int64_t count, float* out,
                  bool add) override {
    setGradient(gradient, stride, count);
    const int64_t depth = depthOf(gradient_), panel = panelOfTiles(count, kHead);
    forParts(block.count(), kWordsOfTask, context_, [&](int64_t begin, int64_t end) {
      const BufferPool::Loan panels(buffers_);
      const int64_t words = end - begin, first = block.first + begin;
      for (int64_t k = 0; k < count; k += depth) {
        const int64_t terms = std::min(depth, count - k), panelOfWords = panelOfTiles(terms, gradient_);
        const float* const states = states_.data() + panelOfTiles(k, kHead);
        const auto pack = byWord_ ? tiles_.packLeft : tiles_.packRight;
        pack[int(gradient_)]({DType::kFloat32, rows_.data() + k, begin}, false, words, terms, 0,
                             ceilDiv(words, kPanelOfTiles), panels.data());
        if (byWord_) {
          tiles_.multiply({panels.data(), states, panelOfWords, panel, gradient_, kHead, words, width_, terms,
                           out + first * width_, width_, add || k > 0});
        } else {
          tiles_.multiply({states, panels.data(), panel, panelOfWords, kHead, gradient_, width_, words, terms,
                           out + first, vocab_, add || k > 0});
        }
      }
    });
  }

 private:
  // The weights of words from that one on: vectors of words or of features.
  Vectors wordsFrom(int64_t first) const {
    if (byWord_) return {DType::kBFloat16, begins_.data() + first};
    return {DType::kBFloat16, begins_.data(), first};
  }

  void setGradient(const float* gradient, int64_t stride, int64_t count) {
    for (int64_t i = 0; i < count; ++i) rows_[i] = gradient + i * stride;
  }

  const Head& head_;
  const CpuContext& context_;
  const TileKernels& tiles_;
  const TileTerms gradient_;
  const int64_t vocab_, width_;
  const bool byWord_;  // the weights of a word are neighbours
  const FloatBuffer bias_;
  const std::vector<uint16_t> none_;  // the states of rows that take no part
  const FloatBuffer hidden_, states_, weights_;
  BufferPool buffers_;
  int64_t count_ = 0;                // of the rows whose logits are made
  std::vector<const void*> rows_;    // of the factor that is packed
  std::vector<const void*> begins_;  // of the words, if byWord_, or of the features
};

}  // namespace

std::unique_ptr<HeadProducts> tileProducts(const Head& head, int64_t vocab, int64_t mostRows, DType precision,
                                           const CpuContext& context) {
  return std::make_unique<TileProducts>(head, vocab, mostRows, precision, context);
}

}  // namespace fpl
#endif
