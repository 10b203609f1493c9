// Compiled and never run: that native/cuda/nccl.h declares what NVIDIA's header does, as far as calls can tell.
#include "../../native/cuda/nccl.h"

#include <nccl.h>

#include <cstddef>
#include <type_traits>

namespace {

using namespace fpl::cuda::nccl;

template <typename A, typename B>
constexpr bool passedAlike =
    sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B> && std::is_class_v<A> == std::is_class_v<B>;

template <typename A, typename B>
constexpr bool calledAlike = false;
template <typename A, typename... As, typename B, typename... Bs>
constexpr bool calledAlike<A (*)(As...), B (*)(Bs...)> = [] {
  if constexpr (sizeof...(As) == sizeof...(Bs)) {
    return passedAlike<A, B> && (passedAlike<As, Bs> && ...);
  } else {
    return false;
  }
}();

#define SAME_FUNCTION(ours, theirs) static_assert(calledAlike<decltype(Functions::ours), decltype(&theirs)>, #theirs)
SAME_FUNCTION(getVersion, ncclGetVersion);
SAME_FUNCTION(errorString, ncclGetErrorString);
SAME_FUNCTION(lastError, ncclGetLastError);
SAME_FUNCTION(getUniqueId, ncclGetUniqueId);
SAME_FUNCTION(initRank, ncclCommInitRankConfig);
SAME_FUNCTION(destroy, ncclCommDestroy);
SAME_FUNCTION(abort, ncclCommAbort);
SAME_FUNCTION(asyncError, ncclCommGetAsyncError);
SAME_FUNCTION(allGather, ncclAllGather);
SAME_FUNCTION(allReduce, ncclAllReduce);
SAME_FUNCTION(broadcast, ncclBroadcast);

#define SAME_VALUE(ours, theirs) static_assert(int(ours) == int(theirs), #theirs)
SAME_VALUE(Result::kSuccess, ncclSuccess);
SAME_VALUE(Result::kUnhandledCudaError, ncclUnhandledCudaError);
SAME_VALUE(Result::kInternalError, ncclInternalError);
SAME_VALUE(Result::kInvalidArgument, ncclInvalidArgument);
SAME_VALUE(Result::kInvalidUsage, ncclInvalidUsage);
SAME_VALUE(Result::kRemoteError, ncclRemoteError);
SAME_VALUE(Result::kInProgress, ncclInProgress);
SAME_VALUE(Type::kUint8, ncclUint8);
SAME_VALUE(Type::kFloat16, ncclFloat16);
SAME_VALUE(Type::kFloat32, ncclFloat32);
SAME_VALUE(Type::kFloat64, ncclFloat64);
SAME_VALUE(Type::kBFloat16, ncclBfloat16);
SAME_VALUE(Operation::kSum, ncclSum);
static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId) && sizeof(UniqueId) == NCCL_UNIQUE_ID_BYTES, "the id");

#define SAME_PLACE(member) static_assert(offsetof(Config, member) == offsetof(ncclConfig_t, member), #member)
SAME_PLACE(size);
SAME_PLACE(magic);
SAME_PLACE(version);
SAME_PLACE(blocking);
static_assert(NCCL_VERSION(2, 14, 0) == 21400, "Config::version");

}  // namespace
