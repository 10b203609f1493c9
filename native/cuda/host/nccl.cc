// The part of NCCL that is used, on the host, for tests: ranks are processes that share memory. They sum as around a
// ring, from another rank on in each stretch of the elements: as NCCL's sums, these are the same on all ranks, and not
// in their order. It is as strict as it can be. Operations wait in their streams until every rank has come, for as long
// as that takes; ranks that do different things never get on; a rank that has died is an error of all others, which
// goes on waiting until they abort; and nothing may use a communicator that has been destroyed.
//
// The environment can make it fail:
//   FPL_HOST_NCCL_VERSION  its version, as NCCL writes it; default 22809
//   FPL_HOST_FAULT=nccl    every operation is an internal error
//   FPL_HOST_NCCL_CONNECTS 1: the first operation of a rank is in progress until all ranks have begun theirs
//   FPL_HOST_NCCL_LOG      a file that gets a line for each operation that is enqueued: its kind, and what the rank
//   sends
#include "../nccl.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "access.h"

using namespace fpl;
using namespace fpl::cuda::nccl;

namespace {

constexpr int kMostRanks = 16;
constexpr size_t kMostBytes = 4 << 20;  // of a rank, in one operation
// Real ranks wait for ever; tests do not.
constexpr auto kPatience = std::chrono::seconds(20);

// What all ranks must say alike.
struct Request {
  enum Kind : int32_t { kGather, kReduce, kBroadcast } kind;
  Type type;
  uint64_t count;
  int32_t root;

  bool operator==(const Request& other) const {
    return kind == other.kind && type == other.type && count == other.count && root == other.root;
  }
};

// What a rank has to say of itself. The operations of a communicator are numbered from one.
struct Slot {
  std::atomic<uint64_t> posted, taken;  // the last whose bytes it has put there, and taken from all others
  std::atomic<bool> begun, left;        // its first operation; the communicator
  int32_t device;
  Request request;
};
struct Shared {
  std::atomic<int32_t> size, arrived;
  Slot slots[kMostRanks];
};
constexpr size_t kHeader = 4096;
static_assert(sizeof(Shared) <= kHeader, "the header has room for all ranks");

thread_local std::string lastError;

Result failed(Result result, const std::string& why) {
  lastError = why;
  return result;
}

size_t elementSize(Type type) {
  switch (type) {
    case Type::kUint8:
      return 1;
    case Type::kFloat16:
    case Type::kBFloat16:
      return 2;
    case Type::kFloat32:
      return 4;
    case Type::kFloat64:
      return 8;
  }
  return 0;
}

// A rank's part of the memory that all share. A lock on its byte of the file ends with the process.
class Part {
 public:
  Part(int file, int rank) : rank(rank), file_(file) {
    memory_ = mmap(nullptr, kHeader + kMostRanks * kMostBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    flock lock = lockOf(rank, F_WRLCK);
    taken_ = memory_ != MAP_FAILED && fcntl(file, F_OFD_SETLK, &lock) == 0;
  }
  ~Part() {
    if (memory_ != MAP_FAILED) munmap(memory_, kHeader + kMostRanks * kMostBytes);
    ::close(file_);
  }
  Part(const Part&) = delete;

  // False where another has the same rank.
  bool isTaken() const { return taken_; }
  Shared& shared() const { return *static_cast<Shared*>(memory_); }
  Slot& slot(int of) const { return shared().slots[of]; }
  char* bytes(int of) const { return static_cast<char*>(memory_) + kHeader + size_t(of) * kMostBytes; }
  int size() const { return shared().size; }

  bool isDead(int other) const {
    flock lock = lockOf(other, F_WRLCK);
    return other != rank && !slot(other).left && fcntl(file_, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
  }
  template <typename Condition>
  bool all(const Condition& condition) const {
    for (int other = 0; other < size(); ++other) {
      if (!condition(other)) return false;
    }
    return true;
  }

  const int rank;
  std::atomic<bool> aborted{false}, destroyed{false}, differs{false};
  uint64_t operations = 0;  // that have begun

 private:
  static flock lockOf(int rank, short type) {
    flock lock{};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = rank;
    lock.l_len = 1;
    return lock;
  }

  const int file_;
  void* memory_;
  bool taken_;
};

template <typename T>
void addAll(const Part& part, void* receive, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const int size = part.size(), first = int(i * uint64_t(size) / count) + 1;
    const auto at = [&](int step) { return reinterpret_cast<const T*>(part.bytes((first + step) % size))[i]; };
    T* const out = static_cast<T*>(receive) + i;
    if constexpr (std::is_same_v<T, double>) {
      double sum = at(0);
      for (int step = 1; step < size; ++step) sum += at(step);
      *out = sum;
    } else {
      float sum = toFloat(at(0));
      for (int step = 1; step < size; ++step) sum += toFloat(at(step));
      fromFloat(sum, *out);
    }
  }
}

// An operation in a stream, which is begun as often as a graph that has captured it is launched.
struct Enqueued {
  std::shared_ptr<Part> part;
  const cuda::host::Access* device;
  Request request;
  const void* send;
  void* receive;
  uint64_t number = 0;

