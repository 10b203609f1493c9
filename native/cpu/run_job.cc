// Runs the stages of a job in order and carries values between them: from sequences to pairs before the loss, and from
// pairs to sequences after it.
//
// Where stage 4 of a row needs nothing of the others, both are done with a row before the next: stage 4 then finds the
// logits that stage 1 has read in the cache, and they come from memory once, not twice.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "../core/float_environment.h"
#include "../core/preference_loss.h"
#include "../core/unpaired_preference_loss.h"
#include "check_job.h"
#include "head.h"
#include "kept_logits.h"
#include "tiles.h"

namespace fpl {
namespace {

// A call with fewer logits than this is over before a thread has woken up.
constexpr int64_t kAloneBelow = 1 << 16;

int64_t threadsFor(const Job& job) {
  const Rows& rows = job.rows();
  const Head& head = job.hasPolicy ? job.policy.head : job.headGradient.head;
  if (rows.count() * rows.vocab * (1 + head.width() / 8) < kAloneBelow) return 1;
  return job.threads;
}

// Memory for the states and sums of a forward that the caller does not ask for.
struct ForwardScratch {
  std::vector<TokenState> states;
  std::vector<float> squares;

  TokenState* statesOf(const Forward& stage) {
    states.resize(stage.logits.count());
    return states.data();
  }
};

// With stage 4 of the same rows, where `gradient` is given.
void forward(const Forward& stage, const Tokens& tokens, const Sequences& sequences, ForwardScratch& scratch,
             const CpuContext& context, const Gradient* gradient = nullptr) {
  TokenState* states = stage.states ? stage.states : scratch.statesOf(stage);
  float* squares = stage.sumSquaredProbs;
  if (stage.logWeights && !squares) {
    scratch.squares.resize(stage.logits.count());
    squares = scratch.squares.data();
  }
  if (stage.swept) {
    FPL_ASSERT(stage.states && (!stage.logWeights || stage.sumSquaredProbs));
  } else if (stage.segments.present()) {
    finishSegments(stage, tokens, sequences, states, squares, context);
  } else if (gradient) {
    rowByRow(stage, *gradient, tokens, sequences, states, squares, context);
  } else {
    const auto stageOne = stage.head.present() ? headTokenLogProbs : tokenLogProbs;
    stageOne(stage, tokens, sequences, states, squares, context);
  }
  if (context.cancelled) return;
  sequenceSums(stage, tokens, sequences, states, squares);
}

// sft's own log-probs of sequences and derivatives, for jobs in which its tokens have other weights.
struct PlainScratch {
  std::vector<double> logProbs, chosen, gradChosen, coefficients;

  void giveTo(Job& job) {
    logProbs.resize(job.tokens.sequences);
    coefficients.assign(job.tokens.sequences, 0.0);
    chosen.resize(job.loss.pairCount);
    gradChosen.resize(job.loss.pairCount);
    job.policy.plainLogProbs = logProbs.data();
    job.loss.plainChosen = chosen.data();
    job.loss.gradPlain = gradChosen.data();
    if (job.gradient.plainCoefficients) return;
    job.gradient.plainCoefficients = job.headGradient.plainCoefficients = coefficients.data();
  }
};

// Factors of pairs that the policy gives.
struct WpoScratch {
  std::vector<double> weights;

  void giveTo(Job& job) {
    weights.resize(job.loss.pairCount);
    job.loss.wpoWeights = weights.data();
  }
};

// What stages 1 and 4 of a token loss pass on to each other.
struct TokenLossScratch {
  std::vector<double> slopes;

