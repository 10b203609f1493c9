// Turns what lib has written down of a job into a Job. Nothing is checked here: lib did, and it keeps to the order of
// job_fields.h.
#pragma once

#include <string>

#include "../core/job.h"
#include "lent_memory.h"
#include "napi.h"

namespace fpl {

// The memory that lib writes a job to. It belongs to the addon and not to its callers, as several copies of the package
// may share one addon.
class JobMemory {
 public:
  explicit JobMemory(Napi::Env env);

  // A value for each field.
  Napi::Value values() const { return values_.Value(); }
  // A slot for each field. lib puts small arrays there, which then need not be passed.
  Napi::Value arena() const { return arena_.Value(); }

  // Reads the job. Arrays that are in no slot are the arguments from the one numbered `first` on. `lent`, where there
  // is one, holds the memory of those that the caller has access to meanwhile.
  void read(const Napi::CallbackInfo& info, size_t first, Job& job, LentMemory* lent = nullptr) const;

 private:
  Napi::ObjectReference values_, arena_;  // keep them alive
  double* valueData_;
  char* arenaData_;
};

// All that lib has to agree on, in words: a line for each field, and one for each number that both sides know.
std::string jobFields();

}  // namespace fpl
