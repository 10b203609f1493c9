// The output layer on logits of a chunk of rows, which are in memory: stages 1 and 4 around three plain products.
//
// The rows that are kept are one chunk; the others are worked on one chunk after the other, and stage 4 multiplies
// their logits again. The gradient with respect to a chunk's logits takes their place. The products are made between
// our own tasks, never beside them.
#if !defined(__wasm__)
#include <utility>

#include "head_products.h"
#include "logits_rows.h"

namespace fpl {
namespace {

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

std::unique_ptr<HeadProducts> productsOf(const Head& head, int64_t vocab, const std::vector<Chunk>& chunks,
                                         DType precision, const CpuContext& context) {
  const int64_t mostRows = mostRowsOf(chunks);
  if (context.tiles) return tileProducts(head, vocab, mostRows, precision, context);
  return blasProducts(head, vocab, mostRows, precision, context);
}

// Stage 4.
class ChunkedBackward {
 public:
  ChunkedBackward(const HeadGradient& gradient, const Tokens& tokens, const Sequences& sequences,
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
        products_(productsOf(gradient.head, vocab_, chunks_, gradient.precision, context)),
        labels_(gradient.precision == DType::kFloat32 ? 0 : active_.size()),
        labelLines_(context.threads, labels_.empty() ? 0 : 2 * width_),
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
      if (!chunk.isKept) products_->logits(active_.data() + chunk.first, chunk.count, chunk.logits, g_.kept.stride);
      makeGradient(chunk);
      if (g_.bias) addToBias(chunk, isFirst);
      if (!labels_.empty()) {
        setLabelsApart(chunk);
        products_->round(chunk.logits, g_.kept.stride, chunk.count);
      }
      if (g_.hidden) addToHidden(chunk);
      if (g_.weight) addToWeight(chunk, isFirst);
      isFirst = false;
    }
    if (g_.weight && !labels_.empty()) addLabelsToWeight();
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
    forEachPart(chunk.count, segments, context_, [&](int64_t i, int64_t segment, int64_t last) {
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
    });
  }

  // The label of an active row, or below 0 where it takes no part here.
  int64_t labelOf(int64_t i) const {
    const int64_t column = tokens_.column(active_[i]);
    return takesPart_[i] && column < vocab_ ? column : -1;
  }

  // Takes the labels' gradients, which are not rounded, out of the products.
  void setLabelsApart(const Chunk& chunk) {
    for (int64_t i = 0; i < chunk.count; ++i) {
      const int64_t label = labelOf(chunk.first + i);
      if (label >= 0) labels_[chunk.first + i] = std::exchange(chunk.logits[i * g_.kept.stride + label], 0.0f);
    }
  }

  void addLabelToHidden(int64_t i, float* sums) {
    const int64_t label = labelOf(i);
    if (label < 0) return;
    const Head::Weight& weight = g_.head.weight;
    const BufferPool::Loan loan(labelLines_);
    float* const weights = loan.data();
    for (int64_t d = 0; d < width_; ++d) {
      weights[d] =
          toFloat(static_cast<const BFloat16*>(weight.data)[label * weight.rowStride + d * weight.columnStride]);
    }
    context_.kernels.addMultiple[int(DType::kFloat32)](sums, weights, labels_[i], sums, 0, width_);
  }

  // Each word's by one task, in the order of the rows.
  void addLabelsToWeight() {
    constexpr int64_t kTasks = 16;
    const bool byWord = g_.head.weight.columnStride == 1;
    const int64_t wordStep = byWord ? width_ : 1, step = byWord ? 1 : vocab_;
    float* const out = isWide_ ? static_cast<float*>(g_.weight) : weightSums_.data();
    context_.pool.run(kTasks, context_.threads, [&](int64_t task) {
      const BufferPool::Loan loan(labelLines_);
      float *const states = loan.data(), *const sums = states + width_;
      for (size_t i = 0; i < active_.size(); ++i) {
        const int64_t label = labelOf(int64_t(i));
        if (label < 0 || label % kTasks != task) continue;
        const void* const begin = g_.head.hidden.begin(active_[i]);
        Vectors{DType::kBFloat16, &begin}.read(0, 0, width_, states);
        float* const line = out + label * wordStep;
        for (int64_t d = 0; d < width_; ++d) sums[d] = line[d * step];
        context_.kernels.addMultiple[int(DType::kFloat32)](sums, states, labels_[i], sums, 0, width_);
        for (int64_t d = 0; d < width_; ++d) line[d * step] = sums[d];
      }
    });
  }

  void addToHidden(const Chunk& chunk) {
    products_->hiddenSums(chunk.logits, g_.kept.stride, chunk.count, hiddenSums_.data());
    forParts(chunk.count, 16, context_, [&](int64_t i, int64_t end) {
      for (; i < end; ++i) {
        if (!takesPart_[chunk.first + i]) continue;
        if (!labels_.empty()) addLabelToHidden(chunk.first + i, hiddenSums_.data() + i * width_);
        const int64_t at = active_[chunk.first + i] * width_;
        putSums(g_.hiddenDtype(), hiddenSums_.data() + i * width_, g_.hidden, at, at + width_, g_.addsToHidden());
      }
    });
    if (context_.onHiddenRows) context_.onHiddenRows(active_[chunk.first + chunk.count - 1] + 1);
  }

  void addToWeight(const Chunk& chunk, bool isFirst) {
    float* const out = isWide_ ? static_cast<float*>(g_.weight) : weightSums_.data();
    products_->weightSums(chunk.logits, g_.kept.stride, active_.data() + chunk.first, takesPart_.data() + chunk.first,
                          chunk.count, out, !isFirst || (isWide_ && g_.accumulate));
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
  const std::unique_ptr<HeadProducts> products_;
  std::vector<float> labels_;  // the gradients with respect to the active rows' labels, where these are apart
  BufferPool labelLines_;      // two lines of features each, for these
  const FloatBuffer hiddenSums_, weightSums_, biasSums_;
};

}  // namespace

void chunkedTokenLogProbs(const Forward& forward, const Tokens& tokens, const Sequences& sequences, TokenState* states,
                          float* sumSquaredProbs, const CpuContext& context) {
  const std::vector<int64_t> active = activeRows(tokens, sequences);
  const std::vector<Chunk> chunks = chunksOf(forward.kept, int64_t(active.size()));
  const auto products = productsOf(forward.head, forward.logits.vocab, chunks, DType::kFloat32, context);
  for (const Chunk& chunk : chunks) {
    const int64_t stride = forward.kept.stride;
    products->logits(active.data() + chunk.first, chunk.count, chunk.logits, stride);
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

void chunkedGradient(const HeadGradient& g, const Tokens& tokens, const Sequences& sequences,
                     const CpuContext& context) {
  // Everything is allocated here, before any of the caller's memory is written.
  ChunkedBackward backward(g, tokens, sequences, context);
  backward.addRows();
}

}  // namespace fpl
#endif
