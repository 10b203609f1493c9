// The output layer on logits of a chunk of rows, which are in memory: stages 1 and 4 around three plain products.
//
// The rows that are kept are one chunk. The others are worked on one chunk after the other, of which a block of words
// is in memory at a time, and stage 4 multiplies their logits again. The gradient with respect to a block's logits
// takes their place. The products are made between our own tasks, never beside them.
#if !defined(__wasm__)
#include <utility>

#include "head_products.h"

namespace fpl {
namespace {

// Active rows first .. first + count, and where the logits of a block of theirs are.
struct Chunk {
  int64_t first, count;
  float* logits;
  bool isKept;

  // All words are a block where the logits are kept: they leave the cache before stage 4 reads them, in any case.
  int64_t wordsOfBlock(const KeptLogits& kept, int64_t vocab, int64_t step, const CpuContext& context) const {
    return isKept ? vocab : fpl::wordsOfBlock(kept.room, vocab, step, context.threads, context.tiles);
  }
};

// Some words of a chunk.
struct Block {
  const Chunk& chunk;
  const Words words;
  const int64_t stride = strideOfLogits(words.count());

  float* line(int64_t i) const { return chunk.logits + i * stride; }
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

// Stage 1 on a chunk's logits, a block of words after the other.
class ChunkReader {
 public:
  ChunkReader(const Forward& forward, const Tokens& tokens, TokenState* states, float* sumSquaredProbs,
              const CpuContext& context)
      : forward_(forward),
        tokens_(tokens),
        context_(context),
        constants_(tokens),
        segments_(forward),
        sweep_(forward, tokens, constants_, context.kernels),
        finish_{forward, tokens, states, sumSquaredProbs, constants_.exp.inverseTemperature},
        store_(forward) {}

  void begin(const int64_t* rows, int64_t count) {
    rows_ = rows;
    swept_.assign(count * segments_.count, {});
    labelLogits_.assign(count, 0);
  }

  // The end of a block that would end there: that of the vocabulary, or one that leaves whole steps to its segment.
  int64_t endOfBlock(int64_t wanted) const {
    if (wanted >= segments_.vocab) return segments_.vocab;
    const int64_t begin = segments_.begin(segmentOf(wanted));
    return begin + (wanted - begin) / kStepOfStates * kStepOfStates;
  }

  void add(const Block& block) {
    const int64_t first = segmentOf(block.words.first), count = segmentOf(block.words.end - 1) + 1 - first;
    context_.pool.run(block.chunk.count * count, context_.threads, [&](int64_t task) {
      const int64_t i = task / count, segment = first + task % count;
      addPart(i, segment, block.line(i) - block.words.first, std::max(block.words.first, segments_.begin(segment)),
              std::min(block.words.end, segments_.end(segment)));
    });
  }

  void finish() {
    const int64_t count = segments_.count;
    forParts(int64_t(labelLogits_.size()), 16, context_, [&](int64_t i, int64_t end) {
      for (; i < end; ++i) {
        const SweptRow* const ofRow = swept_.data() + i * count;
        const double inverseTemperature = constants_.exp.inverseTemperature;
        if (!forward_.segments.areMade()) {
          finish_(rows_[i], merged(ofRow, count, inverseTemperature), labelLogits_[i]);
          continue;
        }
        store_.put(rows_[i], ofRow, inverseTemperature);
        const int64_t label = tokens_.column(rows_[i]);
        if (label >= 0 && label < segments_.vocab) forward_.segments.labelLogits[rows_[i]] = labelLogits_[i];
      }
    });
  }

 private:
  int64_t segmentOf(int64_t word) const {
    int64_t segment = 0;
    while (segments_.end(segment) <= word) ++segment;
    return segment;
  }

  // Logits begin .. end of a row.
  void addPart(int64_t i, int64_t segment, const float* row, int64_t begin, int64_t end) {
    const int64_t label = tokens_.column(rows_[i]);
    if (label >= begin && label < end) {
      float logit = row[label];
      labelLogits_[i] = *sweep_.capped(&logit, 1, &logit);
    }
    SweptRow& swept = swept_[i * segments_.count + segment];
    const float maximum = swept.state.maximum;
    sweep_.add(row + begin, DType::kFloat32, end - begin, label - begin, begin, swept);
    if (swept.state.maximum > maximum) swept.state.argmax += tokens_.shard.start + begin;
  }

