#include "cublaslt.h"

#include <cstdlib>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace fpl {
namespace cuda {
namespace cublaslt {
namespace {

// Environment variable with the path of the library.
constexpr const char* kVariable = "FUSED_PREFERENCE_LOSS_CUBLASLT";

#if defined(_WIN32)
constexpr const char* kNames[] = {"cublasLt64_13.dll", "cublasLt64_12.dll"};

void* openLibrary(const char* name, std::string& problem) {
  const HMODULE library = LoadLibraryA(name);
  if (!library) problem = std::string(name) + ": LoadLibrary failed with error " + std::to_string(GetLastError());
  return library;
}
void* symbolOf(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(HMODULE(library), name));
}
#else
constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};

void* openLibrary(const char* name, std::string& problem) {
  void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library) problem = dlerror();
  return library;
}
void* symbolOf(void* library, const char* name) { return dlsym(library, name); }
#endif

// For as long as the process lives: like the CUDA runtime, it does not like to be unloaded.
struct Library {
  Functions functions{};
  std::string problem;

  Library() {
    void* library = nullptr;
    const char* path = getenv(kVariable);
    if (path && *path) {
      library = openLibrary(path, problem);
    } else {
      std::string problems;
      for (const char* name : kNames) {
        library = openLibrary(name, problem);
        if (library) break;
        problems += (problems.empty() ? "" : "; ") + problem;
      }
      problem = problems;
    }
    if (!library) return;
    problem.clear();
    Functions& f = functions;
    find(library, "cublasLtGetStatusName", f.statusName);
    find(library, "cublasLtCreate", f.create);
    find(library, "cublasLtDestroy", f.destroy);
    find(library, "cublasLtMatmulDescCreate", f.createOperation);
    find(library, "cublasLtMatmulDescDestroy", f.destroyOperation);
    find(library, "cublasLtMatmulDescSetAttribute", f.setOperation);
    find(library, "cublasLtMatrixLayoutCreate", f.createLayout);
    find(library, "cublasLtMatrixLayoutDestroy", f.destroyLayout);
    find(library, "cublasLtMatmulPreferenceCreate", f.createPreference);
    find(library, "cublasLtMatmulPreferenceDestroy", f.destroyPreference);
    find(library, "cublasLtMatmulPreferenceSetAttribute", f.setPreference);
    find(library, "cublasLtMatmulAlgoGetHeuristic", f.choose);
    find(library, "cublasLtMatmulAlgoCheck", f.verify);
    find(library, "cublasLtMatmul", f.multiply);
  }

  template <typename Function>
  void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(symbolOf(library, name));
    if (!function) problem = std::string("it has no ") + name;
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
