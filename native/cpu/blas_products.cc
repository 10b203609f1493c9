// Products of an output layer by a library of BLAS.
//
// The library multiplies float32, and all words at once. Other weights are converted, some words at a time, but where
// it multiplies bfloat16 by itself: those of the logits, whose factors are not changed then, are left to it.
#if !defined(__wasm__)
#include <cstring>

#include "../blas/cblas.h"
#include "head_products.h"

namespace fpl {
namespace {

constexpr int64_t kConvertedBytes = 8 << 20;  // of weights at a time

// A head as factors of products.
class BlasProducts : public HeadProducts {
 public:
  BlasProducts(const Head& head, int64_t vocab, int64_t mostRows, const CpuContext& context)
      : head_(head),
        context_(context),
        vocab_(vocab),
        width_(head.width()),
        byWord_(head.weight.columnStride == 1),
        isWide_(head.weight.dtype == DType::kFloat32),
        blockWords_(isWide_ ? vocab : std::min(vocab, std::max<int64_t>(1, kConvertedBytes / (4 * width_)))),
        hidden_(mostRows * width_),
        weights_(isWide_ ? 0 : blockWords_ * width_),
        bias_(head.bias.data ? vocab : 0) {
    if (!head.bias.data) return;
    const Vectors vector{head.bias.dtype, &head.bias.data};
    const float* const values = vector.read(0, 0, vocab, bias_.data());
    if (values != bias_.data()) std::copy_n(values, vocab, bias_.data());
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
    const DType dtype = head_.weight.dtype;
    if (dtype == DType::kBFloat16 && head_.hidden.dtype == dtype && context_.blas->hasBFloat16) {
      uint16_t* const gathered = reinterpret_cast<uint16_t*>(hidden_.data());
      forParts(count_, 16, context_, [&](int64_t i, int64_t end) {
        for (; i < end; ++i) memcpy(gathered + i * width_, head_.hidden.begin(rows_[i]), width_ * sizeof(uint16_t));
      });
      context_.blas->multiplyBFloat16(
          {{gathered, width_}, stored(byWord_), count_, vocab_, width_, out, stride, biased}, context_.threads);
      return;
    }
    const float* const hidden = gather(rows_, count_);
    forEachBlock([&](int64_t first, int64_t words, const float* weights, int64_t step) {
      multiply({{hidden, width_}, {weights, step, byWord_}, count_, words, width_, out + first, stride, biased});
    });
  }

  void hiddenSums(const Words&, const float* gradient, int64_t stride, int64_t count, float* out) override {
    forEachBlock([&](int64_t first, int64_t words, const float* weights, int64_t step) {
      multiply({{gradient + first, stride}, {weights, step, !byWord_}, count, width_, words, out, width_, first > 0});
    });
  }

  void setStates(const int64_t* rows, const char* takesPart, int64_t count) override {
    float* const hidden = gather(rows, count);
    for (int64_t i = 0; i < count; ++i) {
      if (!takesPart[i]) std::fill_n(hidden + i * width_, width_, 0.0f);
    }
  }

  void weightSums(const Words&, const float* gradient, int64_t stride, int64_t count, float* out, bool add) override {
    const float* const hidden = hidden_.data();
    if (byWord_) {
      multiply({{gradient, stride, true}, {hidden, width_}, vocab_, width_, count, out, width_, add});
    } else {
      multiply({{hidden, width_, true}, {gradient, stride}, width_, vocab_, count, out, vocab_, add});
    }
  }

 private:
  // [count, D] the hidden states of these rows in float32, until the next call.
  float* gather(const int64_t* rows, int64_t count) {
    forParts(count, 16, context_, [&](int64_t i, int64_t end) {
      for (; i < end; ++i) {
        const void* const begin = head_.hidden.begin(rows[i]);
        float* const out = hidden_.data() + i * width_;
        const float* const values = Vectors{head_.hidden.dtype, &begin}.read(0, 0, width_, out);
        if (values != out) std::copy_n(values, width_, out);
      }
    });
    return hidden_.data();
  }

  void multiply(const blas::Product& product) const { context_.blas->multiply(product, context_.threads); }

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
  const bool byWord_;  // the weights of a word are neighbours
  const bool isWide_;  // the weights are float32
  const int64_t blockWords_;
  const FloatBuffer hidden_, weights_, bias_;
  const int64_t* rows_ = nullptr;  // of the logits
  int64_t count_ = 0;
};

}  // namespace

std::unique_ptr<HeadProducts> blasProducts(const Head& head, int64_t vocab, int64_t mostRows,
                                           const CpuContext& context) {
  return std::make_unique<BlasProducts>(head, vocab, mostRows, context);
}

}  // namespace fpl
#endif
