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
// Sums are float32. A 16-bit gradient of the weight is rounded once: a block's sums over all groups are finished, in a
// buffer, before the next block, and the packed hidden states of all groups are kept for that.
//
// Weight's gradient is stored as the weight is. Where the weights of a word are neighbours it is words × features, and
// the block's gradient is its left factor; else it is features × words, and the block's gradient is its right factor.
//
// Where the gradient's precision is bfloat16, a tile is rounded to it, but for the labels. These have 0 there, and the
// products of their gradients, which are float32, are added to the sums apart:
//
//   hidden  Σ_v≠label rounded(r, v) · weight(v, d)  +  gradient(r, label) · weight(label, d)
//
// The bias has no product: nothing of its gradient is rounded.
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
  const float* logits;  // or null: they are to be multiplied
};

// The rows that take part. A row whose coefficients are 0 does not, even if its hidden states are NaN; it goes to
// `idle`.
std::vector<ActiveRow> rowsOf(const HeadGradient& g, const Tokens& tokens, const Sequences& sequences,
                              const LogitConstants& constants, std::vector<int64_t>& idle) {
  std::vector<ActiveRow> rows;
  int64_t active = 0;
  for (const int32_t s : sequences) {
    for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
      if (tokens.targets[row] < 0) continue;
      const float* const logits = g.kept.of(active++);
      const ResultSlopes slopes = resultSlopes(tokens, g, s, row);
      if (slopes.none()) {
        idle.push_back(row);
        continue;
      }
      const int64_t vocab = tokens.vocabOf(g.logits);
      rows.push_back({row, RowValues(g, row, slopes, constants.perLogit, vocab), tokens.column(row), logits});
    }
  }
  return rows;
}

// Gradients as numbers of this type.
template <typename T>
void putSums(const float* sums, void* out, int64_t begin, int64_t end, bool add) {
  T* const values = static_cast<T*>(out);
  for (int64_t i = begin; i < end; ++i) {
    fromFloat(add ? toFloat(values[i]) + sums[i - begin] : sums[i - begin], values[i]);
  }
}

// The stage for these rows, in groups.
class HeadBackward {
 public:
  HeadBackward(const HeadGradient& gradient, const LogitConstants& constants, const std::vector<ActiveRow>& rows,
               const CpuContext& context)
      : g_(gradient),
        context_(context),
        all_(rows),
        isWide_(gradient.dtype == DType::kFloat32),
        blocksOutside_(g_.weight && !isWide_),
        multiplies_(std::any_of(rows.begin(), rows.end(), [](const ActiveRow& row) { return !row.logits; })),
        shape_(context.kernels.panels),
        vocab_(gradient.logits.vocab),
        width_(gradient.head.width()),
        byWord_(gradient.head.weight.columnStride == 1),
        tiling_(gradient.head, vocab_),
        reader_(gradient.head, vocab_, context.kernels),
        // An odd number of words cannot be read in pairs where the words are neighbours.
        ofHidden_{context.kernels, rounds() && (byWord_ || vocab_ % 2 == 0) ? context.kernels.pairs : nullptr},
        ofWeight_{context.kernels, rounds() ? context.kernels.pairs : nullptr},
        constants_(constants),
        groupRows_(std::min(tiling_.groupRows, int64_t(rows.size()))),
        kept_(blocksOutside_ && groupRows_ > 0 ? ceilDiv(int64_t(rows.size()), groupRows_) : 1),
        blockWords_(std::min(tiling_.blockWords, vocab_)),
        tileWords_(std::min(tiling_.tileWords, blockWords_)),
        hiddenPanel_(byWord_ ? shape_.columns : shape_.rows),
        gradientPanel_(byWord_ ? shape_.rows : shape_.columns),
        hidden_(groupRows_ + 1),
        hiddenAlong_(kept_, reader_.panels(groupRows_, shape_.rows)),
        hiddenAcross_(kept_, g_.weight ? ofWeight_.panels(width_, groupRows_, hiddenPanel_) : 0),
        logitsWeights_(reader_.panels(blockWords_, shape_.columns)),
        hiddenWeights_(g_.hidden ? ofHidden_.panels(width_, blockWords_, shape_.columns) : 0),
        gradientAlong_(g_.hidden ? ofHidden_.panels(groupRows_, blockWords_, shape_.rows) : 0),
        gradientAcross_(g_.weight ? ofWeight_.panels(blockWords_, groupRows_, gradientPanel_) : 0),
        tilesOfLogits_(std::min(context.threads, ceilDiv(groupRows_, kRows) * ceilDiv(blockWords_, tileWords_)),
                       kRows * (rounds() ? 2 : 1) * tileWords_),
        ofLabels_(rounds() ? groupRows_ : 0),
        leasts_(ceilDiv(groupRows_, kRows) * ceilDiv(blockWords_, tileWords_)),
        zeros_(rounds() ? std::max(width_, tileWords_) : 0),
        hiddenSums_(kept_, g_.hidden ? groupRows_ * width_ : 0),
        weightSums_(blocksOutside_ ? blockWords_ * width_ : 0),
        biasSums_(g_.bias ? ceilDiv(groupRows_, kRows) * blockWords_ : 0),
        biasTotals_(g_.bias && !isWide_ ? vocab_ : 0) {}

