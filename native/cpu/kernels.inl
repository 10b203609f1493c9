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
//   reach  The fast loop of the sums works for e from 2^-100 to 2^27 units. Such logits are in reach:
//
//            2^-100 units             1 unit      2^27 units
//          -------|----------------------|-------------|------->  e
//           slow  |        fast: in reach              |  slow, and a larger unit
//
//          A block with a logit out of reach, such as -inf, is summed again by the slow loop, which clamps each logit.
//          A block with a sum beyond 2^26 units then gets a larger unit, for itself and for the blocks after it.
//   step   Four vectors that are in step go through each instruction together, so that their latencies overlap.
//
// kernels.h and product.inl explain the terms of matrix products: panel and micro-tile.
//
// What an isa_*.cc defines before it includes this file:
//
//   F32              vector of F32::kWidth floats (a divisor of kLanes), whose bits also serve as 32-bit integers;
//                    its member v is a register
//   F64              vector of half as many doubles
//   load(p)          F32 from F32::kWidth elements of float or Float16, unaligned, converted exactly; where one
//                    vector has all lanes, of BFloat16, too
//   store(p, v)      F32 to float or Float16, rounded to nearest even
//   stream(p, v)     the same past the cache, p aligned to what is stored; drain() before anybody else reads it.
//                    Where there is no such store, F32::kStreams is false
//   set1, add, sub, mul, div
//   fma(a, b, c)     a·b + c, rounded once if F32::kFused, else twice
//   maxKeepNan(x, y), minKeepNan(x, y)   x if x is NaN
//   maxSkipNan(x, y)                     y if x is NaN
//   orBits(a, b), andBits(a, b), addBits(a, b), bitsUp<n>(v), bitsDown<n>(v)   on the lanes' 32 bits
//   loadDoubles(p)   F64 from half as many floats; storeDoubles(p, v)
//   F32::kMicroRows, F32::kMicroVectors   the micro-tile of products

constexpr int64_t kWidth = F32::kWidth;
constexpr int64_t kVectors = kLanes / kWidth;  // that hold all lanes

// Loading and storing logits, and which lanes a vector has.
#include "vectors.inl"

// e^(x / T): for any logit, for those in reach, and times a factor.
#include "exp.inl"

// Stage 1: updateRow and sumOfLogits.
#include "row_state.inl"

// Stage 4: gradientRow and fullGradientRow.
#include "gradient.inl"

// Soft-capped logits: capRow and multiplyRow.
#include "softcap.inl"

// The output layer: multiply.
#include "product.inl"

#define FPL_KERNELS(name)                                                                                         \
  {                                                                                                               \
    name, {updateRow<float, false>, updateRow<Float16, false>, updateRow<BFloat16, false>},                       \
        {updateRow<float, true>, updateRow<Float16, true>, updateRow<BFloat16, true>},                            \
        {sumOfLogits<float>, sumOfLogits<Float16>, sumOfLogits<BFloat16>},                                        \
        {gradientRow<float, false>, gradientRow<Float16, false>, gradientRow<BFloat16, false>},                   \
        {gradientRow<float, F32::kStreams>, gradientRow<Float16, F32::kStreams>,                                  \
         gradientRow<BFloat16, F32::kStreams>},                                                                   \
        {fullGradientRow<float, false>, fullGradientRow<Float16, false>, fullGradientRow<BFloat16, false>},       \
        {fullGradientRow<float, F32::kStreams>, fullGradientRow<Float16, F32::kStreams>,                          \
         fullGradientRow<BFloat16, F32::kStreams>},                                                               \
        {capRow<float, false>, capRow<Float16, false>, capRow<BFloat16, false>},                                  \
        {capRow<float, true>, capRow<Float16, true>, capRow<BFloat16, true>},                                     \
        {multiplyRow<float>, multiplyRow<Float16>, multiplyRow<BFloat16>}, {kMicroRows, kMicroColumns}, multiply, \
        multiplyAdds,                                                                                             \
  }
