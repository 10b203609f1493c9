#include "cublaslt.h"

#include "dynamic_library.h"

namespace fpl {
namespace cuda {
namespace cublaslt {
namespace {

// Environment variable with the path of the library.
constexpr const char* kVariable = "FUSED_PREFERENCE_LOSS_CUBLASLT";

#if defined(_WIN32)
constexpr std::initializer_list<const char*> kNames = {"cublasLt64_13.dll", "cublasLt64_12.dll"};
#else
constexpr std::initializer_list<const char*> kNames = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
#endif

struct Library : DynamicLibrary {
  Functions functions{};

  Library() : DynamicLibrary(kVariable, kNames) {
    Functions& f = functions;
    find("cublasLtGetStatusName", f.statusName);
    find("cublasLtCreate", f.create);
    find("cublasLtDestroy", f.destroy);
    find("cublasLtMatmulDescCreate", f.createOperation);
    find("cublasLtMatmulDescDestroy", f.destroyOperation);
    find("cublasLtMatmulDescSetAttribute", f.setOperation);
    find("cublasLtMatrixLayoutCreate", f.createLayout);
    find("cublasLtMatrixLayoutDestroy", f.destroyLayout);
    find("cublasLtMatmulPreferenceCreate", f.createPreference);
    find("cublasLtMatmulPreferenceDestroy", f.destroyPreference);
    find("cublasLtMatmulPreferenceSetAttribute", f.setPreference);
    find("cublasLtMatmulAlgoGetHeuristic", f.choose);
    find("cublasLtMatmulAlgoCheck", f.verify);
    find("cublasLtMatmul", f.multiply);
  }
};

}  // namespace

const Functions* open(std::string& reason) {
  static const Library library;
  reason = library.problem;
  return reason.empty() ? &library.functions : nullptr;
}

}  // namespace cublaslt
}  // namespace cuda
}  // namespace fpl