  // Adds the contributions of all rows to the gradients, or puts them in the place of what is there.
  void addRows() {
    const int64_t groups = groupRows_ > 0 ? ceilDiv(int64_t(all_.size()), groupRows_) : 0;
    for (int64_t group = 0; group < groups; ++group) {
      take(group);
      packHidden();
      if (blocksOutside_) continue;
      forEachBlock([&] { addBlock(); });
      if (g_.hidden) writeHidden();
    }
    if (blocksOutside_ && groups > 0) {
      forEachBlock([&] {
        for (int64_t group = 0; group < groups; ++group) {
          take(group);
          addBlock();
        }
        writeWeight();
      });
      for (int64_t group = 0; group < groups && g_.hidden; ++group) {
        take(group);
        writeHidden();
      }
    }
    if (g_.bias && !isWide_ && groups > 0) putSums(g_.dtype, biasTotals_.data(), g_.bias, 0, vocab_, g_.accumulate);
  }

 private:
  // Whether the gradient's precision is bfloat16.
  bool rounds() const { return kHasRounding && g_.precision == DType::kBFloat16; }

  // Buffers of equal size, one for each group that is kept.
  class GroupBuffers {
   public:
    GroupBuffers(int64_t groups, int64_t size) : size_((size + 15) / 16 * 16), memory_(groups * size_) {}
    float* of(int64_t slot) const { return memory_.data() + slot * size_; }

   private:
    int64_t size_;  // whole cache lines
    FloatBuffer memory_;
  };

  // Makes a group the one at hand.
  void take(int64_t group) {
    const int64_t start = group * groupRows_;
    slot_ = blocksOutside_ ? group : 0;
    rows_ = all_.data() + start;
    count_ = std::min(groupRows_, int64_t(all_.size()) - start);
    tiles_ = ceilDiv(count_, kRows);
    isFirst_ = group == 0;
  }

  template <typename Work>
  void forEachBlock(const Work& work) {
    for (block_ = 0; block_ < vocab_; block_ += blockWords_) {
      words_ = std::min(blockWords_, vocab_ - block_);
      packWeights();
      work();
    }
  }

  // Adds the contribution of the group and the block at hand.
  void addBlock() {
    const int64_t wordTiles = ceilDiv(words_, tileWords_);
    run(tiles_ * wordTiles, [&](int64_t task) { tile(task / wordTiles * kRows, task % wordTiles * tileWords_); });
    addProducts();
  }

  void run(int64_t count, Task task) { context_.pool.run(count, context_.threads, task); }