  bool operator()(int onDevice) {
    if (part->destroyed || onDevice != part->slot(part->rank).device) raise(SIGSEGV);
    if (part->aborted) return true;
    Slot& own = part->slot(part->rank);
    const auto seen = [&](auto* address) {
      return reinterpret_cast<decltype(address)>(device->resolved(reinterpret_cast<uint64_t>(address), onDevice));
    };
    if (number == 0) number = ++part->operations;
    const size_t bytes = request.count * elementSize(request.type);
    if (own.posted < number) {
      if (!part->all([&](int other) { return part->slot(other).taken == number - 1; })) return false;
      memcpy(part->bytes(part->rank), seen(send), bytes);
      own.request = request;
      own.posted = number;
    }
    if (!part->all([&](int other) { return part->slot(other).posted >= number; })) return false;
    if (!part->all([&](int other) { return part->slot(other).request == request; })) part->differs = true;
    if (part->differs) return false;
    finish(static_cast<char*>(seen(receive)), bytes);
    own.taken = number;
    return true;
  }

  void finish(char* out, size_t bytes) const {
    if (request.kind == Request::kGather) {
      for (int rank = 0; rank < part->size(); ++rank) memcpy(out + size_t(rank) * bytes, part->bytes(rank), bytes);
    } else if (request.kind == Request::kBroadcast) {
      memcpy(out, part->bytes(request.root), bytes);
    } else if (request.type == Type::kFloat32) {
      addAll<float>(*part, out, request.count);
    } else if (request.type == Type::kFloat64) {
      addAll<double>(*part, out, request.count);
    } else if (request.type == Type::kFloat16) {
      addAll<Float16>(*part, out, request.count);
    } else {
      addAll<BFloat16>(*part, out, request.count);
    }
  }
};

template <typename Condition>
bool patiently(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return true;
}

// Files of the ids that this process has made, until all ranks have opened them.
std::mutex mutex;
std::map<std::string, int> files;

// By rank 0, whose process has made the file: another may have its name by the time that others come here.
void forget(const std::string& id, int rank) {
  if (rank != 0) return;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto own = files.find(id);
  if (own == files.end()) return;
  close(own->second);
  files.erase(own);
}

}  // namespace

namespace fpl {
namespace cuda {
namespace nccl {

struct Comm {
  std::shared_ptr<Part> part;
  std::string id;
  Result connected = Result::kInProgress;
  // How often it says that an operation is in progress: the first one is, for a while.
  int steps = -1;
};

}  // namespace nccl
}  // namespace cuda
}  // namespace fpl

namespace {

Result enqueue(Comm* comm, Request request, const void* send, void* receive, cuda::Stream stream) {
  const char* fault = getenv("FPL_HOST_FAULT");
  const bool isTold = (fault && strcmp(fault, "nccl") == 0) || cuda::host::isFailing("a collective of NCCL");
  if (isTold) return failed(Result::kInternalError, "told to fail");
  if (request.count * elementSize(request.type) > kMostBytes) return failed(Result::kInvalidArgument, "too many bytes");
  if (comm->connected != Result::kSuccess || comm->steps > 0) {
    return failed(Result::kInvalidUsage, "something is in progress");
  }
  if (const char* log = getenv("FPL_HOST_NCCL_LOG")) {
    FILE* file = fopen(log, "a");
    const char* const kinds[] = {"gather", "reduce", "broadcast"};
    fprintf(file, "%s %zu\n", kinds[request.kind], size_t(request.count) * elementSize(request.type));
    fclose(file);
  }
  const cuda::host::Access* device = cuda::host::access();
  if (!device) return Result::kInternalError;
  const cudaError_t status = device->enqueue(stream, Enqueued{comm->part, device, request, send, receive});
  if (status != cudaSuccess) return failed(Result::kUnhandledCudaError, "the stream is none");
  comm->part->slot(comm->part->rank).begun = true;
  if (comm->steps == 0) return Result::kSuccess;
  comm->steps = 2;
  return Result::kInProgress;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Result ncclGetVersion(int* version) {
  const char* told = getenv("FPL_HOST_NCCL_VERSION");
  *version = told ? atoi(told) : 22809;
  return Result::kSuccess;
}

EXPORT const char* ncclGetErrorString(Result result) {
  switch (result) {
    case Result::kSuccess:
      return "no error";
    case Result::kUnhandledCudaError:
      return "unhandled cuda error";
    case Result::kInternalError:
      return "internal error";
    case Result::kInvalidArgument:
      return "invalid argument";
    case Result::kInvalidUsage:
      return "invalid usage";
    case Result::kRemoteError:
      return "remote process exited or there was a network error";
    case Result::kInProgress:
      return "NCCL operation in progress";
  }
  return "unknown result code";
}
EXPORT const char* ncclGetLastError(Comm*) { return lastError.c_str(); }

EXPORT Result ncclGetUniqueId(UniqueId* id) {
  const int file = memfd_create("nccl", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, kHeader + kMostRanks * kMostBytes) != 0) return Result::kInternalError;
  *id = {};
  snprintf(id->bytes, sizeof id->bytes, "/proc/%d/fd/%d", getpid(), file);
  const std::lock_guard<std::mutex> lock(mutex);
  files[id->bytes] = file;
  return Result::kSuccess;
}

EXPORT Result ncclCommInitRankConfig(Comm** comm, int size, UniqueId id, int rank, Config* config) {
  const Config known;
  if (config->size < known.size || config->magic != known.magic || config->version < known.version)
    return failed(Result::kInvalidArgument, "this is no configuration");
  if (cuda::host::isFailing(__func__)) return failed(Result::kInternalError, "told to fail");
  if (config->blocking != 0) return failed(Result::kInvalidArgument, "somebody would wait");
  if (size < 1 || size > kMostRanks || rank < 0 || rank >= size)
    return failed(Result::kInvalidArgument, "no such rank");
  const int file = open(id.bytes, O_RDWR | O_CLOEXEC);
  if (file < 0) return failed(Result::kInvalidArgument, "no such id");
  const auto part = std::make_shared<Part>(file, rank);
  int32_t wanted = 0;
  if (!part->isTaken()) return failed(Result::kInvalidUsage, "two processes have the same rank");
  if (!part->shared().size.compare_exchange_strong(wanted, size) && wanted != size) {
    return failed(Result::kInvalidUsage, "the number of ranks differs");
  }
  void* context = nullptr;
  cuda::host::access()->currentContext(&context);
  part->slot(rank).device = int32_t(reinterpret_cast<uintptr_t>(context)) - 1;
  ++part->shared().arrived;
  *comm = new Comm{part, id.bytes};
  return Result::kInProgress;
}

EXPORT Result ncclCommDestroy(Comm* comm) {
  cuda::host::access()->synchronize();
  const std::unique_ptr<Comm> owned(comm);
  Part& part = *comm->part;
  part.destroyed = part.slot(part.rank).left = true;
  const auto gone = [&](int other) { return part.slot(other).left || part.isDead(other); };
  if (patiently([&] { return part.all(gone); })) return Result::kSuccess;
  fprintf(stderr, "other ranks have not destroyed their communicators\n");
  ::abort();
}

EXPORT Result ncclCommAbort(Comm* comm) {
  forget(comm->id, comm->part->rank);
  comm->part->aborted = true;
  delete comm;
  return Result::kSuccess;
}

// Whether all ranks have come.
static Result connected(const Comm& comm) {
  const Part& part = *comm.part;
  if (part.shared().arrived < part.size()) return Result::kInProgress;
  forget(comm.id, part.rank);
  const int32_t device = part.slot(part.rank).device;
  if (part.all([&](int other) { return other == part.rank || part.slot(other).device != device; }))
    return Result::kSuccess;
  return failed(Result::kInvalidUsage, "two ranks have the same GPU");
}

EXPORT Result ncclCommGetAsyncError(Comm* comm, Result* result) {
  if (cuda::host::isFailing(__func__)) return failed(Result::kInternalError, "told to fail");
  const Part& part = *comm->part;
  const bool connects = comm->steps > 0 && getenv("FPL_HOST_NCCL_CONNECTS");
  if (connects && !part.all([&](int other) { return bool(part.slot(other).begun); })) {
    *result = Result::kInProgress;
    return Result::kSuccess;
  }
  if (comm->connected != Result::kSuccess || comm->steps > 0) {
    if (comm->connected == Result::kSuccess) --comm->steps;
    if (comm->connected == Result::kInProgress) comm->connected = connected(*comm);
    *result = comm->steps > 0 ? Result::kInProgress : comm->connected;
    return Result::kSuccess;
  }
  const bool alive = part.all([&](int other) { return !part.isDead(other); });
  *result = part.differs ? Result::kInvalidUsage : alive ? Result::kSuccess : Result::kRemoteError;
  return Result::kSuccess;
}

EXPORT Result ncclAllGather(const void* send, void* receive, size_t count, Type type, Comm* comm, cuda::Stream stream) {
  return enqueue(comm, {Request::kGather, type, count, 0}, send, receive, stream);
}
EXPORT Result ncclAllReduce(const void* send, void* receive, size_t count, Type type, Operation operation, Comm* comm,
                            cuda::Stream stream) {
  if (operation != Operation::kSum) return failed(Result::kInvalidArgument, "only sums");
  return enqueue(comm, {Request::kReduce, type, count, 0}, send, receive, stream);
}
EXPORT Result ncclBroadcast(const void* send, void* receive, size_t count, Type type, int root, Comm* comm,
                            cuda::Stream stream) {
  if (root < 0 || root >= comm->part->size()) return failed(Result::kInvalidArgument, "no such rank");
  return enqueue(comm, {Request::kBroadcast, type, count, root}, send, receive, stream);
}
