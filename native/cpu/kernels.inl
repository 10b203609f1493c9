// The kernels of one instruction set. Each isa_*.cc defines its vector types and then includes this file once, inside
// its namespace and under its compiler target. Start here: this page has the terms, and the files that use them are
// below.
//
//   row    |<-------- block: 64 tiles -------->|<-------- block -------->|<- ... ->|     the logits of one token
//
//   block  | tile | tile | tile |        ...        | tile |                             4096 logits
//
//   tile   | x0 x1 ... x15 | x16 ... x31 | x32 ... x47 | x48 ... x63 |                   64 logits
//   lane     0  1 ... 15     0  ... 15     0  ... 15     0  ... 15
//
//   lane   One of 16 sums that run side by side. Lane l of a tile is (x_l + x_16+l) + (x_32+l + x_48+l). There are 16
//   on
//          every instruction set, in one vector of 16, two of 8 or four of 4, so that the bits are the same on all.
//   tile   What is added up in float32. The 16 sums of a tile go to 16 float64 sums before rounding can build up.
//   block  What lies between two looks at the unit. The 16 float64 sums of a block become one, in a fixed order.
//   span   A run of whole tiles of a block. Most spans are the row's own memory. The tile with the label, and a last
//          tile that the row does not fill, are copied, so that what does not count can be hidden in the copy.
//   unit   What a row's sums are measured in: 2^exponent · e^(base / T), about as large as the row's largest e^(x / T).
//          Its base is 0 for all but huge logits. See core/row_state.h.
//   peak   The block's largest e^(x / T) is about 2^peak units. Only the by-products need it.
//   reach  The powers of two on either side of the unit with which the fast loop of the sums works:
//
//            2^-100 units             1 unit      2^27 units
//          -------|----------------------|-------------|------->  e^(x / T)
//           slow  |        fast: in reach              |  slow; beyond 2^60 units a block gets a larger unit
//
//          A block with a logit out of reach, such as -inf, is added up again by the slow loop, which clamps each
//          logit.
//   step   Four vectors that go through the same instructions together, so that their latencies overlap.
//
// For products of matrices, a tile is a part of the result and a panel is a packed part of a factor: see kernels.h.
//
// What an isa_*.cc defines before it includes this file:
//
//   F32              vector of F32::kWidth floats (a divisor of kLanes), or of as many 32-bit integers: its bits; its
//                    member v is a register
//   F64              vector of half as many doubles
//   load(p)          F32 from F32::kWidth elements of float or Float16, unaligned, converted exactly; of BFloat16 too
//                    where one vector has all lanes
//   store(p, v)      F32 to float or Float16, rounded to nearest even
//   stream(p, v)     the same past the cache, p aligned to what is stored; drain() before anybody else reads it
//   set1, add, sub, mul, div
//   fma(a, b, c)     a·b + c, rounded once if F32::kFused, else twice
//   maxKeepNan(x, y), minKeepNan(x, y)   x if x is NaN
//   maxSkipNan(x, y)                     y if x is NaN
//   orBits(a, b), andBits(a, b), addBits(a, b), bitsUp<n>(v), bitsDown<n>(v)   on the lanes' 32 bits
//   loadDoubles(p)   F64 from half as many floats; storeDoubles(p, v)
//   F32::kTileRows, F32::kTileVectors   the tile of products that fits the registers

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

#define FPL_KERNELS(name)                                                                                       \
  {                                                                                                             \
    name, {updateRow<float, false>, updateRow<Float16, false>, updateRow<BFloat16, false>},                     \
        {updateRow<float, true>, updateRow<Float16, true>, updateRow<BFloat16, true>},                          \
        {sumOfLogits<float>, sumOfLogits<Float16>, sumOfLogits<BFloat16>},                                      \
        {gradientRow<float, false>, gradientRow<Float16, false>, gradientRow<BFloat16, false>},                 \
        {gradientRow<float, true>, gradientRow<Float16, true>, gradientRow<BFloat16, true>},                    \
        {fullGradientRow<float, false>, fullGradientRow<Float16, false>, fullGradientRow<BFloat16, false>},     \
        {fullGradientRow<float, true>, fullGradientRow<Float16, true>, fullGradientRow<BFloat16, true>},        \
        {capRow<float, false>, capRow<Float16, false>, capRow<BFloat16, false>},                                \
        {capRow<float, true>, capRow<Float16, true>, capRow<BFloat16, true>},                                   \
        {multiplyRow<float>, multiplyRow<Float16>, multiplyRow<BFloat16>}, {kTileRows, kTileColumns}, multiply, \
        multiplyAdds,                                                                                           \
  }
