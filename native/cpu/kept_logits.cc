#include "kept_logits.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "head.h"

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

}  // namespace

void KeptLogitsScratch::Free::operator()(float* memory) const { operator delete(memory, std::align_val_t(kHugePage)); }

void KeptLogitsScratch::giveTo(Job& job, const Kernels& kernels) {
  const Forward& policy = job.policy;
  if (policy.swept) return;  // stage 1 was another job's
  if (policy.head.width() < kLeastPanels * kernels.panels.columns) return;
  // Where stage 1 and stage 4 are two jobs, the caller has memory for what the one leaves to the other.
  const bool isCallers = policy.segments.present();
  KeptLogits kept;
  kept.stride = ceilDiv(policy.logits.vocab, kStep) * kStep;
  const int64_t rowBytes = kept.stride * int64_t(sizeof(float));
  const int64_t budget = isCallers ? policy.segments.keptWords * int64_t(sizeof(float)) : job.headGradient.logitsBudget;
  int64_t active = 0;
  for (int64_t s = 0; s < job.tokens.sequences; ++s) active += job.tokens.counts[s];
  kept.rows = std::min(active, budget / rowBytes);
  // Of a tile that is not kept as a whole, nothing is.
  if (kept.rows < active) kept.rows -= kept.rows % HeadTiling::kRows;
  if (kept.rows == 0) return;
  kept.data = isCallers ? policy.segments.keptLogits : allocate(size_t(kept.rows * rowBytes));
  if (kept.data) job.policy.kept = job.headGradient.kept = kept;
}

float* KeptLogitsScratch::allocate(size_t bytes) {
  void* const memory = operator new(bytes, std::align_val_t(kHugePage), std::nothrow);
  if (!memory) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  memory_.reset(static_cast<float*>(memory));
  return memory_.get();
}

}  // namespace fpl
