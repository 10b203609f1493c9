// The output layer on products of a BLAS: stages 1 and 4 on the logits of a chunk of rows, which are in memory.
//
// The rows that are kept are one chunk; the others are worked on one chunk after the other, and stage 4 multiplies
// their logits again. The gradient with respect to a chunk's logits takes their place. The library works between our
// own tasks, never beside them.
//
// The library multiplies float32. Other weights are converted, some words at a time, but where it multiplies bfloat16
// by itself: those of the logits, whose factors are not changed then, are left to it.
#if !defined(__wasm__)
#include <cstring>

#include "../blas/cblas.h"
#include "head.h"
#include "logits_rows.h"

namespace fpl {
namespace {

constexpr int64_t kConvertedBytes = 8 << 20;  // of weights at a time

// Calls work(begin, end) for parts of [0, count), on all threads.
template <typename Work>
void forParts(int64_t count, int64_t part, const CpuContext& context, const Work& work) {
  context.pool.run(ceilDiv(count, part), context.threads,
                   [&](int64_t task) { work(task * part, std::min(count, (task + 1) * part)); });
}

// A head as factors of products.
class BlasHead {
 public:
  BlasHead(const Head& head, int64_t vocab, int64_t mostRows, const CpuContext& context)
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

  // [count, V] logits of these rows.
  void logits(const int64_t* rows, int64_t count, float* out, int64_t stride) {
    if (head_.bias.data) {
      forParts(count, 1, context_, [&](int64_t i, int64_t) { std::copy_n(bias_.data(), vocab_, out + i * stride); });
    }
    const bool biased = head_.bias.data != nullptr;
    const DType dtype = head_.weight.dtype;
    if (dtype == DType::kBFloat16 && head_.hidden.dtype == dtype && context_.blas->hasBFloat16) {
      uint16_t* const gathered = reinterpret_cast<uint16_t*>(hidden_.data());
      forParts(count, 16, context_, [&](int64_t i, int64_t end) {
        for (; i < end; ++i) memcpy(gathered + i * width_, head_.hidden.begin(rows[i]), width_ * sizeof(uint16_t));
      });
      context_.blas->multiplyBFloat16({{gathered, width_}, stored(byWord_), count, vocab_, width_, out, stride, biased},
                                      context_.threads);
      return;
    }
    const float* const hidden = gather(rows, count);
    forEachBlock([&](int64_t first, int64_t words, const float* weights, int64_t step) {
      multiply({{hidden, width_}, {weights, step, byWord_}, count, words, width_, out + first, stride, biased});
    });
  }

  // [count, D] the hidden states of these rows in float32, until the next call of it or of `logits`.
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

  // out [count, D] = gradient [count, V] · weight.
  void hiddenSums(const float* gradient, int64_t stride, int64_t count, float* out) {
    forEachBlock([&](int64_t first, int64_t words, const float* weights, int64_t step) {
      multiply({{gradient + first, stride}, {weights, step, !byWord_}, count, width_, words, out, width_, first > 0});
    });
  }

  // Σ gradient · hidden, in the order of the weight's elements, without gaps.
  void weightSums(const float* gradient, int64_t stride, const float* hidden, int64_t count, float* out, bool add) {
    if (byWord_) {
      multiply({{gradient, stride, true}, {hidden, width_}, vocab_, width_, count, out, width_, add});
    } else {
      multiply({{hidden, width_, true}, {gradient, stride}, width_, vocab_, count, out, vocab_, add});
    }
  }

