// Stage 4 on logits that exist a tile at a time, and the sums that follow it:
//
//   hidden [R, D]  Σ_v gradient(r, v) · weight(v, d)
//   weight [V, D]  Σ_r gradient(r, v) · hidden(r, d)
//   bias   [V]     Σ_r gradient(r, v)
//
// For each group of rows the vocabulary goes by in blocks of words. The gradient with respect to a block's logits is
// made a tile at a time, and each tile is packed twice: "along" the words, as the left factor of hidden's product, and
// "across" them, as a factor of weight's. When the block is packed, each part of either result has one task, which
// multiplies and adds to that part.
//
// Weight's gradient is stored as the weight is. Where the weights of a word are neighbours it is words × features, and
// the block's gradient is its left factor; else it is features × words, and the block's gradient is its right factor.
#include <cstring>

#include "head.h"

namespace fpl {
namespace {

constexpr int64_t kRows = HeadTiling::kRows;
constexpr int64_t kPartColumns = kColumnsOfPart;
constexpr int64_t kPanelsPerTask = 8;  // to pack

struct ActiveRow {
  int64_t row;
  RowValues values;
  int64_t label;
};

// The rows that take part. A row whose coefficients are 0 does not, even if its hidden states are NaN; it goes to
// `idle`.
std::vector<ActiveRow> rowsOf(const HeadGradient& g, const Tokens& tokens, const Sequences& sequences,
                              const LogitConstants& constants, std::vector<int64_t>& idle) {
  std::vector<ActiveRow> rows;
  for (const int32_t s : sequences) {
    for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
      if (tokens.targets[row] < 0) continue;
      const ResultSlopes slopes = resultSlopes(tokens, g, s, row);
      if (slopes.none()) {
        idle.push_back(row);
        continue;
      }
      rows.push_back({row, RowValues(g, row, slopes, constants.perLogit), tokens.targets[row]});
    }
  }
  return rows;
}

// The stage for groups of at most `groupRows` rows.
class HeadBackward {
 public:
  HeadBackward(const HeadGradient& gradient, const LogitConstants& constants, int64_t mostRows,
               const CpuContext& context)
      : g_(gradient),
        context_(context),
        shape_(context.kernels.panels),
        vocab_(gradient.logits.vocab),
        width_(gradient.head.width()),
        byWord_(gradient.head.weight.columnStride == 1),
        tiling_(gradient.head, vocab_),
        reader_(gradient.head, vocab_),
        constants_(constants),
        groupRows_(std::min(tiling_.groupRows, mostRows)),
        blockWords_(std::min(tiling_.blockWords, vocab_)),
        tileWords_(std::min(tiling_.tileWords, blockWords_)),
        hiddenPanel_(byWord_ ? shape_.columns : shape_.rows),
        gradientPanel_(byWord_ ? shape_.rows : shape_.columns),
        hiddenAlong_(padded(groupRows_, shape_.rows) * width_),
        hiddenAcross_(g_.weight ? padded(width_, hiddenPanel_) * groupRows_ : 0),
        logitsWeights_(padded(blockWords_, shape_.columns) * width_),
        hiddenWeights_(g_.hidden ? padded(width_, shape_.columns) * blockWords_ : 0),
        gradientAlong_(g_.hidden ? padded(groupRows_, shape_.rows) * blockWords_ : 0),
        gradientAcross_(g_.weight ? padded(blockWords_, gradientPanel_) * groupRows_ : 0),
        tilesOfLogits_(std::min(context.threads, ceilDiv(groupRows_, kRows) * ceilDiv(blockWords_, tileWords_)),
                       kRows * tileWords_),
        hiddenSums_(g_.hidden ? groupRows_ * width_ : 0),
        biasSums_(g_.bias ? ceilDiv(groupRows_, kRows) * blockWords_ : 0) {}

  int64_t groupRows() const { return groupRows_; }

  // Adds the contribution of `count` rows to the gradients; when they are the first, in the place of what was there.
  void add(const ActiveRow* rows, int64_t count, bool first) {
    FPL_ASSERT(count > 0 && count <= groupRows_);
    rows_ = rows;
    count_ = count;
    adds_ = !first;
    tiles_ = ceilDiv(count, kRows);
    packHidden();
    for (block_ = 0; block_ < vocab_; block_ += blockWords_) {
      words_ = std::min(blockWords_, vocab_ - block_);
      packWeights();
      const int64_t wordTiles = ceilDiv(words_, tileWords_);
      run(tiles_ * wordTiles, [&](int64_t task) { tile(task / wordTiles * kRows, task % wordTiles * tileWords_); });
      addProducts();
    }
    if (g_.hidden) writeHidden();
  }

 private:
  static int64_t padded(int64_t count, int64_t panel) { return ceilDiv(count, panel) * panel; }

