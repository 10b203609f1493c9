// What a head needs besides products of matrices and the four stages: the rows that predict something gathered side by
// side, and what becomes of the logits' gradient. Sums are taken in an order that does not change.
#include <type_traits>

#include "row_tasks.h"
#include "stages.h"

namespace fpl {
namespace cuda {
namespace {

constexpr int kThreads = 256;

constexpr int kPer = 4;  // columns of a thread
constexpr int64_t kColumns = int64_t(kThreads) * kPer;

int64_t tilesOf(int64_t columns) { return (columns + kColumns - 1) / kColumns; }

// Calls `body` for this thread's columns of a tile.
template <typename Body>
FPL_DEVICE void forColumns(int64_t tile, int64_t columns, const Body& body) {
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int64_t column = tile * kColumns + i * kThreads + threadIndex();
    if (column < columns) body(column);
  }
}

// One block.
FPL_KERNEL(kThreads, 1)
compactKernel(const int32_t* targets, int64_t count, ActiveRows active) {
  FPL_SHARED(Counts<kThreads>, counts);
  const Stretch own = stretchOfThread(targets, count, counts);
  int32_t slot = own.before;
  for (int64_t row = own.begin; row < own.end; ++row) {
    if (targets[row] == -1) continue;
    active.rows[slot] = int32_t(row);
    active.targets[slot++] = targets[row];
  }
  for (int64_t i = own.total + threadIndex(); i < active.count; i += kThreads) active.rows[i] = active.targets[i] = -1;
  if (threadIndex() == 0) *active.found = own.total;
}

template <typename From, typename To>
FPL_KERNEL(kThreads, 4)
copyKernel(FPL_ARGUMENT Rows from, const int32_t* rows, To* out, int64_t stride, int64_t tiles) {
  const int64_t i = blockIndex() / tiles, row = rows ? rows[i] : i;
  forColumns(blockIndex() % tiles, from.vocab, [&](int64_t column) {
    fromFloat(row < 0 ? 0.0f : toFloat(from.at<From>(row)[column]), out[i * stride + column]);
  });
}

template <typename From, typename To>
void copy(const Rows& from, const int32_t* rows, int64_t count, void* out, int64_t stride, Stream stream) {
  const int64_t tiles = tilesOf(from.vocab);
  FPL_LAUNCH("output layer", (copyKernel<From, To>), count * tiles, kThreads, stream, from, rows, static_cast<To*>(out),
             stride, tiles);
}

FPL_KERNEL(kThreads, 4)
gatherKernel(const RowValues* values, ActiveRows active, RowValues* out, int32_t* rows) {
  const int64_t i = blockIndex() * kThreads + threadIndex();
  if (i >= active.count) return;
  out[i] = active.rows[i] < 0 ? RowValues{} : values[active.rows[i]];
  rows[i] = out[i].isZero() ? -1 : active.rows[i];
}

struct Magnitudes {
  float of[kThreads];
};

// One block.
FPL_KERNEL(kThreads, 1)
scaleKernel(const RowValues* values, int64_t count, GradientScale* scale) {
  FPL_SHARED(Magnitudes, magnitudes);
  float largest = 0;
  for (int64_t i = threadIndex(); i < count; i += kThreads) {
    largest = fmaxf(largest, values[i].largest);  // NaN is skipped
  }
  magnitudes.of[threadIndex()] = largest;
  barrier();
  if (threadIndex() != 0) return;
  for (int t = 1; t < kThreads; ++t) largest = fmaxf(largest, magnitudes.of[t]);
  int exponent = 15;
  if (largest > 0 && largest < INFINITY) frexp(double(largest), &exponent);
  // Just below the largest float16; and a power of two whose inverse is a normal float32, too.
  const int up = 15 - exponent < 126 ? 15 - exponent : 126;
  *scale = {float(powerOfTwo(up)), float(powerOfTwo(-up)), 0, 1};
}

template <typename T>
FPL_KERNEL(kThreads, 4)
sumsKernel(const double* sums, int64_t strips, int64_t vocab, T* out, bool accumulate) {
  const int64_t column = blockIndex() * kThreads + threadIndex();
  if (column >= vocab) return;
  double sum = 0;
  for (int64_t strip = 0; strip < strips; ++strip) sum += sums[strip * vocab + column];
  fromFloat(float(accumulate ? double(toFloat(out[column])) + sum : sum), out[column]);
}

template <typename T>
FPL_DEVICE void put(float value, bool accumulate, T& to) {
  fromFloat(accumulate ? add(toFloat(to), value) : value, to);
}

template <typename T>
FPL_KERNEL(kThreads, 4)
scatterKernel(const float* from, int64_t stride, const int32_t* rows, int64_t width, T* out, bool accumulate,
              int64_t tiles) {
  const int64_t i = blockIndex() / tiles, row = rows[i];
  if (row < 0) return;
  forColumns(blockIndex() % tiles, width,
             [&](int64_t column) { put(from[i * stride + column], accumulate, out[row * width + column]); });
}

template <typename T>
FPL_KERNEL(kThreads, 4)
clearKernel(const int32_t* targets, int64_t width, T* out, int64_t tiles) {
  const int64_t row = blockIndex() / tiles;
  if (targets[row] != -1) return;
  forColumns(blockIndex() % tiles, width, [&](int64_t column) { fromFloat(0, out[row * width + column]); });
}

template <typename T>
FPL_KERNEL(kThreads, 4)
roundedKernel(const float* from, int64_t count, T* out, bool accumulate) {
  forColumns(blockIndex(), count, [&](int64_t i) { put(from[i], accumulate, out[i]); });
}

// Calls `body` with a null pointer to elements of that type.
template <typename Body>
void withType(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(static_cast<float*>(nullptr));
    case DType::kFloat16:
      return body(static_cast<Float16*>(nullptr));
    case DType::kBFloat16:
      return body(static_cast<BFloat16*>(nullptr));
  }
}

int64_t blocksOf(int64_t count) { return (count + kThreads - 1) / kThreads; }

}  // namespace