 private:
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
};

// Active rows first .. first + count, and where their logits are.
struct Chunk {
  int64_t first, count;
  float* logits;
  bool isKept;
};

std::vector<Chunk> chunksOf(const KeptLogits& kept, int64_t active) {
  std::vector<Chunk> chunks;
  const int64_t keptRows = std::min(kept.rows, active);
  if (keptRows > 0) chunks.push_back({0, keptRows, kept.data, true});
  for (int64_t first = keptRows; first < active; first += kept.room) {
    chunks.push_back({first, std::min(kept.room, active - first), kept.chunk(), false});
  }
  return chunks;
}

int64_t mostRowsOf(const std::vector<Chunk>& chunks) {
  int64_t most = 0;
  for (const Chunk& chunk : chunks) most = std::max(most, chunk.count);
  return most;
}

// Stage 4.
class BlasBackward {
 public:
  BlasBackward(const HeadGradient& gradient, const Tokens& tokens, const Sequences& sequences,
               const CpuContext& context)
      : g_(gradient),
        tokens_(tokens),
        context_(context),
        constants_(tokens),
        vocab_(gradient.logits.vocab),
        width_(gradient.head.width()),
        isWide_(gradient.dtype == DType::kFloat32),
        active_(activeRows(tokens, sequences)),
        chunks_(chunksOf(gradient.kept, int64_t(active_.size()))),
        head_(gradient.head, vocab_, mostRowsOf(chunks_), context),
        hiddenSums_(gradient.hidden ? mostRowsOf(chunks_) * width_ : 0),
        weightSums_(gradient.weight && !isWide_ ? vocab_ * width_ : 0),
        biasSums_(gradient.bias && !isWide_ ? vocab_ : 0) {
    for (const int32_t s : sequences) {
      for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
        if (tokens.targets[row] < 0) continue;
        const ResultSlopes slopes = resultSlopes(tokens, gradient, s, row);
        const bool takesPart = !slopes.none();
        if (!takesPart) idle_.push_back(row);
        takesPart_.push_back(takesPart);
        slopes_.push_back(slopes);
      }
    }
  }

  void addRows() {
    clearRows(g_, tokens_, idle_);
    if (active_.size() == idle_.size()) {
      if (!g_.accumulate) clearWeights(g_);
      return;
    }
    bool isFirst = true;
    for (const Chunk& chunk : chunks_) {
      if (!chunk.isKept) head_.logits(active_.data() + chunk.first, chunk.count, chunk.logits, g_.kept.stride);
      makeGradient(chunk);
      if (g_.hidden) addToHidden(chunk);
      if (g_.weight) addToWeight(chunk, isFirst);
      if (g_.bias) addToBias(chunk, isFirst);
      isFirst = false;
    }
    if (isWide_) return;
    forParts(g_.weight ? vocab_ : 0, 64, context_, [&](int64_t begin, int64_t end) {
      putSums(g_.dtype, weightSums_.data() + begin * width_, g_.weight, begin * width_, end * width_, g_.accumulate);
    });
    if (g_.bias) putSums(g_.dtype, biasSums_.data(), g_.bias, 0, vocab_, g_.accumulate);
  }

 private:
  // In the place of the logits; zeros for the rows that take no part.
  void makeGradient(const Chunk& chunk) {
    const RowSegments segments(vocab_);
    const auto write = [&](int64_t i, int64_t segment, int64_t last) {
      const int64_t row = active_[chunk.first + i];
      RowValues values;
      if (takesPart_[chunk.first + i]) {
        values = RowValues(g_, row, slopes_[chunk.first + i], constants_.perLogit, tokens_.vocabOf(g_.logits));
      }
      const Row line{chunk.logits + i * g_.kept.stride, DType::kFloat32};
      for (; segment < last; ++segment) {
        writeGradient(line, line, segments.begin(segment), segments.end(segment), tokens_.column(row), values,
                      constants_, context_.kernels);
      }
    };
    if (segments.areShared(chunk.count, context_)) {
      context_.pool.run(chunk.count * segments.count, context_.threads, [&](int64_t task) {
        write(task / segments.count, task % segments.count, task % segments.count + 1);
      });
    } else {
      forEachRow(chunk.count, vocab_, context_, [&](int64_t i) { write(i, 0, segments.count); });
    }
  }

