// Asserts that a job has the shape of those that lib lets through. Without FPL_DEBUG it is no code.
#pragma once

#include "../core/job.h"

namespace fpl {

#if defined(FPL_DEBUG)
void checkJob(const Job& job);
#else
inline void checkJob(const Job&) {}
#endif

}  // namespace fpl
