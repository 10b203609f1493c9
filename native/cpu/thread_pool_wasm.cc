#if defined(__wasm__)
#include "thread_pool_wasm.h"

#include <algorithm>

namespace fpl {
namespace {

// A thread that the next stage may want at once looks so often before it goes to sleep, some microseconds.
constexpr int32_t kLooks = 2000;

template <typename Condition>
void lookFor(const Condition& holds) {
  for (int32_t i = 0; i < kLooks && !holds(); ++i) {
  }
}

// Only modules with shared memory have threads that could wait or be woken up.
#if defined(__wasm_atomics__)
void sleepWhile(std::atomic<int32_t>& cell, int32_t value) {
  __builtin_wasm_memory_atomic_wait32(reinterpret_cast<int32_t*>(&cell), value, -1);
}
void wake(std::atomic<int32_t>& cell, int64_t count) {
  __builtin_wasm_memory_atomic_notify(reinterpret_cast<int32_t*>(&cell), uint32_t(count));
}
#else
void sleepWhile(std::atomic<int32_t>&, int32_t) {}
void wake(std::atomic<int32_t>&, int64_t) {}
#endif

}  // namespace

void ThreadPool::run(int64_t count, int64_t threads, Task task) {
  const int64_t helpers = std::min(threads, count) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  Batch batch{task, count, helpers};
  {
    const Locked locked(mutex_);
    batch.following = open_;
    open_ = &batch;
  }
  ++opened_;
  if (sleeping_ > 0) wake(opened_, helpers);
  batch.work();
  remove(&batch);
  // They are in the middle of their last tasks.
  lookFor([&] { return batch.helpersInside == 0; });
  for (int32_t inside; (inside = batch.helpersInside) != 0;) {
    if (callersSleep_) sleepWhile(batch.helpersInside, inside);
  }
}

void ThreadPool::help() {
  for (;;) {
    const int32_t opened = opened_;
    Batch* const batch = take();
    if (!batch) {
      lookFor([&] { return opened_ != opened; });
      ++sleeping_;
      sleepWhile(opened_, opened);
      --sleeping_;
      continue;
    }
    batch->work();
    // The caller may return as soon as this is 0; its stack, where the batch is, stays where it is.
    std::atomic<int32_t>& inside = batch->helpersInside;
    if (--inside == 0) wake(inside, 1);
  }
}

ThreadPool::Batch* ThreadPool::take() {
  const Locked locked(mutex_);
  for (Batch* batch = open_; batch; batch = batch->following) {
    if (batch->helpersWanted == 0 || batch->next >= batch->count) continue;
    --batch->helpersWanted;
    ++batch->helpersInside;
    return batch;
  }
  return nullptr;
}

void ThreadPool::remove(Batch* batch) {
  const Locked locked(mutex_);
  Batch** at = &open_;
  while (*at != batch) at = &(*at)->following;
  *at = batch->following;
}

}  // namespace fpl
#endif
