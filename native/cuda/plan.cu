#include "plan.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "head.h"
#include "staging.h"

namespace fpl {
namespace cuda {

Workspace::Workspace() = default;
Workspace::~Workspace() = default;

void Workspace::reserve(size_t deviceBytes, size_t pinnedBytes) {
  // The old memory first: there may not be room for both.
  if (device.size() < deviceBytes) {
    device = DeviceMemory();
    device = deviceMemory(deviceBytes, "the workspace");
  }
  if (pinned.size() < pinnedBytes) {
    pinned = PinnedMemory();
    pinned = pinnedMemory(pinnedBytes);
  }
}

Plan::Plan(Job& job, Workspace& workspace) : job_(job), workspace_(workspace) {
  const Tokens& tokens = job.tokens;
  if (const float* const weights = job.tokenLoss.classWeights) {
    mostWeight_ = *std::max_element(weights, weights + tokens.vocabOf(job.rows()));
  }
  if (job.hasPolicy && job.hasLoss) {
    // The pairs each sequence is in, in their order.
    starts_.assign(size_t(tokens.sequences) + 1, 0);
    for (int64_t k = 0; k < 2 * job.loss.pairCount; ++k) ++starts_[size_t(job.loss.pairs[k]) + 1];
    for (size_t s = 1; s < starts_.size(); ++s) starts_[s] += starts_[s - 1];
    slots_.resize(size_t(2 * job.loss.pairCount));
    std::vector<int32_t> next(starts_.begin(), starts_.end() - 1);
    for (int64_t k = 0; k < 2 * job.loss.pairCount; ++k) slots_[size_t(next[job.loss.pairs[k]]++)] = int32_t(k);
  }
  if (tokens.shard.vocab > 0) {
    const int64_t vocab = job.rows().vocab;
    targetColumns_.assign(tokens.targets, tokens.targets + job.rows().count());
    for (int32_t& target : targetColumns_) {
      const int64_t column = target - tokens.shard.start;
      if (target >= 0) target = column >= 0 && column < vocab ? int32_t(column) : kElsewhere;
    }
  }
  if (job.policy.segments.present()) {
    const TokenLoss* const loss = job.hasTokenLoss ? &job.tokenLoss : nullptr;
    policySegments_ = std::make_unique<SharedSegments>(job.policy, tokens, loss);
    if (job.hasReference) referenceSegments_ = std::make_unique<SharedSegments>(job.reference, tokens, nullptr);
  }
  if (job.exchange.present() && job.hasPolicy) {
    exchange_ = std::make_unique<StateExchange>(job, job.policy.head.present());
  }
  const bool multiplies = !hasSegments() || job.hasHeadGradient;
  if (job.policy.head.present() && multiplies) head_ = std::make_unique<HeadPlan>(job, workspace);

  Layout sizes(nullptr);
  place(sizes);
  workspace.reserve(sizes.end(), resultsEnd_);
  Layout layout(workspace.device.data());
  place(layout);
  inputs_ = std::move(layout.inputs);
  results_ = std::move(layout.results);
  if (head_) head_->prepare();
}

Plan::~Plan() = default;

Staging& Plan::staging() {
  if (!workspace_.staging) workspace_.staging = std::make_unique<Staging>();
  return *workspace_.staging;
}

void Plan::place(Layout& layout) {
  const Tokens& tokens = job_.tokens;
  const PreferenceLoss& loss = job_.loss;
  const Rows& rows = job_.rows();
  const int64_t count = rows.count(), sequences = tokens.sequences, pairs = loss.pairCount;
  const bool hasRows = job_.hasPolicy || hasGradient(), gathers = job_.hasPolicy && job_.hasLoss;
  const bool labelsOnDevice = job_.labels.data != nullptr;
  on_.hasPolicy = job_.hasPolicy;
  on_.hasReference = job_.hasReference;
  on_.hasLoss = job_.hasLoss;
  on_.hasUnpairedLoss = job_.hasUnpairedLoss;
  on_.hasTokenLoss = job_.hasTokenLoss;
  on_.hasGradient = job_.hasGradient;
  on_.hasHeadGradient = job_.hasHeadGradient;
  on_.tokens = tokens;
  on_.loss.terms = loss.terms;
  on_.loss.constants = loss.constants;
  on_.loss.pairCount = pairs;
  on_.unpairedLoss = job_.unpairedLoss;
  on_.given = job_.given;
  on_.gradient = job_.gradient;
  if (makesSegments()) return placeSegments(layout);

  const int32_t* columns = nullptr;
  if (hasRows) {
    if (!targetColumns_.empty()) columns = layout.input(targetColumns_.data(), count);
    if (!labelsOnDevice) {
      on_.tokens.targets = layout.input(tokens.targets, count);
      on_.tokens.counts = layout.input(tokens.counts, sequences);
    }
    on_.tokens.weights = layout.input(tokens.weights, count);
    on_.tokens.plainWeights = gathers ? layout.input(tokens.plainWeights, count) : nullptr;
    on_.tokens.offsets = layout.input(tokens.offsets, sequences + 1);
    on_.labels = job_.labels;
    on_.labels.partners = layout.input(job_.labels.partners, sequences);
    placeOrder(layout);
  }
  // Log-probs that are not among the inputs are found on the device.
  const bool findsPolicy = job_.hasPolicy || job_.given.chosen.data || job_.given.logProbs.data;
  const bool findsReference = job_.hasReference || job_.given.hasReference();
  PreferenceLoss& l = on_.loss;
  if (job_.hasLoss) {
    const PairConstants& from = loss.pairConstants;
    l.pairWeights = layout.input(loss.pairWeights, pairs);
    l.pairConstants.beta = layout.input(from.beta, pairs);
    l.pairConstants.labelSmoothing = layout.input(from.labelSmoothing, pairs);
    l.pairConstants.offset = layout.input(from.offset, pairs);
    l.pairConstants.targetMargin = layout.input(from.targetMargin, pairs);
  }
  if (gathers) {
    l.pairs = layout.input(loss.pairs, 2 * pairs);
    losses_.index.starts = layout.input(starts_.data(), sequences + 1);
    losses_.index.slots = layout.input(slots_.data(), 2 * pairs);
  } else if (job_.hasLoss) {
    l.chosenTokenCounts = layout.input(loss.chosenTokenCounts, pairs);
    l.rejectedTokenCounts = layout.input(loss.rejectedTokenCounts, pairs);
  }
  if (job_.hasLoss && !findsPolicy) {
    l.chosen = layout.input(loss.chosen, pairs);
    l.rejected = layout.input(loss.rejected, pairs);
  }
  if (job_.hasLoss && !findsReference) {
    l.referenceChosen = layout.input(loss.referenceChosen, pairs);
    l.referenceRejected = layout.input(loss.referenceRejected, pairs);
  }
  if (job_.hasUnpairedLoss) {
    const UnpairedPreferenceLoss& from = job_.unpairedLoss;
    on_.unpairedLoss.desirable = layout.input(from.desirable, from.count);
    on_.unpairedLoss.weights = layout.input(from.weights, from.count);
    on_.unpairedLoss.betas = layout.input(from.betas, from.count);
    on_.unpairedLoss.targets = layout.input(from.targets, from.count);
    if (!findsPolicy) on_.unpairedLoss.logProbs = layout.input(from.logProbs, from.count);
    if (!findsReference) on_.unpairedLoss.referenceLogProbs = layout.input(from.referenceLogProbs, from.count);
  }
  if (hasGradient() && !job_.hasPolicy) {
    Gradient& g = on_.gradient;
    const TokenCoefficients& own = job_.gradient.tokenCoefficients;
    g.states = layout.input(job_.gradient.states, count);
    g.coefficients = layout.input(job_.gradient.coefficients, sequences);
    g.entropies = own.entropy ? layout.input(job_.gradient.entropies, count) : nullptr;
    g.tokenCoefficients.logProb = layout.input(own.logProb, count);
    g.tokenCoefficients.logSumExp = layout.input(own.logSumExp, count);
    g.tokenCoefficients.entropy = layout.input(own.entropy, count);
    g.tokenCoefficients.meanLogit = layout.input(own.meanLogit, count);
  }
  losses_.tokenLoss = {};
  if (job_.hasTokenLoss) {
    const TokenLoss& from = job_.tokenLoss;
    losses_.tokenLoss.findsDivisor = from.divisor == 0;
    if (!losses_.tokenLoss.findsDivisor) losses_.tokenLoss.divisor = layout.input(&from.divisor, 1);
    losses_.tokenLoss.loss = from;
    losses_.tokenLoss.loss.classWeights = layout.input(from.classWeights, tokens.vocabOf(rows));
    losses_.tokenLoss.loss.weightsOfLabels = layout.input(from.weightsOfLabels, rows.vocab);
  }
  if (policySegments_) policySegments_->place(layout);
  if (referenceSegments_) referenceSegments_->place(layout);
  if (exchange_) exchange_->placeInputs(layout);
  noneArrived_.resize(size_t(1 + 2 * sequences));
  losses_.arrived = layout.input(noneArrived_.data(), int64_t(noneArrived_.size()));
  inputBytes_ = layout.end();

  resultsBegin_ = layout.end();
  if (hasRows && labelsOnDevice) {
    on_.tokens.counts = layout.result(const_cast<int32_t*>(tokens.counts), sequences);
    invalid_ = layout.result(job_.invalidLabels, 1);
  }
  // The caller wants the states where a gradient may follow in another call.
  if (job_.hasPolicy) placeForward(layout, job_.policy, on_.policy, !hasGradient());
  if (job_.hasReference) placeForward(layout, job_.reference, on_.reference, false);
  if (job_.hasLoss) {
    if (findsPolicy) {
      l.chosen = layout.result(loss.chosen, pairs);
      l.rejected = layout.result(loss.rejected, pairs);
    }
    if (findsReference) {
      l.referenceChosen = layout.result(loss.referenceChosen, pairs);
      l.referenceRejected = layout.result(loss.referenceRejected, pairs);
    }
    l.losses = layout.result(loss.losses, pairs);
    l.chosenRewards = layout.result(loss.chosenRewards, pairs);
    l.rejectedRewards = layout.result(loss.rejectedRewards, pairs);
    l.gradChosen = layout.result(loss.gradChosen, pairs);
    l.gradRejected = layout.result(loss.gradRejected, pairs);
    l.summary = layout.result(loss.summary, 3);
  }
  if (job_.hasUnpairedLoss) {
    const UnpairedPreferenceLoss& from = job_.unpairedLoss;
    UnpairedPreferenceLoss& to = on_.unpairedLoss;
    const auto found = [&](const double* host) { return layout.result(const_cast<double*>(host), from.count); };
    if (job_.hasPolicy) {
      to.logProbs = on_.policy.logProbs;
    } else if (findsPolicy) {
      to.logProbs = found(from.logProbs);
    }
    if (job_.hasReference) {
      to.referenceLogProbs = on_.reference.logProbs;
    } else if (findsReference) {
      to.referenceLogProbs = found(from.referenceLogProbs);
    }
    to.losses = layout.result(from.losses, from.count);
    to.rewards = layout.result(from.rewards, from.count);
    to.gradient = layout.result(from.gradient, from.count);
    to.summary = layout.result(from.summary, 5);
  }
  if (hasGradient()) on_.gradient.rowScale = layout.result(job_.gradient.rowScale, count);
  if (job_.hasTokenLoss) {
    losses_.tokenLoss.loss.losses = layout.result(job_.tokenLoss.losses, count);
    losses_.tokenLoss.loss.summary = layout.result(job_.tokenLoss.summary, 1);
  }
  resultsEnd_ = layout.end();

  if (labelsOnDevice) {
    on_.tokens.targets = layout.scratch<int32_t>(count);
    if (on_.labels.partners) {
      givenWeights_ = on_.tokens.weights;
      on_.tokens.weights = layout.scratch<double>(count);
    }
    if (!head_) {
      order_.rows = layout.scratch<int32_t>(count);
      order_.active = layout.scratch<int32_t>(1);
    }
  }
  columns_ = on_.tokens;
  if (columns) columns_.targets = columns;
  if (hasGradient() && job_.hasPolicy) on_.gradient.coefficients = layout.scratch<double>(sequences);
  if (job_.hasTokenLoss) placeTokenLoss(layout);
  // An output layer looks at the values of rows before it has them written.
  if (hasGradient() && (head_ || !makesValues(on_.gradient))) values_ = layout.scratch<RowValues>(count);
  if (gathers) {
    l.chosenTokenCounts = layout.scratch<double>(pairs);
    l.rejectedTokenCounts = layout.scratch<double>(pairs);
    if (job_.policy.logWeights) l.wpoWeights = layout.scratch<double>(pairs);
    if (tokens.plainWeights) {
      on_.policy.plainLogProbs = layout.scratch<double>(sequences);
      on_.gradient.plainCoefficients = layout.scratch<double>(sequences);
      l.plainChosen = layout.scratch<double>(pairs);
      l.gradPlain = layout.scratch<double>(pairs);
    }
  }
  if (job_.hasLoss) losses_.index.ranks = layout.scratch<int32_t>(3 * pairs);
  if (job_.hasPolicy) {
    for (Forward* f : {&on_.policy, &on_.reference}) {
      if (!f->states) f->states = layout.scratch<TokenState>(count);
      if (f->logWeights && !f->sumSquaredProbs) f->sumSquaredProbs = layout.scratch<float>(count);
      if (!job_.hasReference) break;
    }
    if (hasGradient()) on_.gradient.states = on_.policy.states;
  }
  if (exchange_) exchange_->placeScratch(layout);
  if (head_) head_->place(layout);
  if (job_.hasPolicy && (!head_ || exchange_ || hasSegments())) placePartials(layout);
}

// What the rows of the forwards are finished from.
void Plan::placePartials(Layout& layout) {
  const int64_t perRow = areSplit(order_.most) ? RowSegments(job_.rows().vocab).count : 1;
  const auto place = [&](const Forward& stage, bool isReference) {
    if (exchange_) return exchange_->given(isReference);
    if (hasSegments()) return (isReference ? referenceSegments_ : policySegments_)->given();
    SweepScratch scratch;
    scratch.perRow = perRow;
    scratch.place(layout, job_.rows().count() * perRow, stage.wantsByProducts(),
                  isReference ? wantsMeanLogit(stage, nullptr) : wantsMeanLogit(job_),
                  !isReference && wantsWeighted(job_));
    scratch.classWeights = losses_.tokenLoss.loss.classWeights;
    return scratch;
  };
  losses_.policy = place(on_.policy, false);
  // A job that may be cancelled does not begin to write before it has read everything; of one whose logits are on the
  // host, device memory is not what takes the time.
  const bool isThere = job_.policy.logits.onDevice && job_.gradient.out.onDevice;
  const bool isOwn = !exchange_ && !hasSegments() && targetColumns_.empty();
  labelLogits_ = nullptr;
  if (isThere && isOwn && !job_.cancellable && writesRowByRow(job_, order_.most)) {
    losses_.policy.perRow = 1;
    // The logits may have been written over when the rows are finished.
    losses_.policy.labelLogits = labelLogits_ = layout.scratch<float>(job_.rows().count());
  }
  if (job_.hasReference) losses_.reference = place(on_.reference, true);
  for (int64_t s = 0; s < job_.tokens.sequences; ++s) {
    losses_.mostRows = std::max<int64_t>(losses_.mostRows, job_.tokens.offsets[s + 1] - job_.tokens.offsets[s]);
  }
}

// Of a job that makes the states of segments, and nothing else.
void Plan::placeSegments(Layout& layout) {
  on_.policy = job_.policy;
  on_.reference = job_.reference;
  columns_ = on_.tokens;
  columns_.targets = layout.input(targetColumns_.data(), job_.rows().count());
  placeOrder(layout);
  losses_.tokenLoss = {};
  const float* const classWeights = job_.hasTokenLoss ? job_.tokenLoss.classWeights : nullptr;
  losses_.tokenLoss.loss.classWeights = layout.input(classWeights, columns_.vocabOf(job_.rows()));
  inputBytes_ = resultsBegin_ = layout.end();
  policySegments_->place(layout);
  if (referenceSegments_) referenceSegments_->place(layout);
  resultsEnd_ = layout.end();
  if (head_) head_->place(layout);
}

void Plan::placeOrder(Layout& layout) {
  // The rows of an output layer's logits are compact already.
  if (head_) return;
  const int32_t* const targets = hostTargets();
  const int64_t count = job_.rows().count();
  order_.count = order_.most = count;
  if (!targets) return;
  if (activeFirst_.empty()) {
    activeFirst_.resize(size_t(count));
    std::iota(activeFirst_.begin(), activeFirst_.end(), 0);
    std::stable_partition(activeFirst_.begin(), activeFirst_.end(), [&](int32_t row) { return targets[row] != -1; });
  }
  order_.most = std::count_if(targets, targets + count, [](int32_t target) { return target != -1; });
  order_.rows = layout.input(activeFirst_.data(), count);
}

void Plan::placeTokenLoss(Layout& layout) {
  const int64_t count = job_.rows().count();
  TokenLossStage& stage = losses_.tokenLoss;
  if (stage.findsDivisor) stage.divisor = layout.scratch<double>(1);
  if (stage.loss.weightsOfLabels) {
    stage.givenWeights = on_.tokens.weights;
    on_.tokens.weights = layout.scratch<double>(count);
  }
  if (!hasGradient()) return;
  TokenCoefficients& own = on_.gradient.tokenCoefficients;
  own.logProb = stage.loss.ofLogProb = layout.scratch<double>(count);
  own.logSumExp = stage.loss.ofLogSumExp = layout.scratch<double>(count);
  stage.loss.ofMeanLogit = layout.scratch<double>(count);
  own.meanLogit = stage.loss.wantsMeanLogit() ? stage.loss.ofMeanLogit : nullptr;
  on_.gradient.classWeights = stage.loss.classWeights;
}

void Plan::placeForward(Layout& layout, const Forward& from, Forward& to, bool keepStates) {
  const int64_t count = from.logits.count();
  to = from;
  to.states = keepStates ? layout.result(from.states, count) : nullptr;
  to.entropies = keepStates ? layout.result(from.entropies, count) : nullptr;
  to.tokenMeanLogits = layout.result(from.tokenMeanLogits, count);
  to.logProbs = layout.result(from.logProbs, job_.tokens.sequences);
  to.logWeights = layout.result(from.logWeights, job_.tokens.sequences);
  to.tokenLogProbs = layout.result(from.tokenLogProbs, count);
  to.tokenEntropies = layout.result(from.tokenEntropies, count);
  to.tokenArgmax = layout.result(from.tokenArgmax, count);
  to.logSumExp = layout.result(from.logSumExp, count);
  to.sumSquaredProbs = layout.result(from.sumSquaredProbs, count);
}

void Plan::upload(Stream stream) {
  for (const Layout::Copy& copy : inputs_) memcpy(workspace_.pinned.data() + copy.offset, copy.host, copy.bytes);
  if (inputBytes_ > 0) {
    check(cudaMemcpyAsync(workspace_.device.data(), workspace_.pinned.data(), inputBytes_, cudaMemcpyHostToDevice,
                          stream),
          "copying a call's inputs to the device");
  }
  if (head_) head_->upload(stream);
}

void Plan::enqueueTargets(Stream stream) {
  if (!job_.labels.data) return;
  check(cudaMemsetAsync(invalid_, 0, sizeof *invalid_, stream), "targets");
  const Rows& rows = job_.rows();
  targetsOf(on_.labels, on_.tokens.offsets, on_.tokens.sequences, rows.vocab, const_cast<int32_t*>(on_.tokens.targets),
            const_cast<int32_t*>(on_.tokens.counts), invalid_, stream);
  if (on_.labels.partners) {
    weighLengths(on_.labels, on_.tokens, givenWeights_, const_cast<double*>(on_.tokens.weights), stream);
  }
  if (order_.active) {
    orderRows(on_.tokens.targets, rows.count(), const_cast<int32_t*>(order_.rows), const_cast<int32_t*>(order_.active),
              stream);
  }
}

void Plan::enqueueTokenWeights(Stream stream) {
  // The results of sequences have no derivatives.
  if (hasGradient()) {
    check(cudaMemsetAsync(on_.gradient.coefficients, 0, size_t(on_.tokens.sequences) * sizeof(double), stream),
          "token loss");
  }
  if (!losses_.tokenLoss.findsDivisor && !losses_.tokenLoss.loss.weightsOfLabels) return;
  weighTokens(on_.tokens, losses_.tokenLoss, job_.rows().count(), stream);
}

void Plan::enqueueForward(const Forward& stage, const Rows& from, Stream stream) {
  if (hasSegments() || exchange_) return;  // the states have come from elsewhere
  const bool isReference = &stage == &on_.reference;
  const TokenLossStage* const loss = job_.hasTokenLoss && !isReference ? &losses_.tokenLoss : nullptr;
  if (head_) return head_->forward(isReference, stage, on_.tokens, loss, stream);
  const SweepScratch& scratch = isReference ? losses_.reference : losses_.policy;
  if (labelLogits_ && !isReference) {
    return rowByRow(stage, on_.gradient, on_.tokens, loss, scratch, labelLogits_, writtenRows(), stream);
  }
  if (from.onDevice) return sweepRows(stage, on_.tokens, scratch, order_.activeOnes(), stream);
  staging().upload(from, stage.logits, hostTargets(), job_.cancelled, stream, [&](int64_t first, int64_t end) {
    sweepRows(stage, on_.tokens, scratch, {first, end}, stream);
  });
}

void Plan::enqueueSegments(const Forward& stage, const MadeStates& made, const Rows& from, Stream stream) {
  const bool isReference = &stage == &on_.reference;
  const float* const classWeights = isReference ? nullptr : losses_.tokenLoss.loss.classWeights;
  if (head_) return head_->segments(isReference, stage, columns_, made, classWeights, stream);
  const SweepScratch scratch = made.from(0, classWeights);
  if (from.onDevice) {
    sweepRows(stage, columns_, scratch, order_.activeOnes(), stream);
  } else {
    staging().upload(from, stage.logits, hostTargets(), job_.cancelled, stream, [&](int64_t first, int64_t end) {
      sweepRows(stage, columns_, scratch, {first, end}, stream);
    });
  }
  labelLogits(stage.logits, columns_, made.labelLogits, stream);
}

void Plan::enqueueGradient(Stream stream) {
  if (labelLogits_ && !on_.gradient.rowScale) return;
  if (values_) rowValues(on_.gradient, on_.tokens, mostWeight_, values_, stream);
  if (labelLogits_) return;
  if (head_) return head_->gradient(on_.gradient, values_, columns_, communicator(), stream);
  if (job_.gradient.out.onDevice) {
    logitsGradient(on_.gradient, values_, on_.tokens, columns_, writtenRows(), stream);
    return;
  }
  if (!job_.hasPolicy || hasSegments()) {
    staging().upload(job_.gradient.logits, on_.gradient.logits, hostTargets(), job_.cancelled, stream,
                     [](int64_t, int64_t) {});
  }
  // Chunks of rows are waited for one by one from here on.
  if (exchange_) waitFor(stream, "waiting for the loss");
  // On the device a gradient of their type takes the place of the logits; inactive rows are the host's.
  on_.gradient.skipInactive = true;
  staging().download(on_.gradient.out, job_.gradient.out, hostTargets(), job_.gradient.skipInactive, stream,
                     [&](int64_t first, int64_t end) {
                       logitsGradient(on_.gradient, values_, on_.tokens, columns_, {first, end}, stream);
                     });
}

void Plan::download(Stream stream) {
  if (resultsEnd_ == resultsBegin_) return;
  check(cudaMemcpyAsync(workspace_.pinned.data() + resultsBegin_, workspace_.device.data() + resultsBegin_,
                        resultsEnd_ - resultsBegin_, cudaMemcpyDeviceToHost, stream),
        "copying a call's results to the host");
}

void Plan::enqueueValues(Stream stream, bool waits) {
  enqueueTargets(stream);
  if (head_) head_->begin(columns_.targets, stream);
  if (head_ && waits && job_.labels.data) {
    head_->askForActive(stream);
    waitFor(stream, "waiting for the number of active rows");
    head_->multiplyActive();
  }
  if (makesSegments()) {
    enqueueSegments(on_.policy, policySegments_->made(), job_.policy.logits, stream);
    if (job_.hasReference) enqueueSegments(on_.reference, referenceSegments_->made(), job_.reference.logits, stream);
    return;
  }
  // The reference's first, here and below: an output layer keeps the logits that were made last, for the gradient.
  if (exchange_) {
    if (job_.hasReference) enqueueSegments(on_.reference, exchange_->made(true), job_.reference.logits, stream);
    enqueueSegments(on_.policy, exchange_->made(false), job_.policy.logits, stream);
    // Rows may be missing, and the other ranks would take what they get.
    if (job_.cancelled) throw Error{"the call has been given up"};
    exchange_->gather(*communicator(), stream, job_.cancelled);
  }
  if (job_.hasTokenLoss) enqueueTokenWeights(stream);
  if (job_.hasReference) enqueueForward(on_.reference, job_.reference.logits, stream);
  if (job_.hasPolicy) enqueueForward(on_.policy, job_.policy.logits, stream);
  sequenceLosses(on_, losses_, stream);
}

void Plan::enqueue(Stream stream) {
  enqueueValues(stream, false);
  if (hasGradient()) enqueueGradient(stream);
}

namespace {

// Room on the device for rows that are on the host, one right behind the other.
DeviceMemory roomFor(Rows& rows, const char* purpose) {
  DeviceMemory memory = deviceMemory(size_t(rows.count() * rows.vocab * elementSize(rows.dtype)), purpose);
  rows.data = memory.data();
  rows.batchStride = rows.time * rows.vocab;
  rows.timeStride = rows.vocab;
  return memory;
}

}  // namespace

void Plan::waitFor(Stream stream, const char* doing) const {
  if (Communicator* const ranks = communicator()) {
    ranks->wait(stream, job_.cancelled);
  } else {
    check(cudaStreamSynchronize(stream), doing);
  }
}

void Plan::reserve() {
  if (Communicator* const ranks = communicator()) ranks->requireUsable();
  if (!head_) {
    Rows& logits = job_.hasPolicy ? on_.policy.logits : on_.gradient.logits;
    if (((job_.hasPolicy && !hasSegments()) || job_.hasGradient) && !logits.onDevice) {
      staging().reserve(logits);
      policyLogits_ = roomFor(logits, "the logits");
      if (job_.hasGradient) {
        on_.gradient.logits = logits;
        if (on_.gradient.out.dtype == logits.dtype) {
          on_.gradient.out = logits;
        } else {
          staging().reserve(on_.gradient.out);
          gradient_ = roomFor(on_.gradient.out, "the gradient");
        }
      }
    }
    if (job_.hasReference && !hasSegments() && !on_.reference.logits.onDevice) {
      staging().reserve(on_.reference.logits);
      referenceLogits_ = roomFor(on_.reference.logits, "the reference's logits");
    }
  }
}

bool Plan::run(Stream stream) {
  upload(stream);
  enqueueValues(stream, true);
  if (job_.cancellable) {
    // The gradient is not begun before it is known that it is still wanted.
    check(cudaStreamSynchronize(stream), "waiting for the loss");
    if (job_.cancelled) return false;
  }
  if (hasGradient()) enqueueGradient(stream);
  download(stream);
  waitFor(stream, "waiting for a call to end");
  if (head_) {
    // Only now that nothing can fail any more: these are the caller's arrays.
    head_->download(stream);
    check(cudaStreamSynchronize(stream), "waiting for a call to end");
  }
  return true;
}

void Plan::read() {
  for (const Layout::Copy& copy : results_) memcpy(copy.host, workspace_.pinned.data() + copy.offset, copy.bytes);
  if (!makesSegments()) return;
  policySegments_->read();
  if (referenceSegments_) referenceSegments_->read();
}

const void* Plan::resultAt(const void* host) const {
  if (host && host == job_.gradient.coefficients) return on_.gradient.coefficients;
  for (const Layout::Copy& copy : results_) {
    if (copy.host == host) return workspace_.device.data() + copy.offset;
  }
  return nullptr;
}

}  // namespace cuda
}  // namespace fpl
