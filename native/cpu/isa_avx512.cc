// The kernels for AVX-512 (F, BW, DQ, VL). As in isa_avx2.cc, only this file's own code is compiled for them.
#include "intrinsics.h"
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

namespace fpl {
namespace avx512 {
namespace {

// clang-format off
#include "avx512.inl"
#include "kernels.inl"
// clang-format on

}  // namespace

const Kernels kKernels = FPL_KERNELS("avx512");

}  // namespace avx512
}  // namespace fpl

#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif
