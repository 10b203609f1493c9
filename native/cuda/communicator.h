// A rank of a group of processes with a GPU each, which NCCL connects.
#pragma once

#include <atomic>
#include <mutex>
#include <string>

#include "nccl.h"

namespace fpl {
namespace cuda {

// Its methods are called on its device. Operations are enqueued on a stream, and throw Error when they cannot be; once
// something has failed, on this rank or on another, every operation throws. The first one waits for the other ranks, as
// `wait` does.
class Communicator {
 public:
  // Waits until all ranks have come, for no more than so many seconds, as `wait` does.
  Communicator(int32_t device, int32_t rank, int32_t size, const nccl::UniqueId& id, double seconds,
               const std::atomic<bool>& cancelled);
  // Aborts, unless it has been closed.
  ~Communicator();
  Communicator(const Communicator&) = delete;

  const int32_t device;

  void allGather(const void* send, void* receive, size_t bytes, Stream stream, const std::atomic<bool>& cancelled);
  void allReduceSum(void* data, size_t count, nccl::Type type, Stream stream, const std::atomic<bool>& cancelled);
  void broadcast(void* data, size_t bytes, int32_t root, Stream stream, const std::atomic<bool>& cancelled);

  // Whether the work of a stream is done. Where another rank has died it never would be: then this aborts, and throws.
  bool isDone(Stream stream);
  // Waits for the work of a stream. Where another rank has died, or does not come in time, and where `cancelled`
  // becomes true, this aborts, and throws.
  void wait(Stream stream, const std::atomic<bool>& cancelled);
  // Throws where nothing can be enqueued any more.
  void requireUsable();
  // Ends all operations that wait for other ranks, whose results are then garbage. May be called on any thread.
  void abort(const std::string& reason = "it has been aborted");
  // Waits for all operations, and for the ranks on this machine to close theirs.
  void close();

 private:
  template <typename Operation>
  void enqueue(const char* doing, const std::atomic<bool>& cancelled, const Operation& operation);
  // Waits until `isDone()`. Where the seconds are over, or `cancelled` becomes true, it aborts, and throws.
  template <typename IsDone>
  void until(const IsDone& isDone, const char* missing, const std::atomic<bool>& cancelled);
  // Whether an operation is in progress no more; `result` is then what has become of it.
  bool isSettled(nccl::Result& result);
  void requireComm() const;
  // Aborts, and throws, where NCCL has found that something has failed.
  void requireSound();
  void abortBecause(const std::string& reason);

  const nccl::Functions& functions_;
  const double seconds_;
  std::mutex operations_;  // one begins when the one before is in progress no more
  std::mutex mutex_;       // of what follows; nobody waits for other ranks with it
  nccl::Comm* comm_ = nullptr;
  std::string failure_;
};

}  // namespace cuda
}  // namespace fpl
