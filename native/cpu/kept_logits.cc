#include "kept_logits.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "head_products.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fpl {
namespace {

// Below so many columns of a panel, a logit is multiplied in less time than it takes to write and read it.
constexpr int64_t kLeastPanels = 4;

// Whole cache lines.
constexpr int64_t kStep = 64 / sizeof(float);

// Pages of this size, where there are any, take a hundredth of the time that small ones take to be made.
constexpr size_t kHugePage = size_t(2) << 20;

#if !defined(__wasm__)
// Stage 1 is this job's, and it is of whole rows.
bool canKeep(const Job& job) {
  return job.hasPolicy && job.hasHeadGradient && !job.policy.swept && !job.policy.segments.present();
}

// Rows of a chunk: a product of so few is nearly as fast as that of many.
constexpr int64_t kLeastChunk = 96, kLargestChunk = 512;
// All chunks but the last have whole steps of rows, where tiles multiply.
constexpr int64_t kRowStep = 32;
constexpr int64_t kChunkBytes = int64_t(64) << 20;
#endif

int64_t strideOf(int64_t vocab) { return ceilDiv(vocab, kStep) * kStep; }

int64_t activeRowsOf(const Tokens& tokens) {
  int64_t active = 0;
  for (int64_t s = 0; s < tokens.sequences; ++s) active += tokens.counts[s];
  return active;
}

}  // namespace

void KeptLogitsScratch::Free::operator()(float* memory) const { operator delete(memory, std::align_val_t(kHugePage)); }

// Null where memory is short.
float* KeptLogitsScratch::allocate(int64_t bytes) {
  void* const memory = operator new(size_t(bytes), std::align_val_t(kHugePage), std::nothrow);
  memory_.reset(static_cast<float*>(memory));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (memory) madvise(memory, size_t(bytes), MADV_HUGEPAGE);
#endif
  return memory_.get();
}

void KeptLogitsScratch::giveTo(Job& job, const Kernels& kernels) {
  const Forward& policy = job.policy;
  if (policy.swept) return;  // stage 1 was another job's
  if (policy.head.width() < kLeastPanels * kernels.panels.columns) return;
  // Where stage 1 and stage 4 are two jobs, the caller has memory for what the one leaves to the other.
  const bool isCallers = policy.segments.present();
  KeptLogits kept;
  kept.stride = strideOf(policy.logits.vocab);
  const int64_t rowBytes = kept.stride * int64_t(sizeof(float)), active = activeRowsOf(job.tokens);
  const int64_t budget = isCallers ? policy.segments.keptWords * int64_t(sizeof(float)) : job.headGradient.logitsBudget;
  kept.rows = std::min(active, budget / rowBytes);
  // Of a tile that is not kept as a whole, nothing is.
  if (kept.rows < active) kept.rows -= kept.rows % HeadTiling::kRows;
  if (kept.rows == 0) return;
  kept.data = isCallers ? policy.segments.keptLogits : allocate(kept.rows * rowBytes);
  if (kept.data) job.policy.kept = job.headGradient.kept = kept;
}

#if !defined(__wasm__)
void KeptLogitsScratch::giveChunksTo(Job& job, int64_t threads, bool onTiles) {
  const bool hasHead = job.hasHeadGradient || (job.hasPolicy && job.policy.head.present());
  if (!hasHead) return;
  KeptLogits kept;
  kept.stride = strideOfLogits(job.rows().vocab);
  const int64_t rowBytes = kept.stride * int64_t(sizeof(float)), active = activeRowsOf(job.tokens);
  const auto whole = [](int64_t rows) { return rows - rows % kRowStep; };
  const int64_t chunk = whole(std::min(kLargestChunk, std::max(kLeastChunk, kChunkBytes / rowBytes)));
  const int64_t fitting = canKeep(job) ? job.headGradient.logitsBudget / rowBytes : 0;
  kept.rows = active <= fitting ? active : whole(std::max<int64_t>(0, fitting - chunk));
  if (kept.rows < active || job.reference.head.present()) kept.room = std::min(chunk, active);
  if (kept.rows + kept.room == 0) return;
  const int64_t words = kept.room == 0 ? 0 : wordsOfBlock(kept.room, job.rows().vocab, kStepOfStates, threads, onTiles);
  kept.data = allocate(kept.rows * rowBytes + kept.room * strideOfLogits(words) * int64_t(sizeof(float)));
  if (!kept.data) throw std::bad_alloc();
  job.policy.kept = job.headGradient.kept = kept;
  job.reference.kept = {kept.chunk(), 0, kept.stride, kept.room};
}
#endif

}  // namespace fpl
