// What comes between the sweeps and the gradient on a GPU, in one launch. Blocks finish the rows of a sequence, 256 at
// a time; the last one of a sequence sums it, in float64 and in an order that depends on the sequence alone; the last
// one of all does the loss.
#include <algorithm>

#include "finish_row.h"
#include "preference_loss.h"
#include "reduce.h"
#include "unpaired_preference_loss.h"

namespace fpl {
namespace cuda {
namespace {

enum class Loss { kNone, kPairs, kUnpaired, kTokens };

struct SequenceArguments {
  FinishArguments forwards[2];  // the policy's and the reference's, as many as there are
  int64_t sequences, all;       // of each, and of both
  uint32_t chunks;              // the most blocks of a sequence
  uint32_t* arrived;            // [1 + all] of all blocks, and of those of each sequence
  PairArguments pairs;
  UnpairedArguments unpaired;
  TokenLossStage tokenLoss;
  int64_t rows;
};
static_assert(sizeof(SequenceArguments) <= 4096, "what a kernel may be given");

// A sequence's rows in a chunk.
FPL_DEVICE void finishChunk(const FinishArguments& a, int64_t s, uint32_t chunk, uint32_t chunks) {
  const int64_t first = a.tokens.offsets[s] + int64_t(chunk) * kBlockThreads, end = a.tokens.offsets[s + 1];
  for (int64_t row = first + threadIndex(); row < end; row += int64_t(chunks) * kBlockThreads) {
    if (a.tokens.targets[row] == -1) {
      putRow(a.forward, row, rowOf(0));
      if (a.divisor) a.loss.losses[row] = 0;
    } else if (a.partials.sums) {
      finishRow(a, row, row);
    }
  }
}

FPL_DEVICE void sumSequence(const Forward& forward, const Tokens& tokens, int64_t s, BlockSums (&sums)[3]) {
  double sum = 0, plainSum = 0, logWeight = 0;
  for (int64_t row = tokens.offsets[s] + threadIndex(); row < tokens.offsets[s + 1]; row += kBlockThreads) {
    if (tokens.targets[row] == -1) continue;
    const double logProb = forward.states[row].logProb;
    sum += weighed(tokens.weight(row), logProb);
    if (forward.plainLogProbs) plainSum += weighed(tokens.plainWeights[row], logProb);
    if (forward.logWeights) logWeight += logProb - log(double(forward.sumSquaredProbs[row]));
  }
  sum = blockSum(sum, sums[0].of);
  if (forward.plainLogProbs) plainSum = blockSum(plainSum, sums[1].of);
  if (forward.logWeights) logWeight = blockSum(logWeight, sums[2].of);
  if (threadIndex() != 0) return;
  const int32_t count = tokens.counts[s];
  const auto ofSequence = [&](double total) {
    return count == 0 ? tokens.emptyLogProb : tokens.average ? total / count : total;
  };
  forward.logProbs[s] = ofSequence(sum);
  if (forward.plainLogProbs) forward.plainLogProbs[s] = ofSequence(plainSum);
  if (forward.logWeights) forward.logWeights[s] = count == 0 ? 0 : logWeight / count;
}

// What the rows' losses come to.
FPL_DEVICE void lossOfTokens(const TokenLossStage& a, int64_t rows, BlockSums& sums) {
  double sum = 0;
  for (int64_t row = threadIndex(); row < rows; row += kBlockThreads) {
    sum += a.loss.losses[row];  // of inactive rows 0
  }
  sum = blockSum(sum, sums.of);
  if (threadIndex() == 0) *a.loss.summary = sum / *a.divisor;
}

template <Loss kLoss>
FPL_KERNEL(kBlockThreads, kLoss == Loss::kNone ? 2 : 1)
sequencesKernel(FPL_ARGUMENT SequenceArguments a) {
  struct Sums {
    BlockSums of[3];
  };
  FPL_SHARED(Sums, sums);
  FPL_SHARED(uint32_t, isLast);
  if (a.all > 0) {
    const int64_t place = blockIndex() / a.chunks, s = place < a.sequences ? place : place - a.sequences;
    const uint32_t chunk = uint32_t(blockIndex() - place * a.chunks);
    const FinishArguments& forward = a.forwards[place >= a.sequences];
    const Tokens& tokens = forward.tokens;
    const int64_t wanted = (tokens.offsets[s + 1] - tokens.offsets[s] + kBlockThreads - 1) / kBlockThreads;
    const uint32_t chunks = wanted < 1 ? 1 : wanted < a.chunks ? uint32_t(wanted) : a.chunks;
    if (chunk >= chunks) return;
    finishChunk(forward, s, chunk, chunks);
    if (!isLastBlock(&a.arrived[1 + place], chunks, isLast)) return;
    sumSequence(forward.forward, tokens, s, sums.of);
  }
  if (kLoss == Loss::kNone || !isLastBlock(a.arrived, a.all > 1 ? uint32_t(a.all) : 1, isLast)) return;
  if (kLoss == Loss::kPairs) lossOfPairs(a.pairs, sums.of);
  if (kLoss == Loss::kUnpaired) lossOfSequences(a.unpaired, sums.of[0]);
  if (kLoss == Loss::kTokens) lossOfTokens(a.tokenLoss, a.rows, sums.of[0]);
}

}  // namespace

void sequenceLosses(const Job& job, const LossStage& stage, Stream stream) {
  SequenceArguments a{};
  if (job.hasPolicy) {
    const TokenLossStage* const tokenLoss = job.hasTokenLoss ? &stage.tokenLoss : nullptr;
    a.sequences = a.all = job.tokens.sequences;
    a.rows = job.policy.logits.count();
    a.forwards[0] = FinishArguments(job.policy, job.tokens, stage.policy, tokenLoss);
    if (job.hasReference) {
      a.forwards[1] = FinishArguments(job.reference, job.tokens, stage.reference, nullptr);
      a.all *= 2;
    }
  }
  // Where a grid has not as many blocks as all sequences would have of their own, each finishes more than 256 rows.
  const int64_t wanted = stage.policy.sums ? (stage.mostRows + kBlockThreads - 1) / kBlockThreads : 1;
  const int64_t most = kMostBlocks / std::max<int64_t>(1, a.all);
  a.chunks = uint32_t(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, most)));
  a.arrived = stage.arrived;
  const int64_t blocks = a.all > 0 ? a.all * a.chunks : 1;
  double* const coefficients = job.hasGradient || job.hasHeadGradient ? job.gradient.coefficients : nullptr;
  if (job.hasLoss) {
    a.pairs.loss = job.loss;
    if (job.hasPolicy) {
      a.pairs.policyLogProbs = job.policy.logProbs;
      a.pairs.plainLogProbs = job.policy.plainLogProbs;
      a.pairs.logWeights = job.policy.logWeights;
      a.pairs.counts = job.tokens.counts;
      a.pairs.sequences = job.tokens.sequences;
    }
    if (job.hasReference) a.pairs.referenceLogProbs = job.reference.logProbs;
    a.pairs.index = stage.index;
    a.pairs.given = job.given;
    a.pairs.coefficients = coefficients;
    a.pairs.plainCoefficients = job.gradient.plainCoefficients;
    FPL_LAUNCH("preference loss", sequencesKernel<Loss::kPairs>, blocks, kBlockThreads, stream, a);
  } else if (job.hasUnpairedLoss) {
    a.unpaired = {job.unpairedLoss, coefficients, job.given};
    FPL_LAUNCH("unpaired preference loss", sequencesKernel<Loss::kUnpaired>, blocks, kBlockThreads, stream, a);
  } else if (job.hasTokenLoss) {
    a.tokenLoss = stage.tokenLoss;
    FPL_LAUNCH("token loss", sequencesKernel<Loss::kTokens>, blocks, kBlockThreads, stream, a);
  } else if (job.hasPolicy) {
    FPL_LAUNCH("sequence sums", sequencesKernel<Loss::kNone>, blocks, kBlockThreads, stream, a);
  }
}

}  // namespace cuda
}  // namespace fpl
