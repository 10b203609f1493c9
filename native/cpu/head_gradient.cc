// Stage 4 on logits that exist a tile at a time, and the two products that follow it:
//
//   hidden [R, D]  Σ_v gradient(r, v) · weight(v, d)
//   weight [V, D]  Σ_r gradient(r, v) · hidden(r, d)
//   bias   [V]     Σ_r gradient(r, v)
//
// For each group of rows the vocabulary goes by in blocks. A block's gradient is made tile by tile and packed as left
// factor of the one product and as a factor of the other; then each part of either result has one task that adds to it.
#include <cstring>

#include "head.h"

namespace fpl {
namespace {

// Columns of a part of a result.
constexpr int64_t kPartColumns = 256;

struct GroupRow {
  RowGradient values;
  int64_t label;
};

}  // namespace

void headGradient(const HeadGradient& g, const Tokens& tokens, const Sequences& sequences, const CpuContext& context) {
  const Kernels& kernels = context.kernels;
  const PanelShape shape = kernels.panels;
  const Head& head = g.head;
  const int64_t vocab = g.logits.vocab, width = head.width();
  const HeadTiling tiling(head, vocab);
  const HeadReader reader(head, vocab);
  const ExpConstants constants(tokens.temperature);
  const bool byWord = head.weight.columnStride == 1;

  if (g.hidden && !g.skipInactive) {
    for (int64_t row = 0; row < g.logits.count(); ++row) {
      if (tokens.targets[row] < 0) memset(g.hidden + row * width, 0, width * sizeof(float));
    }
  }

  std::vector<int64_t> active;
  std::vector<GroupRow> all;
  for (const int32_t s : sequences) {
    for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
      const int32_t label = tokens.targets[row];
      if (label < 0) continue;
      const double coefficient = rowCoefficient(tokens, g.coefficients, s, row);
      active.push_back(row);
      all.push_back({rowGradient(g.states[row], coefficient, constants.inverseTemperature), label});
    }
  }
  const int64_t activeCount = int64_t(active.size());
  if (activeCount == 0 && !g.accumulate) {
    if (g.weight) memset(g.weight, 0, vocab * width * sizeof(float));
    if (g.bias) memset(g.bias, 0, vocab * sizeof(float));
  }
  const int64_t groupRows = std::min(tiling.groupRows, activeCount), blockWords = std::min(tiling.blockWords, vocab);
  const auto padded = [](int64_t count, int64_t panel) { return panelsOf(count, panel) * panel; };

  // Packed for a group: hidden as left factor of the logits, and as the other factor of weight's gradient.
  const FloatBuffer hiddenPanels(padded(groupRows, shape.rows) * width);
  const int64_t hiddenPanel = byWord ? shape.columns : shape.rows, gradientPanel = byWord ? shape.rows : shape.columns;
  const FloatBuffer hiddenAcross(g.weight ? padded(width, hiddenPanel) * groupRows : 0);
  // Packed for a block: the weights, twice, and the gradient as left factor for hidden and as a factor for weight.
  const FloatBuffer logitsWeights(padded(blockWords, shape.columns) * width);
  const FloatBuffer hiddenWeights(g.hidden ? padded(width, shape.columns) * blockWords : 0);
  const FloatBuffer gradientAlong(g.hidden ? padded(groupRows, shape.rows) * blockWords : 0);
  const FloatBuffer gradientAcross(g.weight ? padded(blockWords, gradientPanel) * groupRows : 0);
  const FloatBuffer hiddenSums(g.hidden ? groupRows * width : 0);
  const int64_t rowTiles = panelsOf(groupRows, HeadTiling::kRows);
  std::vector<double> biasSums(g.bias ? rowTiles * blockWords : 0);

