// The shape of a job that lib lets through, as asserts. Without FPL_DEBUG it is no code.
#pragma once

#include "../core/job.h"

namespace fpl {

#if defined(FPL_DEBUG)
void checkJob(const Job& job);
#else
inline void checkJob(const Job&) {}
#endif

}  // namespace fpl