  // Packs the group's hidden states: as the left factor of the logits, and as a factor of weight's gradient.
  void packHidden() {
    for (int64_t i = 0; i < count_; ++i) hidden_[i] = g_.head.hidden.begin(rows_[i].row);
    hidden_[count_] = zeros_.data();
    const int64_t panels = ceilDiv(count_, shape_.rows), panelsPerTile = kRows / shape_.rows;
    const int64_t featurePanels = g_.weight ? ceilDiv(width_, hiddenPanel_) : 0;
    const int64_t alongTasks = multiplies_ ? tiles_ : 0;
    run(alongTasks + ceilDiv(featurePanels, kPanelsPerTask), [&](int64_t task) {
      if (task < alongTasks) {
        const int64_t first = task * panelsPerTile;
        reader_.packHidden(hidden_.data(), count_, first, std::min(panels, first + panelsPerTile),
                           hiddenAlong_.of(slot_));
      } else {
        const int64_t first = (task - alongTasks) * kPanelsPerTask;
        const int64_t end = std::min(featurePanels, first + kPanelsPerTask);
        const int64_t panel = ofWeight_.panel(count_, hiddenPanel_);
        ofWeight_.across({g_.head.hidden.dtype, hidden_.data()}, 0, width_, count_, hiddenPanel_, first, end,
                         hiddenAcross_.of(slot_), panel);
        ofWeight_.putLeast(first, end, hiddenAcross_.of(slot_), panel);
      }
    });
  }

  // Packs the block's weights: as the right factor of the logits, and of hidden's gradient.
  void packWeights() {
    const int64_t wordPanels = ceilDiv(words_, shape_.columns);
    const int64_t featurePanels = g_.hidden ? ceilDiv(width_, shape_.columns) : 0;
    const int64_t wordTasks = multiplies_ ? ceilDiv(wordPanels, kPanelsPerTask) : 0;
    run(wordTasks + ceilDiv(featurePanels, kPanelsPerTask), [&](int64_t task) {
      const bool forLogits = task < wordTasks;
      const int64_t first = (forLogits ? task : task - wordTasks) * kPanelsPerTask;
      if (forLogits) {
        reader_.packForLogits(block_, words_, first, std::min(wordPanels, first + kPanelsPerTask),
                              logitsWeights_.data());
      } else {
        reader_.packForHidden(ofHidden_, block_, words_, shape_.columns, first,
                              std::min(featurePanels, first + kPanelsPerTask), hiddenWeights_.data());
      }
    });
  }

