// What native code takes for granted of what it is handed, and of itself: checked where FPL_DEBUG is defined, as the
// sanitizers' builds define it, and no code elsewhere.
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
