// Runs the stages of a job in order, and carries values between them: sequences to pairs before the loss, pairs to
// sequences after it.
#include <algorithm>
#include <cmath>

#include "../core/preference_loss.h"
#include "stages.h"

namespace fpl {
namespace {

// Below this many logits a call is over before a thread has woken up.
constexpr int64_t kAloneBelow = 1 << 16;

int64_t threadsFor(const Job& job) {
  const Rows& rows = job.hasPolicy ? job.policy.logits : job.gradient.logits;
  if (rows.count() * rows.vocab < kAloneBelow) return 1;
  return job.threads > 0 ? job.threads : ThreadPool::available();
}

void forward(const Forward& stage, const Tokens& tokens, const CpuContext& context) {
  const int64_t rowCount = stage.logits.count();
  std::vector<TokenState> ownStates;
  TokenState* states = stage.states;
  if (!states) {
    ownStates.resize(rowCount);
    states = ownStates.data();
  }
  std::vector<float> ownSquares;
  float* squares = stage.sumSquaredProbs;
  if (stage.logWeights && !squares) {
    ownSquares.resize(rowCount);
    squares = ownSquares.data();
  }
  tokenLogProbs(stage, tokens, states, squares, context);
  if (context.cancelled) return;
  sequenceSums(stage, tokens, states, squares);
}

void gather(const Job& job, PreferenceLoss& loss) {
  for (int64_t i = 0; i < loss.pairCount; ++i) {
    const int32_t chosen = loss.pairs[2 * i], rejected = loss.pairs[2 * i + 1];
    loss.chosen[i] = job.policy.logProbs[chosen];
    loss.rejected[i] = job.policy.logProbs[rejected];
    if (job.hasReference) {
      loss.referenceChosen[i] = job.reference.logProbs[chosen];
      loss.referenceRejected[i] = job.reference.logProbs[rejected];
    }
    if (job.policy.logWeights) {
      loss.pairWeights[i] = exp(job.policy.logWeights[chosen] + job.policy.logWeights[rejected]);
    }
  }
}

void scatter(const PreferenceLoss& loss, const Tokens& tokens, double* coefficients) {
  std::fill(coefficients, coefficients + tokens.sequences, 0.0);
  for (int64_t i = 0; i < loss.pairCount; ++i) {
    coefficients[loss.pairs[2 * i]] += loss.gradChosen[i];
    coefficients[loss.pairs[2 * i + 1]] += loss.gradRejected[i];
  }
}

}  // namespace

bool runJob(Job& job, ThreadPool& pool) {
  if (job.hasPolicy || job.hasGradient) {
    const InstructionSets& sets = instructionSets();
    const Kernels& kernels = *sets.sets[job.instructionSet < 0 ? 0 : job.instructionSet];
    const CpuContext context{kernels, pool, threadsFor(job), job.cancelled};
    if (job.hasPolicy) forward(job.policy, job.tokens, context);
    if (job.hasReference && !job.cancelled) forward(job.reference, job.tokens, context);
    if (job.cancelled) return false;
    if (job.hasLoss) {
      gather(job, job.loss);
      preferenceLoss(job.loss);
      if (job.hasGradient) scatter(job.loss, job.tokens, job.gradient.coefficients);
    }
    if (job.hasGradient) logitsGradient(job.gradient, job.tokens, context);
  } else if (job.hasLoss) {
    if (job.cancelled) return false;
    preferenceLoss(job.loss);
  }
  return true;
}

}  // namespace fpl
