// FPL_ASSERT states what native code takes for granted, of its input and of itself. The sanitizers' builds define
// FPL_DEBUG and check it; in all other builds it is no code.
#pragma once

#if defined(FPL_DEBUG)
#include <cstdio>
#include <cstdlib>

#define FPL_ASSERT(condition)                                                       \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      abort();                                                                      \
    }                                                                               \
  } while (false)
#else
#define FPL_ASSERT(condition) \
  do {                        \
  } while (false)
#endif
