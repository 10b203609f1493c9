#include "state_exchange.h"

#include <algorithm>
#include <cstring>

namespace fpl {
namespace cuda {
namespace {

constexpr int kThreads = 256;

int64_t blocksOf(int64_t count) { return (count + kThreads - 1) / kThreads; }

// Values as the 32-bit words of a message, which begin at multiples of 4 bytes.
struct Words {
  uint32_t* at;

  template <typename T>
  FPL_DEVICE void put(const T& value) {
    uint32_t words[sizeof(T) / 4];
    memcpy(words, &value, sizeof value);
    for (uint32_t word : words) *at++ = word;
  }
  template <typename T>
  FPL_DEVICE void take(T& value) {
    uint32_t words[sizeof(T) / 4];
    for (uint32_t& word : words) word = *at++;
    memcpy(&value, words, sizeof value);
  }
};

struct PackArguments {
  SegmentStateForm form;
  SweepScratch states;
  const float* labelLogits;
  const int32_t* active = nullptr;  // where the active rows' states are; null: side by side
  const int32_t* labels = nullptr;  // [labelCount]
  int64_t rows = 0, own = 0, most = 0, labelCount = 0, mostLabels = 0, start = 0;
  uint32_t* message = nullptr;
};

// A thread to a state, and to a label's logit. Those that other ranks have more of are zeros.
FPL_KERNEL(kThreads, 4)
packKernel(FPL_ARGUMENT PackArguments a) {
  const int64_t i = blockIndex() * kThreads + threadIndex(), states = a.rows * a.most, words = a.form.words();
  if (i >= states + a.mostLabels) return;
  if (i >= states) {
    const int64_t label = i - states;
    Words{a.message + states * words + label}.put(label < a.labelCount ? a.labelLogits[a.labels[label]] : 0.0f);
    return;
  }
  const int64_t row = i / a.most, segment = i % a.most;
  Words to{a.message + i * words};
  if (segment >= a.own) {
    for (int64_t w = 0; w < words; ++w) to.put(0u);
    return;
  }
  Swept swept = sweptAt(a.states, (a.active ? a.active[row] : row) * a.own + segment);
  if (swept.state.argmax >= 0) swept.state.argmax += a.start;
  a.form.eachValue(swept.state, swept.logits, swept.weighted, [&](auto& value) { to.put(value); });
}

struct UnpackArguments {
  SegmentStateForm form;
  const uint32_t* messages;  // this stage's part of that of rank 0
  int64_t messageWords;      // from one rank's to the next
  const int32_t *active = nullptr, *segments = nullptr, *labels = nullptr;
  int64_t rows = 0, most = 0, total = 0;
  SweepScratch states{};
  float* labelLogits = nullptr;
};

// A thread to a state, and to a label's logit.
FPL_KERNEL(kThreads, 4)
unpackKernel(FPL_ARGUMENT UnpackArguments a) {
  const int64_t i = blockIndex() * kThreads + threadIndex(), states = a.rows * a.total, words = a.form.words();
  if (i >= states + a.rows) return;
  const auto wordAt = [&](int32_t rank, int64_t word) {
    return Words{const_cast<uint32_t*>(a.messages) + rank * a.messageWords + word};
  };
  if (i >= states) {
    const int64_t row = i - states;
    wordAt(a.labels[2 * row], a.rows * a.most * words + a.labels[2 * row + 1]).take(a.labelLogits[a.active[row]]);
    return;
  }
  const int64_t row = i / a.total, segment = i % a.total;
  Words from = wordAt(a.segments[2 * segment], (row * a.most + a.segments[2 * segment + 1]) * words);
  Swept swept;
  a.form.eachValue(swept.state, swept.logits, swept.weighted, [&](auto& value) { from.take(value); });
  const int64_t place = a.active[row] * a.total + segment;
  a.states.sums[place] = partialSums(swept);
  if (a.states.byProducts) a.states.byProducts[place] = partialByProducts(swept);
  if (a.states.logits) a.states.logits[place] = swept.logits;
  if (a.states.weighted) a.states.weighted[place] = swept.weighted;
}

}  // namespace

StateExchange::StateExchange(const Job& job, bool compact) : count_(job.rows().count()), isCompact_(compact) {
  const Exchange& exchange = job.exchange;
  const Tokens& tokens = job.tokens;
  start_ = tokens.shard.start;
  ranks_ = exchange.ranks();
  const auto first = [&](int64_t rank) { return exchange.columns[2 * rank]; };
  const auto end = [&](int64_t rank) { return exchange.columns[2 * rank + 1]; };
  std::vector<int64_t> counts, inOrder;
  for (int64_t r = 0; r < ranks_; ++r) {
    if (first(r) == start_) rank_ = r;
    inOrder.push_back(r);
    counts.push_back(exchange.merges ? 1 : RowSegments(end(r) - first(r)).count);
    most_ = std::max(most_, counts.back());
  }
  own_ = counts[size_t(rank_)];
  std::sort(inOrder.begin(), inOrder.end(), [&](int64_t a, int64_t b) { return first(a) < first(b); });
  for (const int64_t r : inOrder) {
    for (int64_t s = 0; s < counts[size_t(r)]; ++s) segments_.insert(segments_.end(), {int32_t(r), int32_t(s)});
    total_ += counts[size_t(r)];
  }
  std::vector<int32_t> labels(size_t(ranks_), 0);
  for (int64_t row = 0; row < count_; ++row) {
    const int32_t target = tokens.targets[row];
    if (target < 0) continue;
    int32_t rank = 0;
    while (target < first(rank) || target >= end(rank)) ++rank;
    if (rank == rank_) ownLabels_.push_back(int32_t(isCompact_ ? rows() : row));
    labels_.insert(labels_.end(), {rank, labels[size_t(rank)]++});
    active_.push_back(int32_t(row));
  }
  mostLabels_ = *std::max_element(labels.begin(), labels.end());

  const auto add = [&](const Forward& forward, const TokenLoss* loss) {
    Stage stage{SegmentStateForm(forward, loss), forward.wantsByProducts()};
    stage.offset = messageBytes_;
    messageBytes_ += bytesOf(stage);
    stages_.push_back(stage);
  };
  add(job.policy, job.hasTokenLoss ? &job.tokenLoss : nullptr);
  if (job.hasReference) add(job.reference, nullptr);
}

void StateExchange::placeInputs(Layout& layout) {
  const auto input = [&](const std::vector<int32_t>& host) { return layout.input(host.data(), int64_t(host.size())); };
  activeOnDevice_ = input(active_);
  segmentsOnDevice_ = input(segments_);
  labelsOnDevice_ = input(labels_);
  ownLabelsOnDevice_ = input(ownLabels_);
}

void StateExchange::placeScratch(Layout& layout) {
  messages_ = layout.scratch<char>(ranks_ * messageBytes_);
  const int64_t sweptRows = isCompact_ ? rows() : count_;
  for (Stage& stage : stages_) {
    const auto place = [&](SweepScratch& scratch, int64_t partials) {
      scratch.place(layout, partials, stage.wantsByProducts, stage.form.wantsLogits(), stage.form.weightedSum);
    };
    stage.made.partials.perRow = own_;
    place(stage.made.partials, sweptRows * own_);
    stage.made.labelLogits = layout.scratch<float>(sweptRows);
    stage.given.perRow = total_;
    place(stage.given, count_ * total_);
    stage.given.labelLogits = stage.labelLogits = layout.scratch<float>(count_);
  }
}

void StateExchange::gather(Communicator& communicator, Stream stream, const std::atomic<bool>& cancelled) const {
  if (rows() == 0) return;  // on all ranks: they have the same labels
  char* const own = messages_ + rank_ * messageBytes_;
  for (const Stage& stage : stages_) {
    PackArguments a{stage.form, stage.made.partials, stage.made.labelLogits};
    a.active = isCompact_ ? nullptr : activeOnDevice_;
    a.labels = ownLabelsOnDevice_;
    a.rows = rows();
    a.own = own_;
    a.most = most_;
    a.labelCount = int64_t(ownLabels_.size());
    a.mostLabels = mostLabels_;
    a.start = start_;
    a.message = reinterpret_cast<uint32_t*>(own + stage.offset);
    FPL_LAUNCH("segment states", packKernel, blocksOf(a.rows * most_ + mostLabels_), kThreads, stream, a);
  }
  communicator.allGather(own, messages_, size_t(messageBytes_), stream, cancelled);
  for (const Stage& stage : stages_) {
    UnpackArguments a{stage.form, reinterpret_cast<const uint32_t*>(messages_ + stage.offset), messageBytes_ / 4};
    a.active = activeOnDevice_;
    a.segments = segmentsOnDevice_;
    a.labels = labelsOnDevice_;
    a.rows = rows();
    a.most = most_;
    a.total = total_;
    a.states = stage.given;
    a.labelLogits = stage.labelLogits;
    FPL_LAUNCH("segment states", unpackKernel, blocksOf(a.rows * (total_ + 1)), kThreads, stream, a);
  }
}

}  // namespace cuda
}  // namespace fpl
