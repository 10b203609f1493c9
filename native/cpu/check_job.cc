#include "check_job.h"

#if defined(FPL_DEBUG)

#include "../core/asserts.h"
#include "kernels.h"

namespace fpl {
namespace {

// Rows lie one after the other and do not overlap.
void checkRows(const Rows& rows, bool exist) {
  FPL_ASSERT(rows.batch >= 0 && rows.time >= 0 && rows.vocab > 0);
  FPL_ASSERT(int32_t(rows.dtype) >= 0 && int32_t(rows.dtype) < 3);
  if (!exist || rows.count() == 0) return;
  FPL_ASSERT(rows.data && !rows.onDevice);
  FPL_ASSERT(reinterpret_cast<uintptr_t>(rows.data) % uintptr_t(elementSize(rows.dtype)) == 0);
  FPL_ASSERT(rows.time == 1 || rows.timeStride >= rows.vocab);
  FPL_ASSERT(rows.batch == 1 || rows.batchStride >= rows.vocab);
}

// `isNarrow`: what is done with it wants bfloat16.
void checkHead(const Head& head, const Rows& logits, bool isNarrow) {
  FPL_ASSERT(head.hidden.count() == logits.count() && head.width() > 0);
  checkRows(head.hidden, true);
  const auto& weight = head.weight;
  FPL_ASSERT(!weight.onDevice && (weight.rowStride == 1 || weight.columnStride == 1));
  FPL_ASSERT(weight.rowStride >= (weight.columnStride == 1 ? head.width() : 1));
  FPL_ASSERT(weight.columnStride >= (weight.columnStride == 1 ? 1 : logits.vocab));
  FPL_ASSERT(!isNarrow || (head.hidden.dtype == DType::kBFloat16 && weight.dtype == DType::kBFloat16));
}

// Sequences are runs of rows, one after the other. Each knows how many of its rows are active.
void checkTokens(const Tokens& tokens, const Rows& rows) {
  FPL_ASSERT(tokens.targets && tokens.offsets && tokens.counts && tokens.sequences >= 0);
  FPL_ASSERT(tokens.temperature > 0 && tokens.temperature < INFINITY);
  FPL_ASSERT(tokens.capScale >= 0 && tokens.capScale < INFINITY);
  FPL_ASSERT(tokens.shard.start >= 0 && tokens.shard.start + rows.vocab <= tokens.vocabOf(rows));
  FPL_ASSERT(tokens.offsets[0] >= 0);
  for (int64_t s = 0; s < tokens.sequences; ++s) {
    FPL_ASSERT(tokens.offsets[s] <= tokens.offsets[s + 1] && tokens.offsets[s + 1] <= rows.count());
    int32_t active = 0;
    for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
      FPL_ASSERT(tokens.targets[row] >= -1 && tokens.targets[row] < tokens.vocabOf(rows));
      active += tokens.targets[row] >= 0;
    }
    FPL_ASSERT(tokens.counts[s] == active);
  }
}

void checkForward(const Forward& forward, const Rows& rows, bool onTiles) {
  FPL_ASSERT(forward.logProbs && forward.logits.count() == rows.count() && forward.logits.vocab == rows.vocab);
  const SegmentStates& segments = forward.segments;
  const bool isRead = !forward.swept && (segments.areMade() || !segments.present());
  checkRows(forward.logits, !forward.head.present() && isRead);
  FPL_ASSERT(!segments.present() || (segments.count > 0 && segments.labelLogits));
  if (segments.areMade()) {
    const int64_t count = segments.boundCount - 1;
    FPL_ASSERT(segments.present() && count > 0 && (segments.count == count || segments.count == 1));
    FPL_ASSERT(segments.bounds[0] == 0 && segments.bounds[count] == forward.logits.vocab);
    for (int64_t s = 0; s < count; ++s) FPL_ASSERT(segments.bounds[s] < segments.bounds[s + 1]);
  }
  if (forward.head.present()) checkHead(forward.head, forward.logits, onTiles);
}

void checkLoss(const Job& job) {
  const PreferenceLoss& loss = job.loss;
  FPL_ASSERT(loss.pairCount > 0 && loss.terms.count > 0 && loss.terms.count <= LossTerms::kMost);
  for (const LossTerm& term : loss.terms) FPL_ASSERT(int32_t(term.type) >= 0 && int32_t(term.type) < kLossCount);
  FPL_ASSERT(loss.chosen && loss.rejected && loss.referenceChosen && loss.referenceRejected);
  FPL_ASSERT(loss.losses && loss.chosenRewards && loss.rejectedRewards && loss.gradChosen && loss.gradRejected);
  FPL_ASSERT(loss.summary && (!loss.chosenTokenCounts == !loss.rejectedTokenCounts));
  if (!job.hasPolicy) return;
  FPL_ASSERT(loss.pairs);
  for (int64_t i = 0; i < 2 * loss.pairCount; ++i) {
    FPL_ASSERT(loss.pairs[i] >= 0 && loss.pairs[i] < job.tokens.sequences);
  }
}

void checkUnpairedLoss(const Job& job) {
  const UnpairedPreferenceLoss& loss = job.unpairedLoss;
  FPL_ASSERT(!job.hasLoss && loss.count > 0 && (!job.hasPolicy || loss.count == job.tokens.sequences));
  FPL_ASSERT(int32_t(loss.type) >= 0 && int32_t(loss.type) < kUnpairedLossCount && loss.constants.divisor > 0);
  FPL_ASSERT(loss.desirable && loss.logProbs && loss.referenceLogProbs);
  FPL_ASSERT(loss.type != UnpairedLossType::regression || loss.targets);
  FPL_ASSERT(loss.losses && loss.rewards && loss.gradient && loss.summary);
  FPL_ASSERT(!job.hasPolicy || loss.logProbs == job.policy.logProbs);
  FPL_ASSERT(!job.hasReference || loss.referenceLogProbs == job.reference.logProbs);
  for (int64_t i = 0; i < loss.count; ++i) FPL_ASSERT(loss.desirable[i] == 0 || loss.desirable[i] == 1);
}

}  // namespace

