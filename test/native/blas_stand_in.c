// A small CBLAS, built in several ways by test/blas.ts: INTEGER is the type of sizes, NAME(x) what a build makes of the
// names. It adds to the file that STAND_IN_LOG names what it is asked for.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef INTEGER
#define INTEGER int32_t
#endif
#ifndef NAME
#define NAME(x) x
#endif

static void tell(const char* what, int number) {
  const char* path = getenv("STAND_IN_LOG");
  FILE* file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  fprintf(file, "%s %d\n", what, number);
  fclose(file);
}

#ifndef WITHOUT_DOT
float NAME(cblas_sdot)(INTEGER n, const float* x, INTEGER stepX, const float* y, INTEGER stepY) {
  float sum = 0;
  for (INTEGER i = 0; i < n; ++i) sum += x[i * stepX] * y[i * stepY];
#ifdef WRONG_DOT
  sum += 1;
#endif
  return sum;
}
#endif

static int threads = 3;
#ifdef THREADS
void NAME(openblas_set_num_threads)(int count) { tell("threads", threads = count); }
int NAME(openblas_get_num_threads)(void) { return threads; }
#endif
#ifdef MKL_THREADS
int MKL_Set_Num_Threads_Local(int count) {
  const int before = threads == 3 ? 0 : threads;
  tell("threads", threads = count == 0 ? 3 : count);
  return before;
}
#endif
#ifdef BLIS_THREADS
void bli_thread_set_num_threads(int64_t count) { tell("threads", threads = (int)count); }
int64_t bli_thread_get_num_threads(void) { return threads; }
#endif

static float fromFloat32(float x) { return x; }
static float fromBFloat16(uint16_t bits) {
  union {
    uint32_t bits;
    float value;
  } wide = {(uint32_t)bits << 16};
  return wide.value;
}

#define PRODUCT(Name, Element, from)                                                                             \
  void Name(int layout, int orderOfA, int orderOfB, INTEGER rows, INTEGER columns, INTEGER depth, float alpha,   \
            const Element* a, INTEGER stepA, const Element* b, INTEGER stepB, float beta, float* c, INTEGER step) { \
    tell(#Element, threads);                                                                                     \
    if (layout != 101) abort();                                                                                  \
    for (INTEGER i = 0; i < rows; ++i) {                                                                         \
      for (INTEGER j = 0; j < columns; ++j) {                                                                    \
        double sum = 0;                                                                                          \
        for (INTEGER k = 0; k < depth; ++k) {                                                                    \
          const Element x = orderOfA == 112 ? a[k * (int64_t)stepA + i] : a[i * (int64_t)stepA + k];             \
          const Element y = ORDER_OF_B == 112 ? b[j * (int64_t)stepB + k] : b[k * (int64_t)stepB + j];           \
          sum += (double)from(x) * from(y);                                                                      \
        }                                                                                                        \
        float* const out = c + i * (int64_t)step + j;                                                            \
        *out = (float)(alpha * sum + (beta == 0 ? 0 : BETA * *out));                                             \
      }                                                                                                          \
    }                                                                                                            \
    OUTSIDE;                                                                                                     \
  }

// Mistakes that a product must be seen to make.
#ifdef WITHOUT_BETA
#define BETA 0
#else
#define BETA beta
#endif
#ifdef WITHOUT_ORDER
#define ORDER_OF_B 111
#else
#define ORDER_OF_B orderOfB
#endif
#ifdef WRITES_OUTSIDE
#define OUTSIDE c[columns] = 0
#else
#define OUTSIDE (void)orderOfB
#endif

#ifndef WITHOUT_PRODUCT
PRODUCT(NAME(cblas_sgemm), float, fromFloat32)
#endif
#ifdef BFLOAT16
PRODUCT(NAME(cblas_sbgemm), uint16_t, fromBFloat16)
#endif
#ifdef WRONG_BFLOAT16
PRODUCT(NAME(cblas_gemm_bf16bf16f32), uint16_t, fromFloat32)
#endif
