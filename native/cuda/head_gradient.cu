// From the logits of a head to their gradient as the products take it, on a GPU: for 16-bit factors it is written in
// their type, with the label's value apart, which is by far the largest where a token is well predicted and would lose
// the most by its rounding. What the label's adds to the gradients of hidden and weight is added to the products.
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

// A block to a row, from front to back: what is written lies where the row has been read.
template <typename T, Form kForm>
FPL_KERNEL(kThreads, kBlocksOf<kForm>)
narrowKernel(FPL_ARGUMENT NarrowArguments a) {
  constexpr uint32_t kPerLoad = kPerQuad<float>, kPerStore = kPerQuad<T>;
  const uint32_t place = uint32_t(blockIndex());
  const Row<float, T, kForm> row = rowAt<T, kForm>(a.gradient, place);
  if (threadIndex() == 0) a.ofLabels[place] = row.label < row.vocab ? row.ofLabel() : 0;
  const float factor = a.scale ? *a.scale : 1;
  for (uint32_t first = 0; first < row.vocab; first += kThreads * kPerStore) {
    const uint32_t at = first + uint32_t(threadIndex()) * kPerStore;
    float x[kPerStore] = {};
    if (row.isRead && at + kPerStore <= row.vocab) {
#pragma unroll
      for (uint32_t i = 0; i < kPerStore; i += kPerLoad) {
        unpack(loadStreaming(reinterpret_cast<const Quad*>(row.logits + at + i)), x + i, row.logits);
      }
    } else if (row.isRead) {
#pragma unroll
      for (uint32_t i = 0; i < kPerStore; ++i) x[i] = at + i < row.vocab ? row.logits[at + i] : 0;
    }
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

// The bias' gradient, whose sums take nothing that is rounded to 16 bits.
template <Form kForm>
FPL_KERNEL(kThreads, kBlocksOf<kForm>)
columnsKernel(FPL_ARGUMENT GradientArguments a, uint32_t rows, double* sums) {
  const uint32_t column = uint32_t(blockIndex()) * kThreads + uint32_t(threadIndex());
  if (column >= a.gradient.logits.vocab) return;
  double sum = sums[column];
  for (uint32_t place = 0; place < rows; ++place) sum += double(rowAt<float, kForm>(a, place).value(column));
  sums[column] = sum;
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

// Of 16-bit numbers.
FPL_DEVICE float numberAt(const void* data, DType dtype, int64_t at) {
  return dtype == DType::kBFloat16 ? toFloat(static_cast<const BFloat16*>(data)[at])
                                   : toFloat(static_cast<const Float16*>(data)[at]);
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

// The weight's: of all rows with a label, one after the other, the first one's block adds the hidden states.
FPL_KERNEL(kThreads, 4)
labelsToWeightKernel(FPL_ARGUMENT LabelParts a, float* out, int64_t rowStride, int64_t columnStride, int64_t tiles) {
  const int64_t i = blockIndex() / tiles, tile = blockIndex() % tiles;
  const int32_t label = a.labels[i];
  if (a.gradient[i] == 0) return;
  for (int64_t before = 0; before < i; ++before) {
    if (a.labels[before] == label && a.gradient[before] != 0) return;
  }
  const int64_t width = a.hidden.vocab, start = label * rowStride;
  float sums[kPer];
  forColumns(tile, width, [&](int64_t column, int k) { sums[k] = out[start + column * columnStride]; });
  for (int64_t row = i; row < a.hidden.time; ++row) {
    const float ofLabel = a.labels[row] == label ? a.gradient[row] : 0;
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

void addColumns(const Gradient& gradient, const RowValues* values, const Tokens& columns, double* sums, Stream stream) {
  const GradientArguments a = gradientArguments(gradient, values, columns, columns);
  withForm(a, [&](auto form) {
    constexpr Form kForm = decltype(form)::value;
    FPL_LAUNCH("output layer", columnsKernel<kForm>, dividedUp(gradient.logits.vocab, kThreads), kThreads, stream, a,
               uint32_t(gradient.logits.count()), sums);
  });
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
