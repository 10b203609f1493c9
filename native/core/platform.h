// The few macros that let one source compile for the host and for a GPU.
#pragma once

#if defined(__CUDACC__)
#define FPL_HD __host__ __device__
#else
#define FPL_HD
#endif

// A function that is seldom called and is not inlined.
#if defined(__CUDACC__)
#define FPL_SELDOM __host__ __device__ __noinline__
#elif defined(_MSC_VER) && !defined(__clang__)
#define FPL_SELDOM __declspec(noinline)
#else
#define FPL_SELDOM __attribute__((noinline))
#endif

// A function that is inlined into the loops that call it, however large the compiler finds it.
#if defined(_MSC_VER) && !defined(__clang__)
#define FPL_IN_LOOPS __forceinline
#else
#define FPL_IN_LOOPS inline __attribute__((always_inline))
#endif
