// Stages 1 and 4 on one row, for one instruction set. Included once by each of isa_*.cc, inside its namespace and under
// its compiler target, after the definitions of the vector types:
//
//   F32              float vector of F32::kWidth lanes (a divisor of kLanes); its member v is a register
//   F64              double vector of half as many lanes
//   load(p)          F32 from F32::kWidth elements of float or Float16, unaligned, converted exactly; of BFloat16 too
//                    where one vector has all lanes
//   store(p, v)      F32 to either, rounded to nearest even
//   stream(p, v)     the same past the cache, p aligned to what is stored; drain() before anybody else reads it
//   set1, add, sub, mul
//   fma(a, b, c)     a·b + c, rounded once if F32::kFused, else twice
//   maxKeepNan(x, y), minKeepNan(x, y)   x if x is NaN
//   maxSkipNan(x, y)                     y if x is NaN
//   orBits(a, b), andBits(a, b), addBits(a, b), bitsUp<n>(v), bitsDown<n>(v)   on the lanes' 32 bits
//   loadDoubles(p)   F64 from half as many floats; storeDoubles(p, v)

constexpr int64_t kWidth = F32::kWidth;
constexpr int64_t kVectors = kLanes / kWidth;

#include "vectors.inl"

#include "exp.inl"

#include "row_state.inl"

#include "gradient.inl"

#include "product.inl"

#define FPL_KERNELS(name)                                                                       \
  {                                                                                             \
    name, {updateRow<float, false>, updateRow<Float16, false>, updateRow<BFloat16, false>},     \
        {updateRow<float, true>, updateRow<Float16, true>, updateRow<BFloat16, true>},          \
        {gradientRow<float, false>, gradientRow<Float16, false>, gradientRow<BFloat16, false>}, \
        {gradientRow<float, true>, gradientRow<Float16, true>, gradientRow<BFloat16, true>},    \
        {kTileRows, kTileColumns}, multiply, multiplyAdds,                                      \
  }