  // Makes and packs the gradient with respect to a tile: the group's rows from r on, the block's words from `first` on.
  void tile(int64_t r, int64_t first) {
    const int64_t rows = std::min(kRows, count_ - r), words = std::min(tileWords_, words_ - first);
    FPL_ASSERT(rows > 0 && words > 0 && block_ + first + words <= vocab_);
    const BufferPool::Loan made(tilesOfLogits_);
    // The rows that are kept come first.
    const bool isKept = rows_[r + rows - 1].logits != nullptr;
    if (!isKept) {
      reader_.logits(hiddenAlong_.of(slot_) + reader_.panels(r, shape_.rows), rows,
                     logitsWeights_.data() + reader_.panels(first, shape_.columns), block_ + first, words, made.data(),
                     tileWords_);
    }
    // Rounded rows have room for an even number of words.
    const int64_t evenWords = words + words % 2;
    BFloat16* const rounded = reinterpret_cast<BFloat16*>(made.data() + kRows * tileWords_);
    const auto logitsOf = [&](int64_t i) {
      float* const kept = const_cast<float*>(rows_[r + i].logits);
      return Row{isKept ? kept + block_ + first : made.data() + i * tileWords_, DType::kFloat32};
    };
    const auto labelOf = [&](int64_t i) { return rows_[r + i].label - (block_ + first); };
    const auto write = [&](int64_t i, const Row& out) {
      const RowValues values = rows_[r + i].values.from(block_ + first);
      writeGradient(logitsOf(i), out, 0, words, labelOf(i), values, constants_, context_.kernels);
    };
    const void* lines[kRows];
    for (int64_t i = 0; i < rows; ++i) {
      float* const line = made.data() + i * tileWords_;
      const Row out = rounds() ? Row{rounded + i * evenWords, DType::kBFloat16} : Row{line, DType::kFloat32};
      write(i, out);
      lines[i] = out.data;
      if (!rounds()) continue;
      BFloat16* const last = rounded + (i + 1) * evenWords;
      if (words % 2 != 0) last[-1] = {};
      const int64_t label = labelOf(i);
      if (label < 0 || label >= words) continue;
      writeGradient(logitsOf(i).from(label), {&ofLabels_[r + i], DType::kFloat32}, 0, 1, 0,
                    rows_[r + i].values.from(block_ + first + label), constants_, context_.kernels);
      rounded[i * evenWords + label] = {};
    }
    if (rows % 2 != 0) lines[rows] = zeros_.data();
    if (const PairKernels* const pairs = ofWeight_.pairs) {
      leasts_[leastAt(r, first)] = pairs->least(reinterpret_cast<const float*>(rounded), rows * evenWords / 2);
    }
    const Vectors gradient{rounds() ? DType::kBFloat16 : DType::kFloat32, lines};
    if (g_.hidden) {
      const int64_t panel = ofHidden_.panel(words_, shape_.rows);
      ofHidden_.along(gradient, rows, words, shape_.rows, 0, ceilDiv(rows, shape_.rows),
                      gradientAlong_.data() + r / shape_.rows * panel + ofHidden_.depth(first) * shape_.rows, panel);
    }
    if (g_.weight) {
      const int64_t panel = ofWeight_.panel(count_, gradientPanel_);
      ofWeight_.across(gradient, 0, words, rows, gradientPanel_, 0, ceilDiv(words, gradientPanel_),
                       gradientAcross_.data() + first / gradientPanel_ * panel + ofWeight_.depth(r) * gradientPanel_,
                       panel);
    }
    if (g_.bias) {
      // Without products, nothing of it is rounded: the rows are made again, in the place of the logits.
      double* sums = biasSums_.data() + r / kRows * blockWords_ + first;
      std::fill_n(sums, words, 0.0);
      for (int64_t i = 0; i < rows; ++i) {
        float* const values = made.data() + i * tileWords_;
        if (rounds()) write(i, {values, DType::kFloat32});
        for (int64_t v = 0; v < words; ++v) sums[v] += values[v];
      }
    }
  }

  int64_t leastAt(int64_t r, int64_t first) const {
    return r / kRows * ceilDiv(blockWords_, tileWords_) + first / tileWords_;
  }

  // Each panel of the gradient gets the least magnitude of all tiles that it goes through.
  void putLeasts() {
    const auto put = [&](float* panels, int64_t panel, int64_t p, bool isAlong, int64_t at) {
      float least = INFINITY;
      for (int64_t r = isAlong ? at : 0; r < (isAlong ? at + 1 : count_); r += kRows) {
        for (int64_t first = isAlong ? 0 : at; first < (isAlong ? words_ : at + 1); first += tileWords_) {
          least = std::min(least, leasts_[leastAt(r, first)]);
        }
      }
      panels[(p + 1) * panel - kLeastSpace] = least;
    };
    for (int64_t r = 0; r < count_ && g_.hidden && ofHidden_.pairs; r += shape_.rows) {
      put(gradientAlong_.data(), ofHidden_.panel(words_, shape_.rows), r / shape_.rows, true, r);
    }
    for (int64_t first = 0; first < words_ && g_.weight && ofWeight_.pairs; first += gradientPanel_) {
      put(gradientAcross_.data(), ofWeight_.panel(count_, gradientPanel_), first / gradientPanel_, false, first);
    }
  }

  void addProducts() {
    putLeasts();
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
    const int64_t left = ofHidden_.panel(words_, shape_.rows), right = ofHidden_.panel(words_, shape_.columns);
    const int64_t rows = std::min(kRows, count_ - r), columns = std::min(kPartColumns, width_ - d);
    float* const sums = hiddenSums_.of(slot_) + r * width_ + d;
    ofHidden_.multiply({gradientAlong_.data() + r / shape_.rows * left,
                        hiddenWeights_.data() + d / shape_.columns * right, left, right, rows, columns,
                        ofHidden_.depth(words_), sums, width_, block_ > 0});
    for (int64_t i = 0; i < rows && rounds(); ++i) {
      const int64_t label = rows_[r + i].label;
      if (label < block_ || label >= block_ + words_) continue;
      float weights[kPartColumns];
      addMultiple(ofLabels_[r + i], reader_.weights(label, d, columns, weights), columns, sums + i * width_, 1);
    }
  }

