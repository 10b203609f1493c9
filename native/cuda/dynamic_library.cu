#include "dynamic_library.h"

#include <cstdlib>

namespace fpl {
namespace cuda {

DynamicLibrary::DynamicLibrary(const char* variable, std::initializer_list<const char*> names) {
  const char* path = getenv(variable);
  if (path && *path) {
    isOpen_ = library_.open(path, problem);
    return;
  }
  std::string problems;
  for (const char* name : names) {
    isOpen_ = library_.open(name, problem);
    if (isOpen_) {
      problem.clear();
      return;
    }
    problems += (problems.empty() ? "" : "; ") + problem;
  }
  problem = problems;
}

}  // namespace cuda
}  // namespace fpl
