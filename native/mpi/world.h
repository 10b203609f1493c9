// The processes that MPI has started together, as the collectives of this package see them. MPI belongs to the process
// and can be started once, so there is one World a process, whatever worker threads load: the only thing in the addon
// that is static and changes. One environment at a time has it.
//
// One thread makes all calls of MPI, one after the other, in the order in which `enqueue` was called. Each operation
// begins with an all-gather of a header, in which the ranks tell what they are about to do. So they find out, and
// nobody waits for ever, when they are about to do different things, or when one of them has ended.
//
// What the ranks exchange, for programs in other languages that take part (kind and bytes make a header; all are in the
// byte order of the machine):
//
//   every operation       MPI_Iallgather of struct { int32 kind, zero; int64 bytes; }
//   allGather             MPI_Allgather of the bytes; where a rank receives more than 2^30 of them, MPI_Bcast of
//                         each rank's in turn, in pieces of 2^30
//   allReduceSum          until all are added up: of the elements that are left, MPI_Alltoall of `chunkOf` for each
//   rank,
//                         zeros after the last; each rank adds up what has come, in float64, in the order of ranks, and
//                         MPI_Allgather of the sums
//   close                 the header again and again, until all ranks have sent that one; then MPI_Finalize
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

  // Gives it to an environment, or says why it cannot.
  bool take(const void* environment, std::string& problem);
  // Waits until the environment's operations have run: the other ranks may be in the middle of them.
  void giveBack(const void* environment);

  void enqueue(std::shared_ptr<Operation> operation);
  void wait(const Operation& operation);

  bool isOpen() const { return open_; }
  int rank() const { return rank_; }
  int size() const { return size_; }

  // Ends all ranks; may be called on any thread. Returns where MPI does.
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
  const void* environment_ = nullptr;
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
