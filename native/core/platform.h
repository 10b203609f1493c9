// The few words that let one source compile for the host and for a GPU.
#pragma once

#if defined(__CUDACC__)
#define FPL_HD __host__ __device__
#else
#define FPL_HD
#endif
