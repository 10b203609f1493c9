// The stages on the CPU, and runJob, which runs them. Stage 3 is core/preference_loss.h.
#pragma once

#include <vector>

#include "../core/job.h"
#include "kernels.h"
#include "thread_pool.h"

namespace fpl {

namespace blas {
class Library;
}
struct TileKernels;

// The things a stage needs besides its tensors.
struct CpuContext {
  const Kernels& kernels;
  ThreadPool& pool;
  int64_t threads;
  const std::atomic<bool>& cancelled;
  const std::function<void(int64_t)>& onHiddenRows;
  // Whose products an output layer takes; both null: ours.
  const blas::Library* blas = nullptr;
  const TileKernels* tiles = nullptr;

  bool isChunked() const { return blas || tiles; }
};

// The segments of a row, which are worked on by different threads when there are few rows. Where they begin depends on
// the vocabulary alone. Their states are always merged in order, even when one thread does all of them: the result has
// the same bits for any number of threads.
struct RowSegments {
  explicit RowSegments(int64_t vocab);
  // Those that lib has given for a share of a vocabulary, if it has.
  explicit RowSegments(const Forward& forward);
  int64_t count, length, vocab;
  const int32_t* bounds = nullptr;

  int64_t begin(int64_t segment) const { return bounds ? bounds[segment] : segment * length; }
  int64_t end(int64_t segment) const { return segment + 1 == count ? vocab : begin(segment + 1); }

  // Whether the threads share the segments of that many rows, rather than the rows.
  bool areShared(int64_t rows, const CpuContext& context) const { return count > 1 && rows < 4 * context.threads; }
};

// The sequences a stage is to work on.
using Sequences = std::vector<int32_t>;

// Stage 1: logProb and state of every active row, and the by-products asked for.
void tokenLogProbs(const Forward& forward, const Tokens& tokens, const Sequences& sequences, TokenState* states,
                   float* sumSquaredProbs, const CpuContext& context);

// Stage 1 in two jobs: the first leaves the states of segments of rows, the second begins from them. Processes that
// share a vocabulary gather them in between.
void sweepSegments(const Forward& forward, const Tokens& tokens, const Sequences& sequences, const CpuContext& context);
void finishSegments(const Forward& forward, const Tokens& tokens, const Sequences& sequences, TokenState* states,
                    float* sumSquaredProbs, const CpuContext& context);

// Stage 2: sums over each sequence's active rows.
void sequenceSums(const Forward& forward, const Tokens& tokens, const Sequences& sequences, const TokenState* states,
                  const float* sumSquaredProbs);

// Stage 4: the gradient with respect to the logits.
void logitsGradient(const Gradient& gradient, const Tokens& tokens, const Sequences& sequences,
                    const CpuContext& context);

// What stage 4 has left to the caller: the coefficient of each active row.
void rowScales(const Gradient& gradient, const Tokens& tokens, const Sequences& sequences);

// Stages 1, 3 of single tokens, and 4, on one row after the other: stage 4 finds in the cache what stage 1 has read.
// For gradients that depend on the row alone.
void rowByRow(const Forward& forward, const Gradient& gradient, const Tokens& tokens, const Sequences& sequences,
              TokenState* states, float* sumSquaredProbs, const CpuContext& context);

// Runs the stages of a job. False when it was cancelled, which is possible until stage 4 begins. With a library of
// BLAS, the products of an output layer are that library's.
bool runJob(Job& job, ThreadPool& pool, const blas::Library* blas = nullptr);

}  // namespace fpl