  void giveTo(Job& job) {
    const int64_t rows = job.policy.logits.count();
    slopes.resize(3 * rows);
    TokenLoss& loss = job.tokenLoss;
    loss.ofLogProb = slopes.data();
    loss.ofLogSumExp = loss.ofLogProb + rows;
    loss.ofMeanLogit = loss.ofLogSumExp + rows;
    job.gradient.tokenCoefficients.logProb = loss.ofLogProb;
    job.gradient.tokenCoefficients.logSumExp = loss.ofLogSumExp;
    job.gradient.tokenCoefficients.meanLogit = loss.ofMeanLogit;
    job.headGradient.tokenCoefficients = job.gradient.tokenCoefficients;
    job.gradient.classWeights = job.headGradient.classWeights = loss.classWeightsFrom(job.tokens.shard.start);
  }
};

// In the order of the rows, whatever order they were worked on.
void finishTokenLoss(TokenLoss& loss, const Tokens& tokens) {
  double sum = 0;
  for (int64_t row = 0; row < tokens.offsets[tokens.sequences]; ++row) {
    if (tokens.targets[row] >= 0) sum += loss.losses[row];
  }
  loss.summary[0] = sum / loss.divisor;
}

void gather(const Job& job, PreferenceLoss& loss) {
  for (int64_t i = 0; i < loss.pairCount; ++i) {
    const int32_t chosen = loss.pairs[2 * i], rejected = loss.pairs[2 * i + 1];
    loss.chosen[i] = job.policy.logProbs[chosen];
    loss.rejected[i] = job.policy.logProbs[rejected];
    if (loss.plainChosen) loss.plainChosen[i] = job.policy.plainLogProbs[chosen];
    if (job.hasReference) {
      loss.referenceChosen[i] = job.reference.logProbs[chosen];
      loss.referenceRejected[i] = job.reference.logProbs[rejected];
    }
    if (job.policy.logWeights) {
      loss.wpoWeights[i] = exp(job.policy.logWeights[chosen] + job.policy.logWeights[rejected]);
    }
  }
}

// `Stage`: Gradient or HeadGradient.
template <typename Stage>
void scatter(const PreferenceLoss& loss, Stage& gradient) {
  for (int64_t i = 0; i < loss.pairCount; ++i) {
    const int32_t chosen = loss.pairs[2 * i], rejected = loss.pairs[2 * i + 1];
    gradient.coefficients[chosen] += loss.gradChosen[i];
    gradient.coefficients[rejected] += loss.gradRejected[i];
    if (gradient.plainCoefficients) gradient.plainCoefficients[chosen] += loss.gradPlain[i];
  }
}

Sequences allSequences(const Tokens& tokens) {
  Sequences sequences(tokens.sequences);
  std::iota(sequences.begin(), sequences.end(), 0);
  return sequences;
}

}  // namespace

bool runJob(Job& job, ThreadPool& pool, const blas::Library* blas) {
  if (job.cancelled) return false;
  const FloatEnvironment environment;
  checkJob(job);
  PlainScratch plainScratch;
  if (job.hasPolicy && job.hasLoss && job.tokens.plainWeights) plainScratch.giveTo(job);
  WpoScratch wpoScratch;
  if (job.hasLoss && job.policy.logWeights) wpoScratch.giveTo(job);
  PairRanks ranks(job.loss);
  const bool hasGradient = job.hasGradient || job.hasHeadGradient;
  TokenLossScratch tokenLossScratch;
  if (job.hasTokenLoss) {
    job.policy.tokenLoss = &job.tokenLoss;
    if (hasGradient) tokenLossScratch.giveTo(job);
  }
  if (job.hasPolicy || hasGradient) {
    const Kernels& kernels = *instructionSets().sets[job.instructionSet < 0 ? 0 : job.instructionSet];
    KeptLogitsScratch keptLogits;
    const TileKernels* tiles = nullptr;
    if constexpr (kHasChunks) {
      if (job.products == kProductsOfAmx) tiles = amxTilesOfJob();
    }
    if (!blas && !tiles && job.hasPolicy && (job.hasHeadGradient || job.policy.segments.keptLogits)) {
      keptLogits.giveTo(job, kernels);
    }
    if constexpr (kHasChunks) {
      if (blas || tiles) keptLogits.giveChunksTo(job, threadsFor(job), tiles);
    }
    const CpuContext context{kernels, pool, threadsFor(job), job.cancelled, job.onHiddenRows, blas, tiles};
    const Sequences sequences = allSequences(job.tokens);
    if (job.policy.segments.areMade()) {
      sweepSegments(job.policy, job.tokens, sequences, context);
      if (job.hasReference) sweepSegments(job.reference, job.tokens, sequences, context);
      return !job.cancelled;
    }
    double* const coefficients = job.hasGradient ? job.gradient.coefficients : job.headGradient.coefficients;
    if (hasGradient && job.hasLoss) std::fill(coefficients, coefficients + job.tokens.sequences, 0.0);
    ForwardScratch policyScratch, referenceScratch;
    if (hasGradient && !job.policy.states) {
      job.policy.states = policyScratch.statesOf(job.policy);
      job.gradient.states = job.headGradient.states = job.policy.states;
    }
    // A job that may be cancelled does not begin to write before it has read everything.
    const bool ofRowsAlone = job.hasPolicy && job.hasGradient && (job.hasTokenLoss || job.gradient.rowScale);
    const bool isRead = !job.policy.segments.present();
    const Gradient* const atOnce = ofRowsAlone && isRead && !job.cancellable ? &job.gradient : nullptr;
    // What allocates comes before what writes to the caller's gradients: so a job that fails leaves them as they are.
    if (job.hasReference) forward(job.reference, job.tokens, sequences, referenceScratch, context);
    if (job.hasPolicy) forward(job.policy, job.tokens, sequences, policyScratch, context, atOnce);
    // A job without a signal is cancelled when its environment ends. Nobody will read its results then.
    if (job.cancelled) return false;
    if (job.hasLoss) {
      gather(job, job.loss);
      preferenceLoss(job.loss, ranks);
      if (job.hasGradient) scatter(job.loss, job.gradient);
      if (job.hasHeadGradient) scatter(job.loss, job.headGradient);
    }
    if (job.hasUnpairedLoss) {
      unpairedPreferenceLoss(job.unpairedLoss);
      if (hasGradient) std::copy_n(job.unpairedLoss.gradient, job.unpairedLoss.count, coefficients);
    }
    // Without `out`, stage 4 is another job's.
    if (job.hasGradient && job.gradient.out.data && !atOnce) {
      logitsGradient(job.gradient, job.tokens, sequences, context);
    }
    if (job.hasGradient && job.gradient.rowScale) rowScales(job.gradient, job.tokens, sequences);
    if (job.hasHeadGradient) headGradient(job.headGradient, job.tokens, sequences, context);
  } else if (job.hasLoss) {
    preferenceLoss(job.loss, ranks);
  } else if (job.hasUnpairedLoss) {
    unpairedPreferenceLoss(job.unpairedLoss);
  }
  if (job.hasTokenLoss) finishTokenLoss(job.tokenLoss, job.tokens);
  return true;
}

}  // namespace fpl
