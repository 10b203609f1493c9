// How fast this machine moves memory, by sweeps over large buffers in chunks handed out as the stages hand out their
// rows, and how fast it multiplies. `npm run bench` holds the stages against them; no stage uses them.
#pragma once

#include "kernels.h"
#include "thread_pool.h"

namespace fpl {

// The first buffer is read; copied to the second; rewritten in place; or overwritten without being read. Streaming:
// with stores that bypass the cache.
enum class Sweep { kRead, kCopy, kCopyStreaming, kUpdate, kFill, kFillStreaming };
constexpr int32_t kSweepCount = 6;
extern const char* const kSweepNames[kSweepCount];

// Seconds that one sweep over `bytes` takes. `target` is the second buffer of a copy. An update leaves the values as
// they are; a fill leaves zeros.
double sweepSeconds(Sweep sweep, void* buffer, void* target, int64_t bytes, int64_t threads, ThreadPool& pool);

// Floating-point operations a second, two a multiply-add, of so many threads at once.
double multiplyAddRate(const Kernels& kernels, int64_t threads, ThreadPool& pool);

}  // namespace fpl
