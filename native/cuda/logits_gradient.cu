// Stage 4 on a GPU: what each row's logits are turned into, and the rows themselves, cut into pieces that the blocks
// share out among themselves. An active row is read once and written once; the others are written as zeros, if at all.
#include <type_traits>

#include "devices.h"
#include "row_writer.h"

namespace fpl {
namespace cuda {
namespace {

using namespace writing;

// Those of an active row.
FPL_DEVICE RowValues valuesOf(const ValuesArguments& a, int64_t row) {
  const Gradient& g = a.gradient;
  const int32_t label = a.tokens.targets[row];
  ResultSlopes slopes = slopesOf(g, a.tokens, row);
  if (g.rowScale) {
    g.rowScale[row] = slopes.logProb;
    slopes = deferred(g, a.tokens, row, slopes.logProb);
  }
  const TokenState token = g.states[row];
  const double entropy = slopes.entropy == 0 ? 0 : g.entropies[row];
  RowValues values;
  FullRowGradient& full = values.gradient;
  if (g.classWeights) {
    const double perClass = slopes.meanLogit * a.perLogit / double(g.logits.vocab);
    slopes.meanLogit = 0;
    full = fullRowGradient(token, slopes, entropy, a.perLogit, g.logits.vocab);
    if (full.constant == full.constant) full.everywhere = float(perClass);
    if (label >= 0) full.atLabel = float(double(full.atLabel) + weighed(double(g.classWeights[label]), perClass));
  } else if (a.isFull) {
    full = fullRowGradient(token, slopes, entropy, a.perLogit, g.logits.vocab);
  } else {
    values = plainValues(token, slopes, a.perLogit);
  }
  values.largest = float(largestOf(token, slopes, entropy, a.perLogit)) + fabsf(full.everywhere) * a.mostWeight;
  return values;
}

FPL_KERNEL(kThreads, 2)
valuesKernel(FPL_ARGUMENT ValuesArguments a, RowValues* values) {
  const int64_t row = blockIndex() * kThreads + threadIndex();
  if (row >= a.gradient.logits.count()) return;
  if (a.tokens.targets[row] != -1) {
    values[row] = valuesOf(a, row);
  } else if (a.gradient.rowScale) {
    a.gradient.rowScale[row] = 0;
  }
}

template <typename T, Form kForm>
FPL_KERNEL(kThreads, kBlocksOf<kForm>)
gradientKernel(FPL_ARGUMENT GradientArguments a) {
  FPL_SHARED(Made, made);
  a.tasks.each([&](uint32_t row, uint32_t piece) {
    const int32_t target = a.targets[row];
    const Row<T, T, kForm> line(a, row, target, valuesFor<kForm>(a, row, target, made));
    if (line.active || !a.gradient.skipInactive) writePiece(line, piece, a.pieceLength, uint32_t(threadIndex()));
  });
}

// The same for a gradient of another type than the logits', element by element.
template <typename T, typename U, Form kForm>
FPL_KERNEL(kThreads, kTuning.gradientBlocks)
convertingKernel(FPL_ARGUMENT GradientArguments a) {
  FPL_SHARED(Made, made);
  a.tasks.each([&](uint32_t row, uint32_t piece) {
    const int32_t target = a.targets[row];
    const Row<T, U, kForm> line(a, row, target, valuesFor<kForm>(a, row, target, made));
    if (!line.active && a.gradient.skipInactive) return;
    const uint32_t first = piece * a.pieceLength;
    const uint32_t end = first + a.pieceLength < line.vocab ? first + a.pieceLength : line.vocab;
    for (uint32_t at = first + threadIndex(); at < end; at += kThreads) line.writeElement(at);
  });
}

// Tiles of a row in a piece: the number with which the blocks, each of which has as many pieces as any or one fewer,
// end the soonest.
int64_t tilesPerPiece(int64_t rows, int64_t tiles, int64_t blocks, const Tuning& tuning) {
  int64_t best = 1, least = INT64_MAX;
  for (int64_t tilesOfPiece = 1; tilesOfPiece <= tuning.mostTiles; ++tilesOfPiece) {
    const int64_t rounds = dividedUp(rows * dividedUp(tiles, tilesOfPiece), blocks),
                  time = rounds * (2 * tilesOfPiece + tuning.halfTilesOfPiece);
    if (time > least) continue;
    least = time;
    best = tilesOfPiece;
  }
  return best;
}

template <typename T, typename U, Form kForm>
void gradientRows(GradientArguments& a, const VisitedRows& rows, Stream stream) {
  constexpr bool kConverts = !std::is_same_v<T, U>;
  constexpr int64_t kPer = kConverts ? 1 : kPerQuad<T>;
  const Tuning tuning = currentTuning();
  const int64_t tile = int64_t(kThreads) * (kConverts ? tuning.convertedElements : tuning.gradientLoads);
  const int64_t tiles = dividedUp(a.gradient.logits.vocab, kPer * tile);
  const int64_t blocks = int64_t(kConverts ? tuning.gradientBlocks : blocksOf<kForm>(tuning)) * multiprocessors();
  const int64_t perPiece = tilesPerPiece(rows.count(), tiles, blocks, tuning);
  a.pieceLength = uint32_t(perPiece * tile);
  forLaunches(rows, dividedUp(tiles, perPiece), blocks, [&](const RowTasks& tasks) {
    a.tasks = tasks;
    if constexpr (kConverts) {
      FPL_LAUNCH("logits gradient", (convertingKernel<T, U, kForm>), tasks.blocks, kThreads, stream, a);
    } else {
      FPL_LAUNCH("logits gradient", (gradientKernel<T, kForm>), tasks.blocks, kThreads, stream, a);
    }
  });
}

template <typename T, typename U>
void gradientTo(GradientArguments& a, const VisitedRows& rows, Stream stream) {
  withForm(a, [&](auto form) { gradientRows<T, U, decltype(form)::value>(a, rows, stream); });
}

template <typename T>
void gradientOf(GradientArguments& a, const VisitedRows& rows, Stream stream) {
  switch (a.gradient.out.dtype) {
    case DType::kFloat32:
      return gradientTo<T, float>(a, rows, stream);
    case DType::kFloat16:
      return gradientTo<T, Float16>(a, rows, stream);
    case DType::kBFloat16:
      return gradientTo<T, BFloat16>(a, rows, stream);
  }
}

}  // namespace

void rowValues(const Gradient& gradient, const Tokens& tokens, float mostWeight, RowValues* values, Stream stream) {
  const int64_t blocks = dividedUp(gradient.logits.count(), kThreads);
  FPL_LAUNCH("logits gradient", valuesKernel, blocks, kThreads, stream, valuesArguments(gradient, tokens, mostWeight),
             values);
}

void logitsGradient(const Gradient& gradient, const RowValues* values, const Tokens& tokens, const Tokens& columns,
                    const VisitedRows& rows, Stream stream) {
  GradientArguments a = gradientArguments(gradient, values, tokens, columns);
  switch (gradient.logits.dtype) {
    case DType::kFloat32:
      return gradientOf<float>(a, rows, stream);
    case DType::kFloat16:
      return gradientOf<Float16>(a, rows, stream);
    case DType::kBFloat16:
      return gradientOf<BFloat16>(a, rows, stream);
  }
}

}  // namespace cuda
}  // namespace fpl
