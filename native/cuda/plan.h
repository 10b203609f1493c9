// A job on the GPU: where everything it needs lies in device memory, and what is enqueued for it.
//
// A plan is made once and can be enqueued many times: enqueueing allocates nothing and waits for nothing, so it can be
// captured in a graph.
#pragma once

#include <memory>
#include <vector>

#include "launch.h"
#include "stages.h"

namespace fpl {
namespace cuda {

// Memory that is given back when it goes out of scope.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(size_t bytes, const char* purpose);
  DeviceMemory(DeviceMemory&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr; }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory();
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

// Host memory that the GPU can copy from and to by itself.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(size_t bytes);
  PinnedMemory(PinnedMemory&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr; }
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;
  ~PinnedMemory();
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

// What calls on one device reuse.
struct Workspace {
  DeviceMemory device;
  PinnedMemory pinned;

  void reserve(size_t deviceBytes, size_t pinnedBytes);
};

class Plan {
 public:
  // `job`'s host arrays must stay where they are as long as the plan lives.
  Plan(Job& job, Workspace& workspace);

  // Copies the host's inputs over.
  void upload(Stream stream);
  // All of a job whose logits are on the device; the results are on their way to the host after it.
  void enqueue(Stream stream);
  // All of any job, logits on the host included; waits for it. False when it was cancelled.
  bool run(Stream stream);
  // Writes the results to the host's arrays. The stream must have been waited for.
  void read();

 private:
  class Layout;
  void place(Layout& layout);
  void placeForward(Layout& layout, const Forward& from, Forward& to, bool keepStates);
  void enqueueTargets(Stream stream);
  void enqueueForward(const Forward& stage, const Rows& from, Stream stream);
  void enqueueValues(Stream stream);  // stages 0 to 3
  void enqueueGradient(Stream stream);
  void download(Stream stream);

  Job& job_;  // the host's
  Job on_;    // the same with pointers to device memory
  Workspace& workspace_;
  PairIndex index_;
  std::vector<int32_t> starts_, slots_;
  SweepScratch scratch_;
  int32_t* invalid_ = nullptr;
  DeviceMemory policyLogits_, referenceLogits_;  // of logits that are on the host

  struct Copy {
    void* host;
    size_t offset, bytes;
  };
  std::vector<Copy> inputs_, results_;
  size_t inputBytes_ = 0, resultsBegin_ = 0, resultsEnd_ = 0;
};

}  // namespace cuda
}  // namespace fpl
