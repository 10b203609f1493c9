// The processes that MPI has started together, as the collectives of this package see them. MPI belongs to the process
// and can be started once, so there is one World a process, the only thing in the addon that is static and changes; lib
// lets only the main thread have it.
//
// One thread makes all calls of MPI, one after the other, in the order in which `enqueue` was called. Each operation
// begins with an all-gather of a header, in which the ranks tell what they are about to do. So they find out, and
// nobody waits for ever, when they are about to do different things, or when one of them has ended.
//
// What the ranks exchange, for programs in other languages that take part, in the byte order of the machine:
//
//   every operation   MPI_Iallgather of the header, struct { int32 kind, zero; int64 bytes; }
//   allGather         MPI_Iallgather of the bytes; where a rank receives more than 2^30 of them, MPI_Ibcast of each
//                     rank's in turn, in pieces of 2^30
//   allReduceSum      in rounds of a chunk for each rank, of max(4 MiB / size, 64 KiB) or of the `size`th part of what
//                     is left, rounded up to whole elements: MPI_Ialltoall, with zeros after the last element; each
//                     rank adds up what has come, in float64, in the order of ranks; MPI_Iallgather of the sums
//   close             the header again and again, until all ranks have sent that one; then MPI_Finalize
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "library.h"

namespace fpl {
namespace mpi {

enum class Kind : int32_t { kOpen, kBarrier, kAllGather, kSumFloat32, kSumFloat64, kClose };

struct Operation {
  Kind kind;
  const void* send = nullptr;  // kAllGather
  void* data = nullptr;        // what is received, or added up in place
  int64_t bytes = 0;           // of `send`, or of what is added up
  std::string path;            // kOpen: of the library
  int64_t longest = 0;         // kOpen: the most bytes of a message

  bool done = false;
  std::string error;  // empty, or a code of lib/errors.ts, ": ", and the message
};

class World {
 public:
  static World& ofProcess();

  // Throws nothing: an operation that cannot be begun is done at once, with an error.
  void enqueue(const std::shared_ptr<Operation>& operation);
  void wait(const Operation& operation);
  // Waits until all that was enqueued has run.
  void drain();

  bool isOpen() const { return open_; }
  int rank() const { return rank_; }
  int size() const { return size_; }

  // Ends all ranks, or does nothing when MPI is not open; may be called on any thread.
  void abort(int code);
  // To be called when the process is about to exit with that code. It then ends all ranks when the code is not 0, and
  // otherwise waits until all have come to their ends.
  void setExitCode(int code) { exitCode_ = code; }

 private:
  struct Header {
    Kind kind;
    int32_t zero;
    int64_t bytes;
  };

  World() = default;
  void work();
  void run(Operation& operation);
  void start(const Operation& operation);
  void agree(const Operation& operation);
  void exchange(const Operation& operation);
  void finish(bool mayBeLong);
  void park();
  void gather(const Operation& operation);
  template <class T>
  void sum(T* data, int64_t count);
  void close(const Operation& operation);
  std::string described(int rank) const;
  static void atExit();

  std::mutex mutex_;
  std::condition_variable wake_, changed_;
  std::deque<std::shared_ptr<Operation>> waiting_;
  bool isRunning_ = false;  // an operation that may be inside MPI
  bool hasThread_ = false;
  std::atomic<bool> open_{false}, aborting_{false};
  std::atomic<int> exitCode_{0};

  // The thread's own; the first two are read by others once it is open.
  int rank_ = 0, size_ = 1;
  std::unique_ptr<Library> library_;
  int64_t longest_ = 0;
  std::vector<Header> headers_;
  std::vector<double> arrived_, padded_, sums_;
};

}  // namespace mpi
}  // namespace fpl