  // Adds to a part of weight's gradient: rows from i on and columns from j on of the matrix as it is stored.
  void addToWeight(int64_t i, int64_t j) {
    const int64_t ofHidden = ofWeight_.panel(count_, hiddenPanel_), ofWords = ofWeight_.panel(count_, gradientPanel_);
    const float* const hidden = hiddenAcross_.of(slot_) + (byWord_ ? j : i) / hiddenPanel_ * ofHidden;
    const float* const words = gradientAcross_.data() + (byWord_ ? i : j) / gradientPanel_ * ofWords;
    const int64_t rows = std::min(kRows, (byWord_ ? words_ : width_) - i);
    const int64_t columns = std::min(kPartColumns, (byWord_ ? width_ : words_) - j);
    float* out = weightSums_.data();
    int64_t stride = byWord_ ? width_ : blockWords_;
    bool add = !isFirst_;
    if (isWide_) {
      out = static_cast<float*>(g_.weight) + (byWord_ ? block_ * width_ : block_);
      stride = byWord_ ? width_ : vocab_;
      add = add || g_.accumulate;
    }
    out += i * stride + j;
    ofWeight_.multiply({byWord_ ? words : hidden, byWord_ ? hidden : words, byWord_ ? ofWords : ofHidden,
                        byWord_ ? ofHidden : ofWords, rows, columns, ofWeight_.depth(count_), out, stride, add});
    for (int64_t r = 0; r < count_ && rounds(); ++r) {
      const int64_t word = rows_[r].label - block_ - (byWord_ ? i : j);
      if (word < 0 || word >= (byWord_ ? rows : columns)) continue;
      const void* const begin = g_.head.hidden.begin(rows_[r].row);
      float features[std::max(kPartColumns, kRows)];
      const float* const values =
          Vectors{g_.head.hidden.dtype, &begin}.read(0, byWord_ ? j : i, byWord_ ? columns : rows, features);
      addMultiple(ofLabels_[r], values, byWord_ ? columns : rows, out + word * (byWord_ ? stride : 1),
                  byWord_ ? 1 : stride);
    }
  }

  // The label's part of a sum, rounded once. Sums are `step` elements apart.
  static void addMultiple(float factor, const float* values, int64_t count, float* sums, int64_t step) {
    for (int64_t k = 0; k < count; ++k) sums[k * step] = float(sums[k * step] + double(factor) * values[k]);
  }

  // The sums of the block at hand go to a gradient that is not float32.
  void writeWeight() {
    const int64_t rows = byWord_ ? words_ : width_, columns = byWord_ ? width_ : words_;
    const int64_t stride = byWord_ ? width_ : vocab_, begin = byWord_ ? block_ * width_ : block_;
    const int64_t sumsStride = byWord_ ? width_ : blockWords_;
    run(ceilDiv(rows, kRows), [&](int64_t task) {
      for (int64_t i = task * kRows; i < std::min(rows, (task + 1) * kRows); ++i) {
        const int64_t at = begin + i * stride;
        putSums(g_.dtype, weightSums_.data() + i * sumsStride, g_.weight, at, at + columns, g_.accumulate);
      }
    });
  }

  void addToBias() {
    for (int64_t v = 0; v < words_; ++v) {
      double sum = 0;
      for (int64_t tile = 0; tile < tiles_; ++tile) sum += biasSums_[tile * blockWords_ + v];
      float& out = (isWide_ ? static_cast<float*>(g_.bias) : biasTotals_.data())[block_ + v];
      const bool add = !isFirst_ || (isWide_ && g_.accumulate);
      out = add ? float(out + sum) : float(sum);
    }
  }

