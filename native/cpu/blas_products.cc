// Products of an output layer by a library of BLAS.
//
// All words are one block. The library multiplies float32. Other weights are converted, some words at a time, but where
// it multiplies bfloat16 by itself and both factors are that: those of the logits and, where it is rounded to bfloat16,
// those of their gradient.
#if !defined(__wasm__)
#include <cstring>
#include <type_traits>

#include "../blas/cblas.h"
#include "head_products.h"

namespace fpl {
namespace {

constexpr int64_t kConvertedBytes = 8 << 20;  // of weights at a time
// Of a row that is rounded where it is. Twice as many are still a number of 32 bits.
constexpr int64_t kMostRounded = (int64_t(1) << 30) - 16;

// A head as factors of products.
class BlasProducts : public HeadProducts {
 public:
  BlasProducts(const Head& head, int64_t vocab, int64_t mostRows, DType precision, const CpuContext& context)
      : head_(head),
        context_(context),
        vocab_(vocab),
        width_(head.width()),
        byWord_(head.weight.columnStride == 1),
        isWide_(head.weight.dtype == DType::kFloat32),
        isNarrow_(head.hidden.dtype == DType::kBFloat16 && head.weight.dtype == DType::kBFloat16 &&
                  context.blas->hasBFloat16),
        multipliesRounded_(isNarrow_ && precision == DType::kBFloat16 && vocab <= kMostRounded),
        blockWords_(isWide_ ? vocab : std::min(vocab, std::max<int64_t>(1, kConvertedBytes / (4 * width_)))),
        hidden_(mostRows * width_),
        weights_(isWide_ || multipliesRounded_ ? 0 : blockWords_ * width_),
        bias_(head.bias.data ? vocab : 0) {
    if (head.bias.data) Vectors{head.bias.dtype, &head.bias.data}.copy(0, 0, vocab, bias_.data());
  }

  void setRows(const int64_t* rows, int64_t count) override {
    rows_ = rows;
    count_ = count;
  }

  void logits(const Words&, float* out, int64_t stride) override {
    if (head_.bias.data) {
      forParts(count_, 1, context_, [&](int64_t i, int64_t) { std::copy_n(bias_.data(), vocab_, out + i * stride); });
    }
    const bool biased = head_.bias.data != nullptr;
    if (isNarrow_) {
      const BFloat16* const hidden = gather<BFloat16>(rows_, count_);
      return multiplyNarrow({{hidden, width_}, stored(byWord_), count_, vocab_, width_, out, stride, biased});
    }
    const float* const hidden = gather<float>(rows_, count_);
    forEachBlock([&](int64_t first, int64_t words, const float* weights, int64_t step) {
      multiply({{hidden, width_}, {weights, step, byWord_}, count_, words, width_, out + first, stride, biased});
    });
  }

  // Rounded numbers take the first half of their row, or the place of the others.
  void round(float* gradient, int64_t stride, int64_t count) override {
    forParts(count, 1, context_, [&](int64_t i, int64_t) {
      constexpr int64_t kPart = 512;
      float* const line = gradient + i * stride;
      for (int64_t first = 0; first < vocab_; first += kPart) {
        const int64_t words = std::min(kPart, vocab_ - first);
        BFloat16 rounded[kPart];
        for (int64_t v = 0; v < words; ++v) fromFloat(line[first + v], rounded[v]);
        if (multipliesRounded_) {
          memcpy(reinterpret_cast<BFloat16*>(line) + first, rounded, words * sizeof(BFloat16));
        } else {
          for (int64_t v = 0; v < words; ++v) line[first + v] = toFloat(rounded[v]);
        }
      }
    });
  }

  void hiddenSums(const Words&, const float* gradient, int64_t stride, int64_t count, float* out) override {
    if (multipliesRounded_) {
      return multiplyNarrow({{gradient, 2 * stride}, stored(!byWord_), count, width_, vocab_, out, width_, false});
    }
    forEachBlock([&](int64_t first, int64_t words, const float* weights, int64_t step) {
      multiply({{gradient + first, stride}, {weights, step, !byWord_}, count, width_, words, out, width_, first > 0});
    });
  }

