// Turns the arguments of the addon's `run` into a Job. Knows their order and nothing else: everything was checked by
// lib, and lib/backends/native.ts puts them in this order.
#pragma once

#include <napi.h>

#include "../core/job.h"

namespace fpl {

// Reads the arguments from the one numbered `first` on. The pointers in `job` are those of the caller's arrays.
void readJob(const Napi::CallbackInfo& info, size_t first, Job& job);

}  // namespace fpl
