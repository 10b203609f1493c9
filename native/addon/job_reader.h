// Turns the arguments of the addon's `run` into a Job. Knows their order and nothing else: everything was checked by
// lib, and lib/backends/cpu/index.ts puts them in this order.
#pragma once

#include "../core/job.h"
#include "lent_memory.h"
#include "napi.h"

namespace fpl {

// Changes with the arguments and their order; lib refuses a binary with another.
constexpr int kJobVersion = 6;

// Bytes of one array's slot in the arena, and the most arrays of a job.
constexpr size_t kArenaSlot = 64;
constexpr size_t kMostArrays = 45;

// Reads the arguments from the one numbered `first` on. The pointers in `job` are those of the caller's arrays, or of
// the slots of `arena` where small ones have been put. `lent`, where there is one, holds the memory of those arrays
// that the caller has access to meanwhile.
void readJob(const Napi::CallbackInfo& info, size_t first, char* arena, Job& job, LentMemory* lent = nullptr);

}  // namespace fpl