  void setStates(const int64_t* rows, const char* takesPart, int64_t) override {
    rows_ = rows;
    takesPart_ = takesPart;
  }

  void weightSums(const Words&, const float* gradient, int64_t stride, int64_t count, float* out, bool add) override {
    if (multipliesRounded_) {
      const BFloat16* const hidden = gather<BFloat16>(rows_, count, takesPart_);
      multiplyNarrow(ofWeight({gradient, 2 * stride}, hidden, count, out, add));
    } else {
      multiply(ofWeight({gradient, stride}, gather<float>(rows_, count, takesPart_), count, out, add));
    }
  }

 private:
  blas::Product ofWeight(blas::Factor gradient, const void* hidden, int64_t count, float* out, bool add) const {
    if (byWord_) {
      gradient.transposed = true;
      return {gradient, {hidden, width_}, vocab_, width_, count, out, width_, add};
    }
    return {{hidden, width_, true}, gradient, width_, vocab_, count, out, vocab_, add};
  }

  // [count, D] the hidden states of these rows, until the next call: as they are, or in float32; zeros for those that
  // do not take part.
  template <typename Element>
  Element* gather(const int64_t* rows, int64_t count, const char* takesPart = nullptr) {
    Element* const out = reinterpret_cast<Element*>(hidden_.data());
    forParts(count, 16, context_, [&](int64_t i, int64_t end) {
      for (; i < end; ++i) {
        const void* const begin = head_.hidden.begin(rows[i]);
        Element* const line = out + i * width_;
        if (takesPart && !takesPart[i]) {
          std::fill_n(line, width_, Element());
        } else if constexpr (std::is_same_v<Element, BFloat16>) {
          memcpy(line, begin, width_ * sizeof(BFloat16));
        } else {
          Vectors{head_.hidden.dtype, &begin}.copy(0, 0, width_, line);
        }
      }
    });
    return out;
  }

  void multiply(const blas::Product& product) const { context_.blas->multiply(product, context_.threads); }
  void multiplyNarrow(const blas::Product& product) const {
    context_.blas->multiplyBFloat16(product, context_.threads);
  }

  // The weight as it is stored.
  blas::Factor stored(bool transposed) const {
    return {head_.weight.data, byWord_ ? head_.weight.rowStride : head_.weight.columnStride, transposed};
  }

  // Calls work(first, words, weights, stride) for blocks of words, with their weights in float32, stored as they are.
  template <typename Work>
  void forEachBlock(const Work& work) {
    const Head::Weight& weight = head_.weight;
    const int64_t stride = byWord_ ? weight.rowStride : weight.columnStride;
    if (isWide_) return work(0, vocab_, static_cast<const float*>(weight.data), stride);
    for (int64_t first = 0; first < vocab_; first += blockWords_) {
      const int64_t words = std::min(blockWords_, vocab_ - first);
      const int64_t lines = byWord_ ? words : width_, length = byWord_ ? width_ : words;
      forParts(lines, 16, context_, [&](int64_t i, int64_t end) {
        for (; i < end; ++i) {
          const int64_t at = byWord_ ? (first + i) * stride : i * stride + first;
          const void* const begin = static_cast<const char*>(weight.data) + at * elementSize(weight.dtype);
          Vectors{weight.dtype, &begin}.read(0, 0, length, weights_.data() + i * length);
        }
      });
      work(first, words, weights_.data(), length);
    }
  }

  const Head& head_;
  const CpuContext& context_;
  const int64_t vocab_, width_;
  const bool byWord_;             // the weights of a word are neighbours
  const bool isWide_;             // the weights are float32
  const bool isNarrow_;           // both factors of the logits are bfloat16, and the library multiplies that
  const bool multipliesRounded_;  // the same of those of their gradient
  const int64_t blockWords_;
  const FloatBuffer hidden_, weights_, bias_;
  const int64_t* rows_ = nullptr;  // of the chunk
  const char* takesPart_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace

std::unique_ptr<HeadProducts> blasProducts(const Head& head, int64_t vocab, int64_t mostRows, DType precision,
                                           const CpuContext& context) {
  return std::make_unique<BlasProducts>(head, vocab, mostRows, precision, context);
}

}  // namespace fpl
#endif
