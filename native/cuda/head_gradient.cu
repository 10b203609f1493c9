// From the logits of a head to their gradient as the products take it, on a GPU: for 16-bit factors it is written in
// their type. There and for TF32 the label's value is kept apart, which is by far the largest where a token is well
// predicted and would lose the most by its rounding. What it adds to the gradients of hidden and weight is added to the
// products. And the bias' gradient.
#include "row_writer.h"

namespace fpl {
namespace cuda {
namespace {

using namespace writing;

constexpr int kPer = 4;  // columns of a thread
constexpr int64_t kColumns = int64_t(kThreads) * kPer;

struct NarrowArguments {
  GradientArguments gradient;
  float* ofLabels;     // [rows]
  const float* scale;  // of all but the labels', or null: 1
};

// A row by its place in the chunk.
template <typename T, Form kForm>
FPL_DEVICE Row<float, T, kForm> rowAt(const GradientArguments& a, uint32_t place) {
  const int32_t target = a.targets[place];
  return {a, place, target, target == -1 ? RowValues{} : a.values[place]};
}

// As many logits from `at` on, as far as the row goes. They lie on a 16-byte boundary.
template <uint32_t kCount, typename R>
FPL_DEVICE void readLogits(const R& row, uint32_t at, float (&x)[kCount]) {
  if (at + kCount <= row.vocab) {
#pragma unroll
    for (uint32_t i = 0; i < kCount; i += kPerQuad<float>) {
      unpack(loadStreaming(reinterpret_cast<const Quad*>(row.logits + at + i)), x + i, row.logits);
    }
  } else {
#pragma unroll
    for (uint32_t i = 0; i < kCount; ++i) x[i] = at + i < row.vocab ? row.logits[at + i] : 0;
  }
}

// A block to a row, from front to back: what is written lies where the row has been read.
template <typename T, Form kForm>
FPL_KERNEL(kThreads, kBlocksOf<kForm>)
narrowKernel(FPL_ARGUMENT NarrowArguments a) {
  constexpr uint32_t kPerStore = kPerQuad<T>;
  const uint32_t place = uint32_t(blockIndex());
  const Row<float, T, kForm> row = rowAt<T, kForm>(a.gradient, place);
  if (threadIndex() == 0) a.ofLabels[place] = row.label < row.vocab ? row.ofLabel() : 0;
  const float factor = a.scale ? *a.scale : 1;
  for (uint32_t first = 0; first < row.vocab; first += kThreads * kPerStore) {
    const uint32_t at = first + uint32_t(threadIndex()) * kPerStore;
    float x[kPerStore] = {};
    if (row.isRead) readLogits(row, at, x);
#pragma unroll
    for (uint32_t i = 0; i < kPerStore; ++i) {
      const uint32_t column = at + i;
      const bool isOther = column < row.vocab && column != row.label;
      x[i] = !isOther ? 0 : multiply(row.isRead ? row.of(x[i], column) : row.filling(column), factor);
    }
    barrier();  // the others have read what is about to be written over
    if (at < row.vocab) storeStreaming(reinterpret_cast<Quad*>(row.out + at), pack(x, row.out));
  }
}

constexpr uint32_t kColumnsOfThread = 8, kColumnsOfBlock = kThreads * kColumnsOfThread;

// The bias' gradient, whose sums take nothing that is rounded to 16 bits. A block adds the rows of a strip to the sums
// of some columns of that strip.
template <Form kForm>
FPL_KERNEL(kThreads, 3)
columnsKernel(FPL_ARGUMENT GradientArguments a, uint32_t rows, uint32_t tiles, double* sums) {
  const uint32_t vocab = uint32_t(a.gradient.logits.vocab), strip = uint32_t(blockIndex()) / tiles;
  const uint32_t begin = (uint32_t(blockIndex()) - strip * tiles) * kColumnsOfBlock;
  const uint32_t column = begin + uint32_t(threadIndex()) * kColumnsOfThread;
  if (column >= vocab) return;
  const uint32_t first = strip * kStripRows, end = first + kStripRows < rows ? first + kStripRows : rows;
  double* const out = sums + (int64_t(strip) * vocab + column);
  double own[kColumnsOfThread];
#pragma unroll
  for (uint32_t i = 0; i < kColumnsOfThread; ++i) own[i] = column + i < vocab ? out[i] : 0;
  for (uint32_t place = first; place < end; ++place) {
    const Row<float, float, kForm> row = rowAt<float, kForm>(a, place);
    const float atLabel = row.label - begin < kColumnsOfBlock ? row.ofLabel() : 0;
    float x[kColumnsOfThread] = {};
    if (row.isRead) readLogits(row, column, x);
#pragma unroll
    for (uint32_t i = 0; i < kColumnsOfThread; ++i) {
      if (column + i >= vocab) continue;
      const float other = row.isRead ? row.of(x[i], column + i) : row.filling(column + i);
      own[i] += double(column + i == row.label ? atLabel : other);
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < kColumnsOfThread; ++i) {
    if (column + i < vocab) out[i] = own[i];
  }
}

// Calls `body` for this thread's columns of a tile.
template <typename Body>
FPL_DEVICE void forColumns(int64_t tile, int64_t columns, const Body& body) {
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int64_t column = tile * kColumns + i * int64_t(kThreads) + threadIndex();
    if (column < columns) body(column, i);
  }
}

// The same of a gradient of float32: the labels' values leave zeros.
FPL_KERNEL(kThreads, 4)
labelsApartKernel(FPL_ARGUMENT Rows gradient, const int32_t* labels, float* ofLabels) {
  const int64_t i = blockIndex() * kThreads + threadIndex();
  if (i >= gradient.time) return;
  const int32_t label = labels[i];
  const bool isThere = label >= 0 && label < gradient.vocab;
  float* const at = gradient.at<float>(i) + (isThere ? label : 0);
  ofLabels[i] = isThere ? *at : 0;
  if (isThere) *at = 0;
}

FPL_DEVICE float numberAt(const void* data, DType dtype, int64_t at) {
  switch (dtype) {
    case DType::kFloat16:
      return toFloat(static_cast<const Float16*>(data)[at]);
    case DType::kBFloat16:
      return toFloat(static_cast<const BFloat16*>(data)[at]);
    default:
      return static_cast<const float*>(data)[at];
  }
}

// Hidden's: the weight of the label.
FPL_KERNEL(kThreads, 4)
labelsToHiddenKernel(FPL_ARGUMENT LabelParts a, float* out, int64_t stride, int64_t tiles) {
  const int64_t i = blockIndex() / tiles;
  const float ofLabel = a.gradient[i];
  if (ofLabel == 0) return;
  const Head::Weight& weight = a.weight;
  forColumns(blockIndex() % tiles, a.hidden.vocab, [&](int64_t column, int) {
    const int64_t at = a.labels[i] * weight.rowStride + column * weight.columnStride;
    float& sum = out[i * stride + column];
    sum = fusedMultiplyAdd(ofLabel, numberAt(weight.data, weight.dtype, at), sum);
  });
}

// The labels of as many rows as a block has threads.
struct Labels {
  int32_t of[kBlockThreads];
};

// One block, which goes from the last rows to the first, so that it always knows the next row with a label.
FPL_KERNEL(kBlockThreads, 1)
linkKernel(const int32_t* labels, int32_t rows, FPL_ARGUMENT LabelLinks links) {
  FPL_SHARED(Labels, block);
  const int32_t own = threadIndex();
  for (int32_t begin = (rows - 1) / kBlockThreads * kBlockThreads; begin >= 0; begin -= kBlockThreads) {
    const int32_t row = begin + own, label = row < rows ? labels[row] : -1;
    const bool isLabel = links.has(label);
    block.of[own] = label;
    barrier();  // all labels of the block are there, and the first rows behind them
    int32_t next = own + 1;
    while (isLabel && next < kBlockThreads && block.of[next] != label) ++next;
    bool isFirst = isLabel;
    for (int32_t i = 0; isFirst && i < own; ++i) isFirst = block.of[i] != label;
    if (isLabel) links.next[row] = next < kBlockThreads ? begin + next : links.first[label];
    barrier();  // nobody looks at them any more
    if (isFirst) links.first[label] = row;
  }
}

// The weight's: a label's first row has the blocks that add the hidden states of all rows with it, one after the other.
FPL_KERNEL(kThreads, 4)
labelsToWeightKernel(FPL_ARGUMENT LabelParts a, float* out, int64_t rowStride, int64_t columnStride, int64_t tiles) {
  const int64_t i = blockIndex() / tiles, tile = blockIndex() % tiles;
  const int32_t label = a.labels[i];
  if (!a.links.has(label) || a.links.first[label] != i) return;
  const int64_t width = a.hidden.vocab, start = label * rowStride;
  float sums[kPer];
  forColumns(tile, width, [&](int64_t column, int k) { sums[k] = out[start + column * columnStride]; });
  for (int32_t row = int32_t(i), next; row >= 0; row = next) {
    next = a.links.next[row];
    const float ofLabel = a.gradient[row];
    if (ofLabel == 0) continue;
    forColumns(tile, width, [&](int64_t column, int k) {
      sums[k] =
          fusedMultiplyAdd(ofLabel, numberAt(a.hidden.data, a.hidden.dtype, a.hidden.offset(row) + column), sums[k]);
    });
  }
  forColumns(tile, width, [&](int64_t column, int k) { out[start + column * columnStride] = sums[k]; });
}

int64_t tilesOf(int64_t columns) { return dividedUp(columns, kColumns); }

template <typename T>
void narrow(const NarrowArguments& a, Stream stream) {
  const int64_t rows = a.gradient.gradient.logits.count();
  withForm(a.gradient, [&](auto form) {
    constexpr Form kForm = decltype(form)::value;
    FPL_LAUNCH("output layer", (narrowKernel<T, kForm>), rows, kThreads, stream, a);
  });
}

}  // namespace

void narrowGradient(const Gradient& gradient, const RowValues* values, const Tokens& columns, const float* scale,
                    float* ofLabels, Stream stream) {
  NarrowArguments a;
  a.gradient = gradientArguments(gradient, values, columns, columns);
  a.ofLabels = ofLabels;
  a.scale = scale;
  const bool isHalf = gradient.out.dtype == DType::kFloat16;
  (isHalf ? narrow<Float16> : narrow<BFloat16>)(a, stream);
}

void takeLabelsApart(const Rows& gradient, const int32_t* labels, float* ofLabels, Stream stream) {
  const int64_t blocks = dividedUp(gradient.time, kThreads);
  FPL_LAUNCH("output layer", labelsApartKernel, blocks, kThreads, stream, gradient, labels, ofLabels);
}

void addColumns(const Gradient& gradient, const RowValues* values, const Tokens& columns, double* sums, Stream stream) {
  const GradientArguments a = gradientArguments(gradient, values, columns, columns);
  withForm(a, [&](auto form) {
    constexpr Form kForm = decltype(form)::value;
    const int64_t rows = gradient.logits.count(), tiles = dividedUp(gradient.logits.vocab, kColumnsOfBlock);
    FPL_LAUNCH("output layer", columnsKernel<kForm>, tiles * stripsOf(rows), kThreads, stream, a, uint32_t(rows),
               uint32_t(tiles), sums);
  });
}

void linkLabels(const int32_t* labels, int64_t rows, const LabelLinks& links, Stream stream) {
  // No row has any label yet.
  check(cudaMemsetAsync(links.first, -1, size_t(links.vocab) * sizeof *links.first, stream), "running output layer");
  FPL_LAUNCH("output layer", linkKernel, 1, kBlockThreads, stream, labels, int32_t(rows), links);
}

void addLabelsToHidden(const LabelParts& parts, float* out, int64_t stride, Stream stream) {
  const int64_t tiles = tilesOf(parts.hidden.vocab);
  FPL_LAUNCH("output layer", labelsToHiddenKernel, parts.hidden.time * tiles, kThreads, stream, parts, out, stride,
             tiles);
}

void addLabelsToWeight(const LabelParts& parts, float* out, int64_t rowStride, int64_t columnStride, Stream stream) {
  const int64_t tiles = tilesOf(parts.hidden.vocab);
  FPL_LAUNCH("output layer", labelsToWeightKernel, parts.hidden.time * tiles, kThreads, stream, parts, out, rowStride,
             columnStride, tiles);
}

}  // namespace cuda
}  // namespace fpl
