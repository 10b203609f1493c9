#include "nccl.h"

#include "dynamic_library.h"

namespace fpl {
namespace cuda {
namespace nccl {
namespace {

// Environment variable with the path of the library.
constexpr const char* kVariable = "FUSED_PREFERENCE_LOSS_NCCL";
// The first version with all of the functions, and the first that may have others by these names.
constexpr int kOldest = 21400, kTooNew = 30000;

std::string written(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

struct Library : DynamicLibrary {
  Functions functions{};
  int version = 0;

  Library() : DynamicLibrary(kVariable, {"libnccl.so.2", "libnccl.so"}) {
    Functions& f = functions;
    find("ncclGetVersion", f.getVersion);
    find("ncclGetErrorString", f.errorString);
    find("ncclGetLastError", f.lastError);
    find("ncclGetUniqueId", f.getUniqueId);
    find("ncclCommInitRankConfig", f.initRank);
    find("ncclCommDestroy", f.destroy);
    find("ncclCommAbort", f.abort);
    find("ncclCommGetAsyncError", f.asyncError);
    find("ncclAllGather", f.allGather);
    find("ncclAllReduce", f.allReduce);
    find("ncclBroadcast", f.broadcast);
    if (!problem.empty()) {
      problem += "; NCCL is part of PyTorch and of the package nvidia-nccl-cu13, and " + std::string(kVariable) +
                 " names its file, libnccl.so.2";
      return;
    }
    f.getVersion(&version);
    if (version >= kOldest && version < kTooNew) return;
    problem = "this NCCL is version " + written(version) + "; it must be at least " + written(kOldest) + " and below " +
              written(kTooNew);
  }
};

const Library& library() {
  static const Library found;
  return found;
}

}  // namespace

const Functions& opened() {
  if (!library().problem.empty()) throw Failure{"NCCL cannot be used: " + library().problem};
  return library().functions;
}

int version() {
  opened();
  return library().version;
}

void require(Result result, const char* doing) {
  if (result == Result::kSuccess) return;
  const std::string detail = opened().lastError(nullptr);
  throw Failure{std::string("NCCL failed while ") + doing + ": " + opened().errorString(result) +
                (detail.empty() ? "" : ": " + detail)};
}

}  // namespace nccl
}  // namespace cuda
}  // namespace fpl
