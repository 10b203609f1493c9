#include "dynamic_library.h"

#include <cstdlib>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace fpl {
namespace cuda {
namespace {

#if defined(_WIN32)
void* opened(const char* name, std::string& problem) {
  const HMODULE library = LoadLibraryA(name);
  if (!library) problem = std::string(name) + ": LoadLibrary failed with error " + std::to_string(GetLastError());
  return library;
}
#else
void* opened(const char* name, std::string& problem) {
  void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!library) problem = dlerror();
  return library;
}
#endif

}  // namespace

DynamicLibrary::DynamicLibrary(const char* variable, std::initializer_list<const char*> names) {
  const char* path = getenv(variable);
  if (path && *path) {
    library_ = opened(path, problem);
    return;
  }
  std::string problems;
  for (const char* name : names) {
    library_ = opened(name, problem);
    if (library_) {
      problem.clear();
      return;
    }
    problems += (problems.empty() ? "" : "; ") + problem;
  }
  problem = problems;
}

void* DynamicLibrary::symbol(const char* name) const {
  if (!library_) return nullptr;
#if defined(_WIN32)
  return reinterpret_cast<void*>(GetProcAddress(HMODULE(library_), name));
#else
  return dlsym(library_, name);
#endif
}

}  // namespace cuda
}  // namespace fpl
