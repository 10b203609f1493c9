// Products of bfloat16 factors for AVX512-BF16. All else of this set is AVX-512's.
#include "intrinsics.h"
#include "kernels.h"

#if defined(FPL_AVX512BF16)
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "../core/float_environment.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

namespace fpl {
namespace avx512bf16 {
namespace {

// clang-format off
#include "avx512.inl"
constexpr int64_t kWidth = F32::kWidth;
constexpr int64_t kVectors = kLanes / kWidth;
#include "vectors.inl"
#include "pack.inl"
#include "product.inl"
#include "pairs.inl"
// clang-format on

}  // namespace

const PairKernels kPairs = {packAlong<Pair>, packAcross<Pair>, leastOf, multiplyPairs, addsOddFirst};

}  // namespace avx512bf16
}  // namespace fpl

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif
