#include "segment_states.h"

#include <cstring>

namespace fpl {
namespace cuda {

SharedSegments::SharedSegments(const Forward& stage, const Tokens& tokens, const TokenLoss* loss)
    : segments_(stage.segments),
      tokens_(tokens),
      form_(stage, loss),
      vocab_(stage.logits.vocab),
      isCompact_(stage.head.present() && segments_.areMade()) {
  const int64_t all = stage.logits.count();
  int64_t rows = all;
  if (isCompact_) {
    rows = 0;
    for (int64_t row = 0; row < all; ++row) rows += tokens.targets[row] >= 0;
  }
  // As the kernels have them: each kind of partial beside those before it.
  const bool wantsLogits = form_.wantsLogits(), wantsByProducts = wantsLogits || stage.wantsByProducts();
  const size_t states = size_t(rows * segments_.count);
  sums_.resize(states);
  byProducts_.resize(wantsByProducts ? states : 0);
  logits_.resize(wantsLogits ? states : 0);
  weighted_.resize(form_.weightedSum ? states : 0);
  logitsOfLabels_.resize(size_t(rows));
  if (segments_.areMade()) return;
  eachRow([&](int64_t row, int64_t index) {
    logitsOfLabels_[size_t(index)] = segments_.labelLogits[row];
    eachState(row, index, [&](size_t place, const char* from) {
      Swept swept;
      form_.eachValue(swept.state, swept.logits, swept.weighted, [&](auto& value) {
        memcpy(&value, from, sizeof value);
        from += sizeof value;
      });
      const RowState& seen = swept.state;
      sums_[place] = {seen.sum, seen.unit};
      if (wantsByProducts) byProducts_[place] = {seen.weighted, seen.squares, seen.maximum, int32_t(seen.argmax)};
      if (wantsLogits) logits_[place] = swept.logits;
      if (form_.weightedSum) weighted_[place] = swept.weighted;
    });
  });
}

void SharedSegments::read() const {
  eachRow([&](int64_t row, int64_t index) {
    const int64_t label = tokens_.column(row);
    if (label >= 0 && label < vocab_) segments_.labelLogits[row] = logitsOfLabels_[size_t(index)];
    eachState(row, index, [&](size_t place, char* to) {
      Swept swept;
      swept.state.sum = sums_[place].sum;
      swept.state.unit = sums_[place].unit;
      if (!byProducts_.empty()) {
        const PartialByProducts& more = byProducts_[place];
        swept.state.weighted = more.weighted;
        swept.state.squares = more.squares;
        swept.state.maximum = more.maximum;
        swept.state.argmax = more.argmax;
      }
      if (swept.state.argmax >= 0) swept.state.argmax += tokens_.shard.start;
      if (!logits_.empty()) swept.logits = logits_[place];
      if (form_.weightedSum) swept.weighted = weighted_[place];
      form_.eachValue(swept.state, swept.logits, swept.weighted, [&](auto& value) {
        memcpy(to, &value, sizeof value);
        to += sizeof value;
      });
    });
  });
}

void SharedSegments::place(Layout& layout) {
  SweepScratch& partials = onDevice_.partials;
  partials.perRow = segments_.count;
  partials.sums = place(layout, sums_);
  partials.byProducts = place(layout, byProducts_);
  partials.logits = place(layout, logits_);
  partials.weighted = place(layout, weighted_);
  onDevice_.labelLogits = place(layout, logitsOfLabels_);
  if (!segments_.areMade()) partials.labelLogits = onDevice_.labelLogits;
}

template <typename T>
T* SharedSegments::place(Layout& layout, std::vector<T>& host) const {
  if (host.empty()) return nullptr;
  const int64_t count = int64_t(host.size());
  return segments_.areMade() ? layout.result(host.data(), count) : layout.input(host.data(), count);
}

SweepScratch MadeStates::from(int64_t first, const float* classWeights) const {
  SweepScratch scratch = partials;
  const int64_t place = first * scratch.perRow;
  scratch.sums += place;
  if (scratch.byProducts) scratch.byProducts += place;
  if (scratch.logits) scratch.logits += place;
  if (scratch.weighted) scratch.weighted += place;
  scratch.classWeights = classWeights;
  return scratch;
}

template <typename Visit>
void SharedSegments::eachRow(const Visit& visit) const {
  int64_t active = 0;
  for (int64_t row = 0; row < tokens_.offsets[tokens_.sequences]; ++row) {
    if (tokens_.targets[row] < 0) continue;
    visit(row, isCompact_ ? active : row);
    ++active;
  }
}

template <typename Visit>
void SharedSegments::eachState(int64_t row, int64_t index, const Visit& visit) const {
  for (int64_t s = 0; s < segments_.count; ++s) {
    int32_t* const state = segments_.states + (row * segments_.count + s) * form_.words();
    visit(size_t(index * segments_.count + s), reinterpret_cast<char*>(state));
  }
}

}  // namespace cuda
}  // namespace fpl
