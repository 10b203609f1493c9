// What the addon sees of the CUDA backend: a table of C functions in a library of its own, which the addon opens when
// somebody asks for CUDA. Addon and library may come from different compilers: nothing but plain data crosses.
#pragma once

#include <cstdint>

#include "../core/job.h"

namespace fpl {
namespace cuda {

// Changes with anything in this file or in core/job.h.
constexpr int32_t kApiVersion = 9;
constexpr const char* kApiSymbol = "fusedPreferenceLossCuda";

// Whose failure it is: that of the CUDA runtime and of GPUs, or that of NCCL and of other ranks.
enum class Origin : int32_t { kCuda = 0, kNccl = 1 };

// Why a call failed.
struct Problem {
  char message[512];
  Origin origin;
};

struct DeviceInfo {
  char name[256];
  int32_t major, minor;  // compute capability
  int32_t multiprocessors;
  int64_t memory;   // bytes
  int64_t l2Cache;  // bytes
};

// What an address is of.
enum class MemoryKind : int32_t {
  kHost = 0,      // of nothing a GPU can follow
  kOnDevice = 1,  // of one device
  kShared = 2,    // of memory that every device can follow: pinned, or managed
};

enum class CopyKind : int32_t { kToDevice = 1, kToHost = 2, kOnDevice = 3 };

// What one environment keeps between calls, and a job that is ready to be enqueued again and again.
struct Context;
struct Prepared;
// A rank of processes that NCCL connects.
class Communicator;

// Streams, events and graphs are the CUDA runtime's own handles. Functions that can fail return false and say why.
struct Api {
  int32_t version;

  // How many GPUs there are, of which this build can use at least one.
  bool (*deviceCount)(int32_t* count, Problem*);
  bool (*deviceInfo)(int32_t device, DeviceInfo*, Problem*);
  // Whether cuBLASLt can be opened, which jobs with a head need.
  bool (*cublasLt)(Problem*);

  Context* (*createContext)();
  void (*destroyContext)(Context*);
  // Runs a job and waits for it. `finished` is false when it was cancelled.
  bool (*run)(Context*, Job*, bool* finished, Problem*);
  // The same in two parts, for jobs in which ranks wait for each other: `ready` takes what memory the job needs, and
  // does nothing that waits. `job` and its arrays must stay where they are until `destroyPrepared`.
  bool (*ready)(Context*, Job*, Prepared**, Problem*);
  bool (*runReady)(Prepared*, bool* finished, Problem*);
  // `job` and its arrays must stay where they are until `destroyPrepared`.
  bool (*prepare)(Job*, Prepared**, Problem*);
  // Nothing is copied to the host before `read`, which waits for the stream.
  bool (*enqueue)(Prepared*, void* stream, Problem*);
  bool (*read)(Prepared*, void* stream, Problem*);
  void (*destroyPrepared)(Prepared*);
  uint64_t (*workspaceBytes)(const Prepared*);  // of device memory
  // Where a result of the job lies on the device, by its array on the host; 0 where it is none.
  uint64_t (*resultAt)(const Prepared*, const void* host);

  bool (*allocate)(int32_t device, uint64_t bytes, uint64_t* address, Problem*);
  bool (*release)(int32_t device, uint64_t address, Problem*);
  // Gives back to the system what is kept of a device and nobody uses. Waits for the device.
  bool (*trim)(Context*, int32_t device, Problem*);
  // What the first and the last of these bytes are of, and the device of the first.
  bool (*memoryAt)(uint64_t address, uint64_t bytes, MemoryKind* first, MemoryKind* last, int32_t* device, Problem*);
  // Waits for the copy.
  bool (*copy)(int32_t device, uint64_t to, uint64_t from, uint64_t bytes, CopyKind, void* stream, Problem*);
  // Does not.
  bool (*copyOnDevice)(int32_t device, uint64_t to, uint64_t from, uint64_t bytes, void* stream, Problem*);

  // Every byte; only enqueues it.
  bool (*fill)(int32_t device, uint64_t address, int32_t byte, uint64_t bytes, void* stream, Problem*);

  bool (*createStream)(int32_t device, void** stream, Problem*);
  bool (*destroyStream)(int32_t device, void* stream, Problem*);
  bool (*synchronize)(int32_t device, void* stream, Problem*);
  bool (*createEvent)(int32_t device, void** event, Problem*);
  bool (*destroyEvent)(int32_t device, void* event, Problem*);
  bool (*recordEvent)(int32_t device, void* event, void* stream, Problem*);
  // What is enqueued on the stream from now on waits for the event, as it was last recorded, on the device alone.
  bool (*waitForEvent)(int32_t device, void* stream, void* event, Problem*);
  // Waits for `end`.
  bool (*milliseconds)(int32_t device, void* start, void* end, double* milliseconds, Problem*);
  bool (*beginCapture)(int32_t device, void* stream, Problem*);
  bool (*endCapture)(int32_t device, void* stream, void** graph, Problem*);
  // Ends a capture that has failed, and what it has of a graph.
  void (*discardCapture)(int32_t device, void* stream);
  bool (*launchGraph)(int32_t device, void* graph, void* stream, Problem*);
  bool (*destroyGraph)(int32_t device, void* graph, Problem*);

  // Opens NCCL, and says which version it is: 22809 is 2.28.9.
  bool (*ncclVersion)(int32_t* version, Problem*);
  // The 128 bytes by which ranks find each other.
  bool (*ncclId)(void* id, Problem*);
  // Waits until all ranks have come, for no more than so many seconds, and until `cancelled`.
  bool (*createCommunicator)(int32_t device, int32_t rank, int32_t size, const void* id, double seconds,
                             const std::atomic<bool>* cancelled, Communicator**, Problem*);
  // A problem where nothing can be enqueued any more, as something has failed or it has been aborted.
  bool (*communicatorIsUsable)(Communicator*, Problem*);
  bool (*allGather)(Communicator*, uint64_t send, uint64_t receive, uint64_t bytes, void* stream, Problem*);
  // In place; `type` is NCCL's own.
  bool (*allReduceSum)(Communicator*, uint64_t data, uint64_t count, int32_t type, void* stream, Problem*);
  bool (*broadcast)(Communicator*, uint64_t data, uint64_t bytes, int32_t root, void* stream, Problem*);
  // Whether the work of a stream is done; a problem where it never will be, as another rank has died.
  bool (*communicatorIsDone)(Communicator*, void* stream, bool* done, Problem*);
  // Ends operations that wait for other ranks. May be called on any thread.
  void (*abortCommunicator)(Communicator*);
  // Waits for all operations, and for the ranks on this machine; not where it has been aborted.
  void (*destroyCommunicator)(Communicator*);
};

}  // namespace cuda
}  // namespace fpl
