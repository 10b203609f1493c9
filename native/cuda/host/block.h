// A block of threads on the host, for tests: each thread is a fiber, and a fiber runs until it has to wait for the
// others. The order in which they run is shuffled anew each time: what a missing barrier lets go wrong on a GPU now and
// then goes wrong here. Shared memory starts as garbage in every block.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#include "../../core/dtypes.h"

#define FPL_DEVICE inline
#define FPL_KERNEL(threads, blocks) inline void
#define FPL_ARGUMENT const
#define FPL_SHARED(type, name)   \
  static const char name##Tag{}; \
  type& name = *static_cast<type*>(::fpl::cuda::host::sharedMemory(&name##Tag, sizeof(type)))

namespace fpl {
namespace cuda {

struct Quad;

namespace host {

// Runs `body` as every thread of every block. Aborts the process where a GPU would hang or misbehave: a barrier that
// not all threads reach, an exchange between lanes that not all lanes take part in.
void runGrid(int64_t blocks, int threads, const std::function<void()>& body);

// Before and after a jump out of a kernel, whose threads are not run any further.
void beginEscape();
void endEscape();

int currentThread();
int64_t currentBlock();
void waitForBlock();
void waitForWarp();
// The block's memory for the variable with that tag.
void* sharedMemory(const void* tag, size_t size);
// A place of the lane's own warp through which lanes exchange values of up to 8 bytes.
void* laneSlot(int lane);

}  // namespace host

inline int threadIndex() { return host::currentThread(); }
inline int64_t blockIndex() { return host::currentBlock(); }
inline void barrier() { host::waitForBlock(); }

template <typename V>
V fromLaneAbove(V value, int offset) {
  const int lane = host::currentThread() % 32;
  memcpy(host::laneSlot(lane), &value, sizeof value);
  host::waitForWarp();
  V other;
  memcpy(&other, host::laneSlot(lane + offset < 32 ? lane + offset : lane), sizeof other);
  host::waitForWarp();
  return other;
}

inline void addAtomic(int32_t* counter, int32_t amount) { *counter += amount; }
inline uint32_t countInOrder(uint32_t* counter, uint32_t most) {
  const uint32_t old = *counter;
  *counter = old >= most ? 0 : old + 1;
  return old;
}

template <typename Q>
Q loadCached(const Q* p) {
  Q v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <typename Q>
Q loadStreaming(const Q* p) {
  return loadCached(p);
}
template <typename Q>
void storeStreaming(Q* p, Q v) {
  memcpy(p, &v, sizeof v);
}

inline uint32_t shiftedDown(uint32_t low, uint32_t high, uint32_t bits) {
  return uint32_t((uint64_t(high) << 32 | low) >> bits);
}

inline float fusedMultiplyAdd(float a, float b, float c) { return std::fmaf(a, b, c); }
inline double fusedMultiplyAdd(double a, double b, double c) { return std::fma(a, b, c); }
inline float multiply(float a, float b) { return a * b; }
inline float add(float a, float b) { return a + b; }

// As inexact as the instructions: errors that depend on the argument, and no subnormal results. Of 2^x they are up to
// 2 ULP, and powers of whole numbers are exact; of 1 / x up to 1 ULP.
inline float exp2Fast(float x) {
  const float y = std::exp2(x);
  if (y < 0x1p-126f) return 0;
  if (x == std::floor(x)) return y;
  const uint32_t hash = bitsOf(x) * 2654435761u;
  return y > 0x1p126f || y != y ? y : floatOf(bitsOf(y) + (hash >> 30) - 1);
}

inline float inverseFast(float x) {
  const float y = 1 / x;
  if (y < 0x1p-126f) return 0;
  const uint32_t hash = bitsOf(x) * 2654435761u;
  return y != y ? y : floatOf(bitsOf(y) + (hash >> 31) - (hash >> 30 & 1));
}

inline float halfToFloat(uint32_t bits) { return toFloat(Float16{uint16_t(bits)}); }

template <typename T>
uint32_t packTwo(float low, float high) {
  T a, b;
  fromFloat(low, a);
  fromFloat(high, b);
  return uint32_t(b.bits) << 16 | a.bits;
}
inline uint32_t packHalves(float low, float high) { return packTwo<Float16>(low, high); }
inline uint32_t packBFloat16s(float low, float high) { return packTwo<BFloat16>(low, high); }

}  // namespace cuda
}  // namespace fpl