  template <typename Task>
  void run(int64_t count, const Task& task) {
    context_.pool.run(count, context_.threads, task);
  }

  // Packs the group's hidden states: as the left factor of the logits, and as a factor of weight's gradient.
  void packHidden() {
    std::vector<int64_t> rows(count_);
    for (int64_t i = 0; i < count_; ++i) rows[i] = rows_[i].row;
    const std::vector<const void*> begins = reader_.begins(rows.data(), count_);
    const int64_t panels = ceilDiv(count_, shape_.rows), panelsPerTile = kRows / shape_.rows;
    const int64_t featurePanels = g_.weight ? ceilDiv(width_, hiddenPanel_) : 0;
    run(tiles_ + ceilDiv(featurePanels, kPanelsPerTask), [&](int64_t task) {
      if (task < tiles_) {
        const int64_t first = task * panelsPerTile;
        packAlong(reader_.hidden(begins), count_, width_, shape_.rows, first, std::min(panels, first + panelsPerTile),
                  hiddenAlong_.data(), width_ * shape_.rows);
      } else {
        const int64_t first = (task - tiles_) * kPanelsPerTask;
        packAcross(reader_.hidden(begins), 0, width_, count_, hiddenPanel_, first,
                   std::min(featurePanels, first + kPanelsPerTask), hiddenAcross_.data(), count_ * hiddenPanel_);
      }
    });
  }

  // Packs the block's weights: as the right factor of the logits, and of hidden's gradient.
  void packWeights() {
    const int64_t wordPanels = ceilDiv(words_, shape_.columns);
    const int64_t featurePanels = g_.hidden ? ceilDiv(width_, shape_.columns) : 0;
    const int64_t wordTasks = ceilDiv(wordPanels, kPanelsPerTask);
    run(wordTasks + ceilDiv(featurePanels, kPanelsPerTask), [&](int64_t task) {
      const bool forLogits = task < wordTasks;
      const int64_t first = (forLogits ? task : task - wordTasks) * kPanelsPerTask;
      if (forLogits) {
        reader_.packForLogits(block_, words_, shape_.columns, first, std::min(wordPanels, first + kPanelsPerTask),
                              logitsWeights_.data());
      } else {
        reader_.packForHidden(block_, words_, shape_.columns, first, std::min(featurePanels, first + kPanelsPerTask),
                              hiddenWeights_.data());
      }
    });
  }

  // Makes and packs the gradient with respect to a tile: the group's rows from r on, the block's words from `first` on.
  void tile(int64_t r, int64_t first) {
    const int64_t rows = std::min(kRows, count_ - r), words = std::min(tileWords_, words_ - first);
    FPL_ASSERT(rows > 0 && words > 0 && block_ + first + words <= vocab_);
    const BufferPool::Loan logits(tilesOfLogits_);
    reader_.logits(context_.kernels, hiddenAlong_.data() + r * width_, rows, logitsWeights_.data() + first * width_,
                   block_ + first, words, logits.data(), tileWords_);
    const void* lines[kRows];
    for (int64_t i = 0; i < rows; ++i) {
      float* line = logits.data() + i * tileWords_;
      const ActiveRow& row = rows_[r + i];
      writeGradient(line, line, 0, words, row.label - (block_ + first), row.values, constants_, context_.kernels);
      lines[i] = line;
    }
    const Vectors gradient{DType::kFloat32, lines};
    if (g_.hidden) {
      packAlong(gradient, rows, words, shape_.rows, 0, ceilDiv(rows, shape_.rows),
                gradientAlong_.data() + r * words_ + first * shape_.rows, words_ * shape_.rows);
    }
    if (g_.weight) {
      packAcross(gradient, 0, words, rows, gradientPanel_, 0, ceilDiv(words, gradientPanel_),
                 gradientAcross_.data() + first * count_ + r * gradientPanel_, count_ * gradientPanel_);
    }
    if (g_.bias) {
      double* sums = biasSums_.data() + r / kRows * blockWords_ + first;
      std::fill_n(sums, words, 0.0);
      for (int64_t i = 0; i < rows; ++i) {
        const float* line = logits.data() + i * tileWords_;
        for (int64_t v = 0; v < words; ++v) sums[v] += line[v];
      }
    }
  }

  void addProducts() {
    const int64_t widthParts = ceilDiv(width_, kPartColumns), wordParts = ceilDiv(words_, kPartColumns);
    const int64_t hiddenTasks = g_.hidden ? tiles_ * widthParts : 0;
    const int64_t weightParts = byWord_ ? widthParts : wordParts;
    const int64_t weightTasks = g_.weight ? ceilDiv(byWord_ ? words_ : width_, kRows) * weightParts : 0;
    run(hiddenTasks + weightTasks + (g_.bias ? 1 : 0), [&](int64_t task) {
      if (task < hiddenTasks) {
        addToHidden(task / widthParts * kRows, task % widthParts * kPartColumns);
      } else if (task < hiddenTasks + weightTasks) {
        task -= hiddenTasks;
        addToWeight(task / weightParts * kRows, task % weightParts * kPartColumns);
      } else {
        addToBias();
      }
    });
  }

