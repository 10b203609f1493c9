// Turns the arguments of the addon's `run` into a Job. Knows their order and nothing else: everything was checked by
// lib, and lib/backends/native.ts puts them in this order.
#pragma once

#include <napi.h>

#include "../core/job.h"

namespace fpl {

// Changes with the arguments and their order; lib refuses a binary with another.
constexpr int kJobVersion = 4;

// Bytes of one array's slot in the arena.
constexpr size_t kArenaSlot = 64;

// Reads the arguments from the one numbered `first` on. The pointers in `job` are those of the caller's arrays; an
// array given as a number, its length, is in its slot of `arena`; one given as a bigint is an address on the GPU.
void readJob(const Napi::CallbackInfo& info, size_t first, char* arena, Job& job);

}  // namespace fpl
