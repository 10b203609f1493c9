// Measures how fast this machine moves memory and how fast it multiplies. Memory is measured by sweeps over large
// buffers, in chunks that are shared by threads as the stages share their rows. `npm run bench` compares the stages
// with these limits; no stage uses them.
#pragma once

#include "kernels.h"
#include "thread_pool.h"

namespace fpl {

// A sweep reads the first buffer, copies it to the second, rewrites it in place, or overwrites it without reading it. A
// streaming sweep uses stores that bypass the cache. A sweep that fetches ahead goes through its chunk in one stream
// and asks for lines before it needs them, as the stages do; the others leave that to the hardware, which CPUs do
// better or worse. The fastest of its kind is the limit.
enum class Sweep {
  kRead,
  kReadAhead,
  kCopy,
  kCopyStreaming,
  kCopyAhead,
  kUpdate,
  kUpdateAhead,
  kFill,
  kFillStreaming,
};
constexpr int32_t kSweepCount = 9;
extern const char* const kSweepNames[kSweepCount];

// The seconds that one sweep over `bytes` takes. `target` is the second buffer of a copy. An update leaves the values
// as they are, and a fill leaves zeros.
double sweepSeconds(Sweep sweep, void* buffer, void* target, int64_t bytes, int64_t threads, ThreadPool& pool);

// The floating-point operations a second of `threads` threads at once; a multiply-add counts as two.
double multiplyAddRate(const Kernels& kernels, int64_t threads, ThreadPool& pool);

// The same of products of bfloat16 pairs (AVX512-BF16), of which one instruction has twice as many; 0 where the best
// instruction set has none.
double pairProductRate(int64_t threads, ThreadPool& pool);

}  // namespace fpl