  const Forward& forward_;
  const Tokens& tokens_;
  const CpuContext& context_;
  const LogitConstants constants_;
  const RowSegments segments_;
  const RowSweep sweep_;
  const RowFinisher finish_;
  const SegmentStore store_;
  const int64_t* rows_ = nullptr;  // of the chunk
  std::vector<SweptRow> swept_;    // of each row and segment
  std::vector<float> labelLogits_;
};

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
        values_.push_back(takesPart ? RowValues(g_, row, slopes, constants_.perLogit, tokens.vocabOf(g_.logits))
                                    : RowValues());
      }
    }
  }

  void addRows() {
    clearRows(g_, tokens_, idle_);
    if (active_.size() == idle_.size()) {
      if (!g_.accumulate) clearWeights(g_);
      return;
    }
    for (const Chunk& chunk : chunks_) addChunk(chunk);
    if (g_.weight && !labels_.empty()) addLabelsToWeight();
    if (isWide_) return;
    forParts(g_.weight ? vocab_ : 0, 64, context_, [&](int64_t begin, int64_t end) {
      putSums(g_.dtype, weightSums_.data() + begin * width_, g_.weight, begin * width_, end * width_, g_.accumulate);
    });
    if (g_.bias) putSums(g_.dtype, biasSums_.data(), g_.bias, 0, vocab_, g_.accumulate);
  }

 private:
  // What the stages of a block read lies in the cache, where it is not of all words.
  void addChunk(const Chunk& chunk) {
    const int64_t* const rows = active_.data() + chunk.first;
    if (!chunk.isKept) products_->setRows(rows, chunk.count);
    if (g_.weight) products_->setStates(rows, takesPart_.data() + chunk.first, chunk.count);
    const int64_t step = chunk.wordsOfBlock(g_.kept, vocab_, kStepOfSums, context_);
    for (int64_t first = 0; first < vocab_; first += step) {
      const Block block{chunk, {first, std::min(vocab_, first + step)}};
      if (!chunk.isKept) products_->logits(block.words, chunk.logits, block.stride);
      makeGradient(block);
      if (g_.bias) addToBias(block);
      if (!labels_.empty()) {
        setLabelsApart(block);
        products_->round(chunk.logits, block.stride, chunk.count);
      }
      if (g_.hidden) {
        products_->hiddenSums(block.words, chunk.logits, block.stride, chunk.count, hiddenSums_.data());
      }
      if (g_.weight) addToWeight(block);
    }
    if (g_.hidden) putHidden(chunk);
  }

  // In the place of the logits; zeros for the rows that take no part.
  void makeGradient(const Block& block) {
    constexpr int64_t kPart = 4 * kBlock;
    const int64_t words = block.words.count(), parts = ceilDiv(words, kPart);
    forParts(block.chunk.count * parts, 1, context_, [&](int64_t task, int64_t) {
      const int64_t i = task / parts, active = block.chunk.first + i, begin = task % parts * kPart;
      const Row line{block.line(i), DType::kFloat32};
      const int64_t label = tokens_.column(active_[active]) - block.words.first;
      writeGradient(line, line, begin, std::min(words, begin + kPart), label, values_[active].from(block.words.first),
                    constants_, context_.kernels);
    });
  }

  // The label of an active row, or below 0 where it takes no part here.
  int64_t labelOf(int64_t i) const {
    const int64_t column = tokens_.column(active_[i]);
    return takesPart_[i] && column < vocab_ ? column : -1;
  }

  // Takes the labels' gradients, which are not rounded, out of the products.
  void setLabelsApart(const Block& block) {
    for (int64_t i = 0; i < block.chunk.count; ++i) {
      const int64_t active = block.chunk.first + i, label = labelOf(active);
      if (label < block.words.first || label >= block.words.end) continue;
      labels_[active] = std::exchange(block.line(i)[label - block.words.first], 0.0f);
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
    const int64_t tasks = 4 * context_.threads;
    const bool byWord = g_.head.weight.columnStride == 1;
    const int64_t wordStep = byWord ? width_ : 1, step = byWord ? 1 : vocab_;
    float* const out = isWide_ ? static_cast<float*>(g_.weight) : weightSums_.data();
    context_.pool.run(tasks, context_.threads, [&](int64_t task) {
      const BufferPool::Loan loan(labelLines_);
      float *const states = loan.data(), *const sums = states + width_;
      for (size_t i = 0; i < active_.size(); ++i) {
        const int64_t label = labelOf(int64_t(i));
        if (label < 0 || label % tasks != task) continue;
        const void* const begin = g_.head.hidden.begin(active_[i]);
        Vectors{DType::kBFloat16, &begin}.read(0, 0, width_, states);
        float* const line = out + label * wordStep;
        for (int64_t d = 0; d < width_; ++d) sums[d] = line[d * step];
        context_.kernels.addMultiple[int(DType::kFloat32)](sums, states, labels_[i], sums, 0, width_);
        for (int64_t d = 0; d < width_; ++d) line[d * step] = sums[d];
      }
    });
  }

  void putHidden(const Chunk& chunk) {
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

  // Whether the gradients of weight and bias, which are sums over the chunks, have something already.
  bool adds(const Chunk& chunk) const { return chunk.first > 0 || (isWide_ && g_.accumulate); }

  void addToWeight(const Block& block) {
    float* const out = isWide_ ? static_cast<float*>(g_.weight) : weightSums_.data();
    const bool add = adds(block.chunk);
    products_->weightSums(block.words, block.chunk.logits, block.stride, block.chunk.count, out, add);
  }

  void addToBias(const Block& block) {
    constexpr int64_t kWords = 1024;
    float* const out = (isWide_ ? static_cast<float*>(g_.bias) : biasSums_.data()) + block.words.first;
    const bool add = adds(block.chunk);
    forParts(block.words.count(), kWords, context_, [&](int64_t begin, int64_t end) {
      double sums[kWords] = {};
      for (int64_t i = 0; i < block.chunk.count; ++i) {
        const float* const line = block.line(i);
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
  std::vector<RowValues> values_;
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
  const int64_t vocab = forward.logits.vocab;
  const auto products = productsOf(forward.head, vocab, chunks, DType::kFloat32, context);
  ChunkReader reader(forward, tokens, states, sumSquaredProbs, context);
  for (const Chunk& chunk : chunks) {
    const int64_t* const rows = active.data() + chunk.first;
    const int64_t step = chunk.wordsOfBlock(forward.kept, vocab, kStepOfStates, context);
    products->setRows(rows, chunk.count);
    reader.begin(rows, chunk.count);
    for (int64_t first = 0; first < vocab;) {
      const Block block{chunk, {first, reader.endOfBlock(first + step)}};
      products->logits(block.words, chunk.logits, block.stride);
      reader.add(block);
      if (context.cancelled) return;
      first = block.words.end;
    }
    reader.finish();
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