  void writeHidden() {
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t at = rows_[i].row * width_;
      putSums(g_.hiddenDtype(), hiddenSums_.of(slot_) + i * width_, g_.hidden, at, at + width_, g_.addsToHidden());
    }
    // Rows between these that take no part are zeros already.
    if (context_.onHiddenRows) context_.onHiddenRows(rows_[count_ - 1].row + 1);
  }

  const HeadGradient& g_;
  const CpuContext& context_;
  const std::vector<ActiveRow>& all_;
  const bool isWide_;         // the gradients are float32
  const bool blocksOutside_;  // all groups, one after the other, for each block
  const bool multiplies_;     // some logits are not kept
  const PanelShape shape_;
  const int64_t vocab_, width_;
  const bool byWord_;  // the weights of a word are neighbours
  const HeadTiling tiling_;
  const HeadReader reader_;
  const Packing ofHidden_, ofWeight_;  // of the factors of these two gradients
  const LogitConstants& constants_;
  const int64_t groupRows_, kept_, blockWords_, tileWords_;
  const int64_t hiddenPanel_, gradientPanel_;  // widths of the panels of weight's factors

  // The group at hand, and its hidden states.
  const ActiveRow* rows_ = nullptr;
  int64_t count_ = 0, tiles_ = 0, slot_ = 0;
  bool isFirst_ = false;
  std::vector<const void*> hidden_;  // and, behind them, those of a row of zeros
  const GroupBuffers hiddenAlong_, hiddenAcross_;
  // The block at hand, its weights and its gradient, each as the factor of two products.
  int64_t block_ = 0, words_ = 0;
  const FloatBuffer logitsWeights_, hiddenWeights_, gradientAlong_, gradientAcross_;
  BufferPool tilesOfLogits_;
  std::vector<float> ofLabels_;        // the gradients with respect to the labels' logits, where these are apart
  std::vector<float> leasts_;          // of the tiles of the group and the block, their least magnitudes
  const std::vector<BFloat16> zeros_;  // beside a last row without a pair
  const GroupBuffers hiddenSums_;      // [rows, D], over the blocks
  const FloatBuffer weightSums_;       // of the block at hand, in the order of the weight
  std::vector<double> biasSums_;       // [tiles, words]
  std::vector<float> biasTotals_;      // [V], over the groups
};

}  // namespace

void putSums(DType dtype, const float* sums, void* out, int64_t begin, int64_t end, bool add) {
  switch (dtype) {
    case DType::kFloat32:
      return putSums<float>(sums, out, begin, end, add);
    case DType::kFloat16:
      return putSums<Float16>(sums, out, begin, end, add);
    case DType::kBFloat16:
      return putSums<BFloat16>(sums, out, begin, end, add);
  }
}

void clearRows(const HeadGradient& g, const Tokens& tokens, const std::vector<int64_t>& idle) {
  const int64_t bytes = g.head.width() * elementSize(g.hiddenDtype());
  const auto clear = [&](int64_t row) { memset(static_cast<char*>(g.hidden) + row * bytes, 0, bytes); };
  if (g.hidden && !g.skipInactive) {
    for (int64_t row = 0; row < g.logits.count(); ++row) {
      if (tokens.targets[row] < 0) clear(row);
    }
  }
  if (g.hidden && !g.addsToHidden()) {
    for (const int64_t row : idle) clear(row);
  }
}

void clearWeights(const HeadGradient& g) {
  const int64_t size = elementSize(g.dtype);
  if (g.weight) memset(g.weight, 0, g.logits.vocab * g.head.width() * size);
  if (g.bias) memset(g.bias, 0, g.logits.vocab * size);
}

void headGradient(const HeadGradient& g, const Tokens& tokens, const Sequences& sequences, const CpuContext& context) {
  if constexpr (kHasChunks) {
    if (context.isChunked()) return chunkedGradient(g, tokens, sequences, context);
  }
  std::vector<int64_t> idle;
  const LogitConstants constants(tokens);
  const std::vector<ActiveRow> rows = rowsOf(g, tokens, sequences, constants, idle);
  // Everything is allocated here, before any of the caller's memory is written.
  HeadBackward backward(g, constants, rows, context);
  clearRows(g, tokens, idle);
  if (rows.empty() && !g.accumulate) clearWeights(g);
  backward.addRows();
}

}  // namespace fpl
