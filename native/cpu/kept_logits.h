// Memory for the logits of an output layer that stage 1 leaves to stage 4, which then need not be multiplied again.
#pragma once

#include <memory>

#include "../core/job.h"
#include "kernels.h"

namespace fpl {

class KeptLogitsScratch {
 public:
  // Room for as many active rows as the job's budget has; for none where memory is short. Of a job that leaves stage 4
  // to another, or is that other one, as many as the caller's memory has room for.
  void giveTo(Job& job, const Kernels& kernels);
  // The same where a BLAS or tiles multiply: all rows then need memory, those that are not kept one chunk after the
  // other, of which tiles make a block of words at a time. A chunk takes more than the budget has where that is small.
  void giveChunksTo(Job& job, int64_t threads, bool onTiles);

 private:
  float* allocate(int64_t bytes);

  struct Free {
    void operator()(float* memory) const;
  };
  std::unique_ptr<float, Free> memory_;
};

}  // namespace fpl
