// A job on the GPU: where everything it needs lies in device memory, and what is enqueued for it.
//
// A plan is made once and can be enqueued many times: enqueueing allocates nothing and waits for nothing, so it can be
// captured in a graph.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launch.h"
#include "layout.h"
#include "matmul.h"
#include "pools.h"
#include "segment_states.h"
#include "stages.h"
#include "state_exchange.h"

namespace fpl {
namespace cuda {

class Staging;

// What calls on one device reuse.
struct Workspace {
  Workspace();
  ~Workspace();

  DeviceMemory device;
  PinnedMemory pinned;
  std::unique_ptr<CublasLt> cublasLt;  // once a job has needed it
  std::unique_ptr<Staging> staging;    // once a job has had logits on the host

  void reserve(size_t deviceBytes, size_t pinnedBytes);
};

class HeadPlan;

class Plan {
 public:
  // `job`'s host arrays must stay where they are as long as the plan lives.
  Plan(Job& job, Workspace& workspace);
  ~Plan();

  // Copies the host's inputs over.
  void upload(Stream stream);
  // All of a job whose tensors are on the device.
  void enqueue(Stream stream);
  // Sends the results on their way to the host.
  void download(Stream stream);
  // Takes the memory that a job whose tensors are on the host needs besides, before `run`: that takes none, since a
  // rank that has begun waits for all others, and taking memory may wait for whatever runs on any GPU.
  void reserve();
  // All of any job, tensors on the host included; waits for it. False when it was cancelled.
  bool run(Stream stream);
  // Waits for the stream, and notices where another rank does not come.
  void waitFor(Stream stream, const char* doing) const;
  // Writes the results to the host's arrays. The stream must have been waited for.
  void read();
  // Where a result lies on the device, by its array on the host; null for what is none.
  const void* resultAt(const void* host) const;

 private:
  // The active rows, as the host knows them; null where only the device does.
  const int32_t* hostTargets() const { return job_.labels.data ? nullptr : job_.tokens.targets; }
  Staging& staging();

  // Whether the job makes the states of segments, and whether it begins from them.
  bool makesSegments() const { return job_.policy.segments.areMade(); }
  bool hasSegments() const { return areGiven(job_.policy.segments); }
  // The ranks with which the job exchanges states and sums, or null.
  Communicator* communicator() const { return static_cast<Communicator*>(job_.exchange.communicator); }
  bool hasGradient() const { return job_.hasGradient || job_.hasHeadGradient; }
  void place(Layout& layout);
  void placeOrder(Layout& layout);
  void placeTokenLoss(Layout& layout);
  void placeSegments(Layout& layout);
  void placePartials(Layout& layout);
  void placeForward(Layout& layout, const Forward& from, Forward& to, bool keepStates);
  void enqueueTargets(Stream stream);
  void enqueueTokenWeights(Stream stream);
  void enqueueForward(const Forward& stage, const Rows& from, Stream stream);
  void enqueueSegments(const Forward& stage, const MadeStates& made, const Rows& from, Stream stream);
  // Stages 0 to 3. `waits`: the caller waits for the stream anyway, and it is not being captured.
  void enqueueValues(Stream stream, bool waits);
  VisitedRows writtenRows() const { return on_.gradient.skipInactive ? order_.activeOnes() : order_.all(); }
  void enqueueGradient(Stream stream);

  Job& job_;        // the host's
  Job on_;          // the same with pointers to device memory
  Tokens columns_;  // on_.tokens, whose targets are columns of the logits
  Workspace& workspace_;
  std::vector<int32_t> starts_, slots_;
  RowOrder order_;                      // of logits
  std::vector<int32_t> activeFirst_;    // that on the host; empty where only the device knows
  std::vector<int32_t> targetColumns_;  // on the host; empty where the logits have the whole vocabulary
  std::unique_ptr<SharedSegments> policySegments_, referenceSegments_;
  std::unique_ptr<StateExchange> exchange_;  // of a job that has one, and a forward
  LossStage losses_;
  std::vector<uint32_t> noneArrived_;  // zeros for its counters
  RowValues* values_ = nullptr;        // [R] of stage 4, or null
  float* labelLogits_ = nullptr;       // [R] where stages 1 and 4 of the policy's rows are one; or null
  float mostWeight_ = 1;               // of a class
  int32_t* invalid_ = nullptr;
  const double* givenWeights_ = nullptr;         // of tokens, where the device makes others of them
  DeviceMemory policyLogits_, referenceLogits_;  // of logits that are on the host
  DeviceMemory gradient_;                        // of their gradient, where it has another type

  std::unique_ptr<HeadPlan> head_;  // of a job that has one

  std::vector<Layout::Copy> inputs_, results_;
  size_t inputBytes_ = 0, resultsBegin_ = 0, resultsEnd_ = 0;
};

}  // namespace cuda
}  // namespace fpl