  // Adds to a part of hidden's gradient: rows from r on, features from d on.
  void addToHidden(int64_t r, int64_t d) {
    context_.kernels.multiply({gradientAlong_.data() + r * words_, hiddenWeights_.data() + d * words_,
                               words_ * shape_.rows, words_ * shape_.columns, std::min(kRows, count_ - r),
                               std::min(kPartColumns, width_ - d), words_, hiddenSums_.data() + r * width_ + d, width_,
                               block_ > 0});
  }

  // Adds to a part of weight's gradient: rows from i on and columns from j on of the matrix as it is stored.
  void addToWeight(int64_t i, int64_t j) {
    const float* left = (byWord_ ? gradientAcross_ : hiddenAcross_).data() + i * count_;
    const float* right = (byWord_ ? hiddenAcross_ : gradientAcross_).data() + j * count_;
    const int64_t rows = byWord_ ? words_ : width_, columns = byWord_ ? width_ : words_;
    const int64_t stride = byWord_ ? width_ : vocab_;
    float* out = g_.weight + i * stride + j + (byWord_ ? block_ * width_ : block_);
    context_.kernels.multiply({left, right, count_ * shape_.rows, count_ * shape_.columns, std::min(kRows, rows - i),
                               std::min(kPartColumns, columns - j), count_, out, stride, adds_});
  }

  void addToBias() {
    for (int64_t v = 0; v < words_; ++v) {
      double sum = 0;
      for (int64_t tile = 0; tile < tiles_; ++tile) sum += biasSums_[tile * blockWords_ + v];
      float& out = g_.bias[block_ + v];
      out = adds_ ? float(out + sum) : float(sum);
    }
  }

  void writeHidden() {
    for (int64_t i = 0; i < count_; ++i) {
      const float* sums = hiddenSums_.data() + i * width_;
      float* out = g_.hidden + rows_[i].row * width_;
      for (int64_t d = 0; d < width_; ++d) out[d] = g_.accumulate ? out[d] + sums[d] : sums[d];
    }
  }

  const HeadGradient& g_;
  const CpuContext& context_;
  const PanelShape shape_;
  const int64_t vocab_, width_;
  const bool byWord_;  // the weights of a word are neighbours
  const HeadTiling tiling_;
  const HeadReader reader_;
  const LogitConstants& constants_;
  const int64_t groupRows_, blockWords_, tileWords_;
  const int64_t hiddenPanel_, gradientPanel_;  // widths of the panels of weight's factors

  // The group at hand, and its hidden states.
  const ActiveRow* rows_ = nullptr;
  int64_t count_ = 0, tiles_ = 0;
  bool adds_ = false;
  const FloatBuffer hiddenAlong_, hiddenAcross_;
  // The block at hand, its weights and its gradient, each as the factor of two products.
  int64_t block_ = 0, words_ = 0;
  const FloatBuffer logitsWeights_, hiddenWeights_, gradientAlong_, gradientAcross_;
  BufferPool tilesOfLogits_;
  const FloatBuffer hiddenSums_;  // [rows, D], over the blocks
  std::vector<double> biasSums_;  // [tiles, words]
};

}  // namespace

void headGradient(const HeadGradient& g, const Tokens& tokens, const Sequences& sequences, const CpuContext& context) {
  const int64_t width = g.head.width();
  std::vector<int64_t> idle;
  const LogitConstants constants(tokens);
  const std::vector<ActiveRow> rows = rowsOf(g, tokens, sequences, constants, idle);
  const int64_t count = int64_t(rows.size());
  // Everything is allocated here, before any of the caller's memory is written.
  HeadBackward backward(g, constants, count, context);
  if (g.hidden && !g.skipInactive) {
    for (int64_t row = 0; row < g.logits.count(); ++row) {
      if (tokens.targets[row] < 0) memset(g.hidden + row * width, 0, width * sizeof(float));
    }
  }
  if (g.hidden && !g.accumulate) {
    for (const int64_t row : idle) memset(g.hidden + row * width, 0, width * sizeof(float));
  }
  if (count == 0 && !g.accumulate) {
    if (g.weight) memset(g.weight, 0, g.logits.vocab * width * sizeof(float));
    if (g.bias) memset(g.bias, 0, g.logits.vocab * sizeof(float));
  }
  const int64_t groupRows = backward.groupRows();
  for (int64_t start = 0; start < count; start += groupRows) {
    backward.add(rows.data() + start, std::min(groupRows, count - start), start == 0 && !g.accumulate);
  }
}

}  // namespace fpl
