// What a sweep has seen of a row, and how it lies in memory until the row is finished.
#pragma once

#include "stages.h"

namespace fpl {
namespace cuda {

struct Swept {
  RowState state;
  double logits = 0;    // Σ of x, which stands for a logit, the label's too
  double weighted = 0;  // Σ of x times the weight of its class

  FPL_DEVICE void merge(const Swept& other, double inverseTemperature) {
    state.merge(other.state, inverseTemperature);
    logits += other.logits;
    weighted += other.weighted;
  }
};

FPL_DEVICE PartialSums partialSums(const Swept& swept) { return {swept.state.sum, swept.state.unit}; }
FPL_DEVICE PartialByProducts partialByProducts(const Swept& swept) {
  const RowState& state = swept.state;
  return {state.weighted, state.squares, state.maximum, int32_t(state.argmax)};
}

FPL_DEVICE Swept take(const PartialSums& sums) {
  Swept swept;
  swept.state.sum = sums.sum;
  swept.state.unit = sums.unit;
  return swept;
}
FPL_DEVICE Swept take(const PartialSums& sums, const PartialByProducts& more) {
  Swept swept = take(sums);
  swept.state.weighted = more.weighted;
  swept.state.squares = more.squares;
  swept.state.maximum = more.maximum;
  swept.state.argmax = more.argmax;
  return swept;
}

// What the sweep has left at a place.
FPL_DEVICE Swept sweptAt(const SweepScratch& partials, int64_t place) {
  Swept swept =
      partials.byProducts ? take(partials.sums[place], partials.byProducts[place]) : take(partials.sums[place]);
  if (partials.logits) swept.logits = partials.logits[place];
  if (partials.weighted) swept.weighted = partials.weighted[place];
  return swept;
}

}  // namespace cuda
}  // namespace fpl