void compactRows(const int32_t* targets, int64_t count, const ActiveRows& active, Stream stream) {
  FPL_LAUNCH("output layer", compactKernel, 1, kThreads, stream, targets, count, active);
}

void copyRows(const Rows& from, const int32_t* rows, int64_t count, void* out, DType dtype, int64_t stride,
              Stream stream) {
  const bool same = from.dtype == dtype;
  switch (from.dtype) {
    case DType::kFloat32:
      return copy<float, float>(from, rows, count, out, stride, stream);
    case DType::kFloat16:
      return (same ? copy<Float16, Float16> : copy<Float16, float>)(from, rows, count, out, stride, stream);
    case DType::kBFloat16:
      return (same ? copy<BFloat16, BFloat16> : copy<BFloat16, float>)(from, rows, count, out, stride, stream);
  }
}

void gatherValues(const RowValues* values, const ActiveRows& active, RowValues* out, int32_t* rows, Stream stream) {
  FPL_LAUNCH("output layer", gatherKernel, blocksOf(active.count), kThreads, stream, values, active, out, rows);
}

void gradientScale(const RowValues* values, int64_t count, GradientScale* scale, Stream stream) {
  FPL_LAUNCH("output layer", scaleKernel, 1, kThreads, stream, values, count, scale);
}

void writeColumns(const double* sums, int64_t strips, int64_t vocab, void* out, DType dtype, bool accumulate,
                  Stream stream) {
  withType(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    FPL_LAUNCH("output layer", sumsKernel<T>, blocksOf(vocab), kThreads, stream, sums, strips, vocab,
               static_cast<T*>(out), accumulate);
  });
}

void scatterRows(const float* from, int64_t stride, const int32_t* rows, int64_t count, int64_t width, void* out,
                 DType dtype, bool accumulate, Stream stream) {
  const int64_t tiles = tilesOf(width);
  withType(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    FPL_LAUNCH("output layer", scatterKernel<T>, count * tiles, kThreads, stream, from, stride, rows, width,
               static_cast<T*>(out), accumulate, tiles);
  });
}

void clearInactive(const int32_t* targets, int64_t count, int64_t width, void* out, DType dtype, Stream stream) {
  const int64_t tiles = tilesOf(width);
  withType(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    FPL_LAUNCH("output layer", clearKernel<T>, count * tiles, kThreads, stream, targets, width, static_cast<T*>(out),
               tiles);
  });
}

void writeRounded(const float* from, int64_t count, void* out, DType dtype, bool accumulate, Stream stream) {
  withType(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    FPL_LAUNCH("output layer", roundedKernel<T>, tilesOf(count), kThreads, stream, from, count, static_cast<T*>(out),
               accumulate);
  });
}

}  // namespace cuda
}  // namespace fpl
