// Stage 0 on a GPU, for labels that are there already: what each row predicts and how many rows of a sequence do, as
// lib finds it for labels on the host.
#include "reduce.h"
#include "row_tasks.h"
#include "stages.h"

namespace fpl {
namespace cuda {
namespace {

constexpr int kThreads = 256;

struct TargetArguments {
  DeviceLabels labels;
  const int32_t* offsets;
  int64_t vocab;
  int32_t *targets, *counts, *invalid;
};

FPL_KERNEL(kThreads, 2)
targetsKernel(FPL_ARGUMENT TargetArguments a) {
  FPL_SHARED(Counts<kThreads>, counts);
  const int64_t s = blockIndex(), begin = a.offsets[s], end = a.offsets[s + 1];
  int32_t count = 0;
  for (int64_t row = begin + threadIndex(); row < end; row += kThreads) {
    const int64_t at = row + (a.labels.shift ? 1 : 0);
    int32_t target = -1;
    if (at < end && !(a.labels.mask && a.labels.mask[at] == 0)) {
      const int64_t label = a.labels.wide ? static_cast<const int64_t*>(a.labels.data)[at]
                                          : static_cast<const int32_t*>(a.labels.data)[at];
      if (label != a.labels.ignoreIndex) {
        const bool valid = label >= 0 && label < a.vocab;
        target = valid ? int32_t(label) : kInvalidTarget;
        if (!valid) addAtomic(a.invalid, 1);
        ++count;
      }
    }
    a.targets[row] = target;
  }
  count = blockSum(count, counts.of);
  if (threadIndex() == 0) a.counts[s] = count;
}

struct LengthArguments {
  Tokens tokens;
  const int32_t* partners;
  double ldAlpha;
  const double* given;
  double* weights;
};

// A block for each sequence.
FPL_KERNEL(kThreads, 2)
lengthsKernel(FPL_ARGUMENT LengthArguments a) {
  FPL_SHARED(Counts<kThreads>, counts);
  const int64_t s = blockIndex(), first = a.tokens.offsets[s];
  const int32_t* const targets = a.tokens.targets + first;
  const Stretch own = stretchOfThread(targets, a.tokens.offsets[s + 1] - first, counts);
  const int32_t partner = a.partners[s];
  int32_t kept = a.tokens.counts[s];
  if (partner >= 0 && a.tokens.counts[partner] < kept) kept = a.tokens.counts[partner];
  int32_t place = own.before;  // of an active row among those of its sequence
  for (int64_t row = own.begin; row < own.end; ++row) {
    const bool isPast = targets[row] != -1 && place++ >= kept;
    const double given = a.given ? a.given[first + row] : 1;
    a.weights[first + row] = isPast ? given * a.ldAlpha : given;
  }
}

// One block.
FPL_KERNEL(kThreads, 1)
orderKernel(const int32_t* targets, int64_t count, int32_t* rows, int32_t* active) {
  FPL_SHARED(Counts<kThreads>, counts);
  const Stretch own = stretchOfThread(targets, count, counts);
  int64_t place = own.before, placeOfOther = own.total + own.begin - own.before;
  for (int64_t row = own.begin; row < own.end; ++row) {
    rows[targets[row] != -1 ? place++ : placeOfOther++] = int32_t(row);
  }
  if (threadIndex() == 0) *active = own.total;
}

}  // namespace

void weighLengths(const DeviceLabels& labels, const Tokens& tokens, const double* given, double* weights,
                  Stream stream) {
  const LengthArguments a{tokens, labels.partners, labels.ldAlpha, given, weights};
  FPL_LAUNCH("targets", lengthsKernel, tokens.sequences, kThreads, stream, a);
}

void orderRows(const int32_t* targets, int64_t count, int32_t* rows, int32_t* active, Stream stream) {
  FPL_LAUNCH("targets", orderKernel, 1, kThreads, stream, targets, count, rows, active);
}

void targetsOf(const DeviceLabels& labels, const int32_t* offsets, int64_t sequences, int64_t vocab, int32_t* targets,
               int32_t* counts, int32_t* invalid, Stream stream) {
  const TargetArguments a{labels, offsets, vocab, targets, counts, invalid};
  FPL_LAUNCH("targets", targetsKernel, sequences, kThreads, stream, a);
}

}  // namespace cuda
}  // namespace fpl
