// The few words in which the kernels speak to the machine. nvcc compiles them for a GPU; any C++ compiler, with
// FPL_HOST_EXECUTION, to host/block.h, where a group of fibers stands in for a block. The kernels' source is the same.
#pragma once

#include <cstdint>

#include "../core/dtypes.h"

#if defined(FPL_HOST_EXECUTION)
#include "host/block.h"
#include "host/runtime.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define FPL_DEVICE __device__ __forceinline__
// A kernel, the threads of its blocks, and how many blocks a multiprocessor shall be able to hold. Its arguments are
// FPL_ARGUMENT.
#define FPL_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define FPL_ARGUMENT const __grid_constant__
// Memory that the block's threads share. `type` must be trivial.
#define FPL_SHARED(type, name) __shared__ type name
#endif

namespace fpl {
namespace cuda {

constexpr int kWarp = 32;

// 16 bytes of memory, what one load or store moves. What lies there are elements of a row: the functions below alone
// follow a pointer to a Quad, as CUDA's own vector or by its bytes.
struct alignas(16) Quad {
  uint32_t words[4];
};

#if !defined(FPL_HOST_EXECUTION)

FPL_DEVICE int threadIndex() { return int(threadIdx.x); }
FPL_DEVICE int64_t blockIndex() { return int64_t(blockIdx.x); }

// Waits for all threads of the block, and shows each what the others wrote before.
FPL_DEVICE void barrier() { __syncthreads(); }

// The value of the lane `offset` further up the warp; all lanes of the warp take part.
template <typename V>
FPL_DEVICE V fromLaneAbove(V value, int offset) {
  return __shfl_down_sync(0xffffffffu, value, unsigned(offset));
}

FPL_DEVICE void addAtomic(int32_t* counter, int32_t amount) { atomicAdd(counter, amount); }

// Counts from 0 to `most` and then from 0 again; what the counter held. Whoever counts later sees what the thread has
// written before, and what its block had written before a barrier.
FPL_DEVICE uint32_t countInOrder(uint32_t* counter, uint32_t most) {
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(__cvta_generic_to_global(counter)), "r"(most)
               : "memory");
  return old;
}

// Streaming: these lines will not be read again soon.
FPL_DEVICE Quad loadStreaming(const Quad* p) {
  const uint4 v = __ldcs(reinterpret_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}
FPL_DEVICE void storeStreaming(Quad* p, Quad v) {
  __stcs(reinterpret_cast<uint4*>(p), make_uint4(v.words[0], v.words[1], v.words[2], v.words[3]));
}
// Through the first-level cache: the neighbour will want the same line, or this thread the same Quad again.
FPL_DEVICE Quad loadCached(const Quad* p) {
  const uint4 v = *reinterpret_cast<const uint4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}

// The low word of (high:low) >> bits, bits in [0, 32).
FPL_DEVICE uint32_t shiftedDown(uint32_t low, uint32_t high, uint32_t bits) { return __funnelshift_r(low, high, bits); }

FPL_DEVICE float fusedMultiplyAdd(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FPL_DEVICE double fusedMultiplyAdd(double a, double b, double c) { return __fma_rn(a, b, c); }
// Rounded on their own, whatever the compiler would like to contract.
FPL_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
FPL_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }

// 2^x to 2 ULP; what is below the smallest normal number is 0.
FPL_DEVICE float exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x to 1 ULP, for x whose inverse is a normal number.
FPL_DEVICE float inverseFast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

FPL_DEVICE float halfToFloat(uint32_t bits) { return __half2float(__ushort_as_half(uint16_t(bits))); }
FPL_DEVICE uint32_t packHalves(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return uint32_t(__half_as_ushort(__high2half(pair))) << 16 | __half_as_ushort(__low2half(pair));
}
FPL_DEVICE uint32_t packBFloat16s(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return uint32_t(__bfloat16_as_ushort(__high2bfloat16(pair))) << 16 | __bfloat16_as_ushort(__low2bfloat16(pair));
}

#endif

// The minimax polynomial for 2^x on |x| <= 1/2, relative error 3.1e-9.
constexpr int kExp2Degree = 6;
FPL_DEVICE float exp2Coefficient(int k) {
  const float coefficients[kExp2Degree + 1] = {1.0f,           0.693147181f,   0.240226475f,   0.0555036206f,
                                               0.00961852789f, 0.00133902744f, 0.000153209924f};
  return coefficients[k];
}

// Adding this rounds to an integer in the low mantissa bits.
constexpr float kRounding = 12582912.0f;  // 1.5·2^23

// Elements of T in a Quad.
template <typename T>
constexpr int kPerQuad = int(sizeof(Quad) / sizeof(T));

FPL_DEVICE void unpack(const Quad& q, float* x, const float*) {
  for (int i = 0; i < 4; ++i) x[i] = floatOf(q.words[i]);
}
FPL_DEVICE void unpack(const Quad& q, float* x, const BFloat16*) {
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = floatOf(q.words[i] << 16);
    x[2 * i + 1] = floatOf(q.words[i] & 0xffff0000u);
  }
}
FPL_DEVICE void unpack(const Quad& q, float* x, const Float16*) {
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = halfToFloat(q.words[i] & 0xffffu);
    x[2 * i + 1] = halfToFloat(q.words[i] >> 16);
  }
}

FPL_DEVICE Quad pack(const float* x, const float*) {
  return {{bitsOf(x[0]), bitsOf(x[1]), bitsOf(x[2]), bitsOf(x[3])}};
}
FPL_DEVICE Quad pack(const float* x, const BFloat16*) {
  Quad q;
  for (int i = 0; i < 4; ++i) q.words[i] = packBFloat16s(x[2 * i], x[2 * i + 1]);
  return q;
}
FPL_DEVICE Quad pack(const float* x, const Float16*) {
  Quad q;
  for (int i = 0; i < 4; ++i) q.words[i] = packHalves(x[2 * i], x[2 * i + 1]);
  return q;
}

// The Quad that starts `off` bytes into `low` and ends in `high`.
FPL_DEVICE Quad between(const Quad& low, const Quad& high, uint32_t off) {
  const uint32_t *a = low.words, *b = high.words, bits = off % 4 * 8;
  switch (off / 4) {  // the same case for all threads of a row
    case 0:
      return {{shiftedDown(a[0], a[1], bits), shiftedDown(a[1], a[2], bits), shiftedDown(a[2], a[3], bits),
               shiftedDown(a[3], b[0], bits)}};
    case 1:
      return {{shiftedDown(a[1], a[2], bits), shiftedDown(a[2], a[3], bits), shiftedDown(a[3], b[0], bits),
               shiftedDown(b[0], b[1], bits)}};
    case 2:
      return {{shiftedDown(a[2], a[3], bits), shiftedDown(a[3], b[0], bits), shiftedDown(b[0], b[1], bits),
               shiftedDown(b[1], b[2], bits)}};
    default:
      return {{shiftedDown(a[3], b[0], bits), shiftedDown(b[0], b[1], bits), shiftedDown(b[1], b[2], bits),
               shiftedDown(b[2], b[3], bits)}};
  }
}

}  // namespace cuda
}  // namespace fpl