  void addToHidden(const Chunk& chunk) {
    head_.hiddenSums(chunk.logits, g_.kept.stride, chunk.count, hiddenSums_.data());
    forParts(chunk.count, 16, context_, [&](int64_t i, int64_t end) {
      for (; i < end; ++i) {
        if (!takesPart_[chunk.first + i]) continue;
        const int64_t at = active_[chunk.first + i] * width_;
        putSums(g_.hiddenDtype(), hiddenSums_.data() + i * width_, g_.hidden, at, at + width_, g_.addsToHidden());
      }
    });
    if (context_.onHiddenRows) context_.onHiddenRows(active_[chunk.first + chunk.count - 1] + 1);
  }

  void addToWeight(const Chunk& chunk, bool isFirst) {
    float* const hidden = head_.gather(active_.data() + chunk.first, chunk.count);
    // 0 times what they hold need not be 0.
    for (int64_t i = 0; i < chunk.count; ++i) {
      if (!takesPart_[chunk.first + i]) std::fill_n(hidden + i * width_, width_, 0.0f);
    }
    float* const out = isWide_ ? static_cast<float*>(g_.weight) : weightSums_.data();
    head_.weightSums(chunk.logits, g_.kept.stride, hidden, chunk.count, out, !isFirst || (isWide_ && g_.accumulate));
  }

  void addToBias(const Chunk& chunk, bool isFirst) {
    constexpr int64_t kWords = 1024;
    float* const out = isWide_ ? static_cast<float*>(g_.bias) : biasSums_.data();
    const bool add = !isFirst || (isWide_ && g_.accumulate);
    forParts(vocab_, kWords, context_, [&](int64_t begin, int64_t end) {
      double sums[kWords] = {};
      for (int64_t i = 0; i < chunk.count; ++i) {
        const float* const line = chunk.logits + i * g_.kept.stride;
        for (int64_t v = begin; v < end; ++v) sums[v - begin] += line[v];
      }
      for (int64_t v = begin; v < end; ++v) out[v] = float(add ? out[v] + sums[v - begin] : sums[v - begin]);
    });
  }

  const HeadGradient& g_;
  const Tokens& tokens_;
  const CpuContext& context_;
  const LogitConstants constants_;
  const int64_t vocab_, width_;
  const bool isWide_;  // the gradients are float32
  const std::vector<int64_t> active_;
  std::vector<int64_t> idle_;    // active rows whose coefficients are 0
  std::vector<char> takesPart_;  // of each active row
  std::vector<ResultSlopes> slopes_;
  const std::vector<Chunk> chunks_;
  BlasHead head_;
  const FloatBuffer hiddenSums_, weightSums_, biasSums_;
};

}  // namespace

void blasTokenLogProbs(const Forward& forward, const Tokens& tokens, const Sequences& sequences, TokenState* states,
                       float* sumSquaredProbs, const CpuContext& context) {
  const std::vector<int64_t> active = activeRows(tokens, sequences);
  const std::vector<Chunk> chunks = chunksOf(forward.kept, int64_t(active.size()));
  BlasHead head(forward.head, forward.logits.vocab, mostRowsOf(chunks), context);
  for (const Chunk& chunk : chunks) {
    const int64_t stride = forward.kept.stride;
    head.logits(active.data() + chunk.first, chunk.count, chunk.logits, stride);
    Rows logits;
    logits.data = chunk.logits;
    logits.batch = 1;
    logits.time = chunk.count;
    logits.vocab = forward.logits.vocab;
    logits.batchStride = chunk.count * stride;
    logits.timeStride = stride;
    const LogitsOfRows rows{logits, active.data() + chunk.first, chunk.count, true};
    if (forward.segments.areMade()) {
      sweepRows(forward, rows, tokens, context);
    } else {
      readRows(forward, rows, tokens, states, sumSquaredProbs, context);
    }
    if (context.cancelled) return;
  }
}

void blasGradient(const HeadGradient& g, const Tokens& tokens, const Sequences& sequences, const CpuContext& context) {
  // Everything is allocated here, before any of the caller's memory is written.
  BlasBackward backward(g, tokens, sequences, context);
  backward.addRows();
}

}  // namespace fpl
#endif