void checkJob(const Job& job) {
  FPL_ASSERT(job.instructionSet >= -1 && job.instructionSet < instructionSets().count);
  FPL_ASSERT(job.threads > 0 && !(job.hasGradient && job.hasHeadGradient));
  if (job.hasPolicy || job.hasGradient || job.hasHeadGradient) checkTokens(job.tokens, job.rows());
  const bool onTiles = job.products == kProductsOfAmx;
  if (job.hasPolicy) checkForward(job.policy, job.rows(), onTiles);
  if (job.hasReference) {
    FPL_ASSERT(job.hasPolicy);
    checkForward(job.reference, job.rows(), onTiles);
  }
  if (job.hasLoss) checkLoss(job);
  if (job.hasUnpairedLoss) checkUnpairedLoss(job);
  if (job.hasTokenLoss) {
    FPL_ASSERT(job.hasPolicy && !job.hasLoss && !job.hasUnpairedLoss);
    FPL_ASSERT(job.tokenLoss.losses && job.tokenLoss.divisor > 0 && std::isfinite(job.tokenLoss.gradientScale));
    FPL_ASSERT(!job.tokenLoss.classWeights || job.tokenLoss.wantsMeanLogit());
  }
  if (job.hasGradient) {
    const Gradient& g = job.gradient;
    FPL_ASSERT(g.coefficients && (g.states || job.hasPolicy) && (g.entropies || !g.tokenCoefficients.entropy));
    FPL_ASSERT(g.out.count() == g.logits.count() && g.out.vocab == g.logits.vocab);
    FPL_ASSERT(!g.out.data || g.out.data != g.logits.data || elementSize(g.out.dtype) == elementSize(g.logits.dtype));
    const TokenCoefficients& own = g.tokenCoefficients;
    FPL_ASSERT(!g.rowScale || !(own.entropy || (!job.hasTokenLoss && (own.logSumExp || own.meanLogit))));
    FPL_ASSERT(!g.rowScale || !job.hasTokenLoss || (!job.tokenLoss.wantsMeanLogit() && !job.tokenLoss.constants.zLoss));
    // Such a row is written as soon as it is read: of sequences, only the coefficients that are given are known by
    // then.
    FPL_ASSERT(!g.rowScale || !own.logProb || !(job.hasLoss || job.hasUnpairedLoss));
    checkRows(g.logits, g.out.data);
    checkRows(g.out, g.out.data);
  }
  if (job.hasHeadGradient) {
    const HeadGradient& g = job.headGradient;
    FPL_ASSERT(g.coefficients && (g.states || job.hasPolicy) && (g.hidden || g.weight || g.bias));
    FPL_ASSERT(int32_t(g.dtype) >= 0 && int32_t(g.dtype) < 3);
    FPL_ASSERT(!g.onDevice && (g.entropies || !g.tokenCoefficients.entropy));
    checkHead(g.head, g.logits, onTiles || g.precision == DType::kBFloat16);
  }
}

}  // namespace fpl

#endif