  for (int64_t start = 0; start < activeCount; start += groupRows) {
    const int64_t* rows = active.data() + start;
    const GroupRow* group = all.data() + start;
    const int64_t count = std::min(groupRows, activeCount - start);
    const int64_t tiles = panelsOf(count, HeadTiling::kRows);
    const bool adds = g.accumulate || start > 0;
    const std::vector<const void*> begins = reader.begins(rows, count);
    const int64_t rowPanels = panelsOf(count, shape.rows), panelsPerTile = HeadTiling::kRows / shape.rows;
    const int64_t featurePanels = panelsOf(width, hiddenPanel);
    constexpr int64_t kPanelsPerTask = 8;
    const int64_t featureTasks = g.weight ? panelsOf(featurePanels, kPanelsPerTask) : 0;
    context.pool.run(tiles + featureTasks, context.threads, [&](int64_t task) {
      if (task < tiles) {
        packAlong(reader.hidden(begins), count, width, shape.rows, task * panelsPerTile,
                  std::min(rowPanels, (task + 1) * panelsPerTile), hiddenPanels.data(), width * shape.rows);
        return;
      }
      const int64_t first = (task - tiles) * kPanelsPerTask;
      packAcross(reader.hidden(begins), 0, width, count, hiddenPanel, first,
                 std::min(featurePanels, first + kPanelsPerTask), hiddenAcross.data(), count * hiddenPanel);
    });

    for (int64_t block = 0; block < vocab; block += blockWords) {
      const int64_t words = std::min(blockWords, vocab - block);

      // The weights of the block.
      const int64_t wordPanels = panelsOf(words, shape.columns), widthPanels = panelsOf(width, shape.columns);
      const int64_t wordTasks = panelsOf(wordPanels, kPanelsPerTask);
      const int64_t widthTasks = g.hidden ? panelsOf(widthPanels, kPanelsPerTask) : 0;
      context.pool.run(wordTasks + widthTasks, context.threads, [&](int64_t task) {
        if (task < wordTasks) {
          const int64_t first = task * kPanelsPerTask;
          reader.packForLogits(block, words, shape.columns, first, std::min(wordPanels, first + kPanelsPerTask),
                               logitsWeights.data());
          return;
        }
        const int64_t first = (task - wordTasks) * kPanelsPerTask;
        reader.packForHidden(block, words, shape.columns, first, std::min(widthPanels, first + kPanelsPerTask),
                             hiddenWeights.data());
      });

      // Its gradient, packed.
      const int64_t tileWords = std::min(tiling.tileWords, blockWords), wordTiles = panelsOf(words, tileWords);
      context.pool.run(tiles * wordTiles, context.threads, [&](int64_t task) {
        const int64_t r = task / wordTiles * HeadTiling::kRows, first = task % wordTiles * tileWords;
        const int64_t tileRows = std::min(HeadTiling::kRows, count - r), tileCount = std::min(tileWords, words - first);
        const FloatBuffer tile(HeadTiling::kRows * tileWords);
        reader.logits(kernels, hiddenPanels.data() + r * width, tileRows, logitsWeights.data() + first * width,
                      block + first, tileCount, tile.data(), tileWords);
        std::vector<const void*> lines(tileRows);
        for (int64_t i = 0; i < tileRows; ++i) {
          float* line = tile.data() + i * tileWords;
          lines[i] = line;
          const GroupRow& row = group[r + i];
          writeGradient(line, line, 0, tileCount, row.label - (block + first), row.values, constants,
                        kernels.gradient[0]);
          if (!g.bias) continue;
          double* sums = biasSums.data() + r / HeadTiling::kRows * blockWords + first;
          if (i == 0) std::fill_n(sums, tileCount, 0.0);
          for (int64_t v = 0; v < tileCount; ++v) sums[v] += line[v];
        }
        const Vectors gradient{DType::kFloat32, lines.data()};
        if (g.hidden) {
          // A tile's words are terms `first` on of its rows' panels.
          packAlong(gradient, tileRows, tileCount, shape.rows, 0, panelsOf(tileRows, shape.rows),
                    gradientAlong.data() + r * words + first * shape.rows, words * shape.rows);
        }
        if (g.weight) {
          packAcross(gradient, 0, tileCount, tileRows, gradientPanel, 0, panelsOf(tileCount, gradientPanel),
                     gradientAcross.data() + first * count + r * gradientPanel, count * gradientPanel);
        }
      });

      // What it adds to each part of the results.
      const int64_t widthParts = panelsOf(width, kPartColumns), wordParts = panelsOf(words, kPartColumns);
      const int64_t hiddenTasks = g.hidden ? tiles * widthParts : 0;
      const int64_t weightRows = byWord ? words : width, weightColumnParts = byWord ? widthParts : wordParts;
      const int64_t weightTasks = g.weight ? panelsOf(weightRows, HeadTiling::kRows) * weightColumnParts : 0;
      context.pool.run(hiddenTasks + weightTasks + (g.bias ? 1 : 0), context.threads, [&](int64_t task) {
        if (task < hiddenTasks) {
          const int64_t r = task / widthParts * HeadTiling::kRows, d = task % widthParts * kPartColumns;
          kernels.multiply({gradientAlong.data() + r * words, hiddenWeights.data() + d * words, words * shape.rows,
                            words * shape.columns, std::min(HeadTiling::kRows, count - r),
                            std::min(kPartColumns, width - d), words, hiddenSums.data() + r * width + d, width,
                            block > 0});
          return;
        }
        task -= hiddenTasks;
        if (task < weightTasks) {
          const int64_t i = task / weightColumnParts * HeadTiling::kRows;
          const int64_t j = task % weightColumnParts * kPartColumns;
          const float* left = (byWord ? gradientAcross : hiddenAcross).data() + i * count;
          const float* right = (byWord ? hiddenAcross : gradientAcross).data() + j * count;
          float* out = byWord ? g.weight + (block + i) * width + j : g.weight + i * vocab + block + j;
          kernels.multiply(
              {left, right, count * shape.rows, count * shape.columns, std::min(HeadTiling::kRows, weightRows - i),
               std::min(kPartColumns, (byWord ? width : words) - j), count, out, byWord ? width : vocab, adds});
          return;
        }
        for (int64_t v = 0; v < words; ++v) {
          double sum = 0;
          for (int64_t tile = 0; tile < tiles; ++tile) sum += biasSums[tile * blockWords + v];
          float& out = g.bias[block + v];
          out = adds ? float(out + sum) : float(sum);
        }
      });
    }

    if (g.hidden) {
      for (int64_t i = 0; i < count; ++i) {
        const float* sums = hiddenSums.data() + i * width;
        float* out = g.hidden + rows[i] * width;
        for (int64_t d = 0; d < width; ++d) out[d] = g.accumulate ? out[d] + sums[d] : sums[d];
      }
    }
  }
}

}  // namespace fpl
