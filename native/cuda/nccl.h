// The part of NCCL that is used. It is opened when somebody asks for a communicator, and nothing of it is linked or
// included here: its functions, and the values they take, are declared as its documentation has them for version 2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "launch.h"

namespace fpl {
namespace cuda {
namespace nccl {

// Opaque to everybody but the library.
struct Comm;

struct UniqueId {  // ncclUniqueId
  char bytes[128];
};

enum class Result : int32_t {  // ncclResult_t
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};
enum class Type : int32_t { kUint8 = 1, kFloat16 = 6, kFloat32 = 7, kFloat64 = 8, kBFloat16 = 9 };  // ncclDataType_t
enum class Operation : int32_t { kSum = 0 };                                                        // ncclRedOp_t

// ncclConfig_t as version 2.14 has it, which later ones take, too: its beginning.
struct Config {
  size_t size = sizeof(Config);
  uint32_t magic = 0xcafebeef;
  uint32_t version = 21400;
  int32_t blocking = 0;  // results of communicators may be kInProgress, and asyncError then says what becomes of them
};

struct Functions {
  Result (*getVersion)(int*);
  const char* (*errorString)(Result);
  const char* (*lastError)(Comm*);
  Result (*getUniqueId)(UniqueId*);
  Result (*initRank)(Comm**, int size, UniqueId, int rank, Config*);
  Result (*destroy)(Comm*);
  Result (*abort)(Comm*);
  Result (*asyncError)(Comm*, Result*);
  Result (*allGather)(const void* send, void* receive, size_t count, Type, Comm*, Stream);
  Result (*allReduce)(const void* send, void* receive, size_t count, Type, Operation, Comm*, Stream);
  Result (*broadcast)(const void* send, void* receive, size_t count, Type, int root, Comm*, Stream);
};

// What NCCL, or the lack of another rank, is to blame for.
struct Failure : Error {};

// Opens the library, the first time. Throws where it cannot be used.
const Functions& opened();
// As NCCL writes it: 22809 for 2.28.9.
int version();
// Throws where `result` is an error.
void require(Result result, const char* doing);

}  // namespace nccl
}  // namespace cuda
}  // namespace fpl
