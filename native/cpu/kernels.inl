// The kernels of one instruction set. Each isa_*.cc defines its vector types and then includes this file once, inside
// its namespace and under its compiler target. This page explains the terms; the files it includes use them.
//
//   row    |<-------- block: 64 tiles -------->|<-------- block -------->| ...     the logits of one token
//
//   block  | tile | tile | tile |        ...        | tile |                       4096 logits
//
//   tile   | x0 x1 ... x15 | x16 ... x31 | x32 ... x47 | x48 ... x63 |             64 logits
//   lane     0  1 ... 15     0  ... 15     0  ... 15     0  ... 15
//
//   lane   A lane is one of 16 sums that run side by side. With e = e^(x / T), lane l of a tile is the float32 sum
//          (e_l + e_16+l) + (e_32+l + e_48+l). Every instruction set has 16 lanes, in one vector of 16, two of 8 or
//          four of 4, so all that have a fused multiply-add give the same bits.
//   tile   A tile is as much as is summed in float32. Its 16 sums are added to 16 float64 sums, before rounding can
//          build up.
//   block  A block is what is summed in one unit. Its 16 float64 sums are added up in a fixed order.
//   span   A span is a run of whole tiles of a block. Most spans are the row's own memory. The tile with the label and
//          a last tile that the row does not fill are copied, so that the label and the filler can be hidden there.
//   unit   Sums of a row are measured in its unit, 2^exponent · e^(base / T), which is about the row's largest e. Its
//          base is 0 but for huge logits. See core/row_state.h.
//   peak   The largest e of a block is about 2^peak units. Only the by-products use it.
//   reach  The loop of the sums takes e from 2^-100 to 2^27 units. Such logits are in reach:
//
//            2^-100 units             1 unit      2^27 units
//          -------|----------------------|-------------|------->  e
//           clamped       in reach                     |  a larger unit
//
//          A block with a logit below, such as -inf, is summed again by the same loop with a few instructions more,
//          which clamp each logit, and so are the row's blocks after it. A block with a logit beyond reach, or with a
//          sum beyond 2^26 units, gets a larger unit, for itself and for the blocks after it.
//   step   Four vectors that are in step go through each instruction together, so that their latencies overlap.
//
// kernels.h and product.inl explain the terms of matrix products: panel and micro-tile.
//
// What an isa_*.cc defines before it includes this file:
//
//   F32              vector of F32::kWidth floats (a divisor of kLanes), whose bits also serve as 32-bit integers;
//                    its member v is a register
//   F64              vector of half as many doubles
//   load(p)          F32 from F32::kWidth elements of any type of logits, unaligned, converted exactly
//   store(p, v)      F32 to float or Float16, rounded to nearest even
//   storeUpper(p, v) the upper 16 bits of each lane to BFloat16
//   stream(p, v), streamUpper(p, v)
//                    the same past the cache, p aligned to what is stored; drain() before anybody else reads it.
//                    Where there is no such store, F32::kStreams is false
//   set1, add, sub, mul, div
//   fma(a, b, c)     a·b + c, rounded once if F32::kFused, else twice
//   maxKeepNan(x, y), minKeepNan(x, y)   x if x is NaN
//   maxSkipNan(x, y)                     y if x is NaN
//   orBits(a, b), andBits(a, b), addBits(a, b), bitsUp<n>(v), bitsDown<n>(v)   on the lanes' 32 bits
//   interleaveLow(a, b)   a0 b0 a1 b1 … of the lower halves of the lanes; interleaveHigh(a, b), of the upper halves
//   Steps(powers), .at(n)   F32::kSteps floats, 8 or 1; the one at n % kSteps of each lane's bits
//   loadDoubles(p)   F64 from half as many floats; storeDoubles(p, v), set1Double, addDouble, mulDouble
//   F32::kMicroRows, F32::kMicroVectors   the micro-tile of products

constexpr int64_t kWidth = F32::kWidth;
constexpr int64_t kVectors = kLanes / kWidth;  // that hold all lanes

// Loading and storing logits, and which lanes a vector has.
#include "vectors.inl"

// e^(x / T): for sums, times a factor, and with its logarithm.
#include "exp.inl"

// Stage 1: updateRow, sumOfLogits and weightedSumOfLogits.
#include "row_state.inl"

// Stage 4: gradientRow, fullGradientRow and addMultiple.
#include "gradient.inl"

// Soft-capped logits: capRow and multiplyRow.
#include "softcap.inl"

// The output layer: packAlong and packAcross, and multiply.
#include "pack.inl"
#include "product.inl"

// A kernel for each type of logits; one for each type of logits and of their gradient.
#define FPL_BY_TYPE(kernel, ...) \
  { kernel<float __VA_ARGS__>, kernel<Float16 __VA_ARGS__>, kernel<BFloat16 __VA_ARGS__> }
#define FPL_BY_TYPES(kernel, stream)                                              \
  {                                                                               \
    FPL_BY_TYPE(kernel, , float, stream), FPL_BY_TYPE(kernel, , Float16, stream), \
        FPL_BY_TYPE(kernel, , BFloat16, stream),                                  \
  }

#define FPL_KERNELS(name)                                                                                              \
  {                                                                                                                    \
    name, FPL_BY_TYPE(updateRow, , false), FPL_BY_TYPE(updateRow, , true), FPL_BY_TYPE(sumOfLogits),                   \
        FPL_BY_TYPE(weightedSumOfLogits), FPL_BY_TYPES(gradientRow, false), FPL_BY_TYPES(gradientRow, F32::kStreams),  \
        FPL_BY_TYPES(fullGradientRow, false), FPL_BY_TYPES(fullGradientRow, F32::kStreams), streamZeros,               \
        FPL_BY_TYPE(addMultiple), FPL_BY_TYPE(capRow, , false), FPL_BY_TYPE(capRow, , true), FPL_BY_TYPE(multiplyRow), \
        {kMicroRows, kMicroColumns}, multiply, FPL_BY_TYPE(packAlong), FPL_BY_TYPE(packAcross), multiplyAdds, nullptr, \
  }
