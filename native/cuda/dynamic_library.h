// Libraries that are opened when they are first needed, and never closed: like the CUDA runtime, they do not like to be
// unloaded.
#pragma once

#include <initializer_list>
#include <string>

#include "../core/library_handle.h"

namespace fpl {
namespace cuda {

class DynamicLibrary {
 public:
  // Opens the file that an environment variable names or, without it, the first of these names that can be opened.
  DynamicLibrary(const char* variable, std::initializer_list<const char*> names);

  template <typename Function>
  void find(const char* name, Function& function) {
    function = isOpen_ ? reinterpret_cast<Function>(library_.find(name)) : nullptr;
    if (!function && problem.empty()) problem = std::string("it has no ") + name;
  }

  // Why it cannot be used; empty where it can.
  std::string problem;

 private:
  LibraryHandle library_;
  bool isOpen_ = false;
};

}  // namespace cuda
}  // namespace fpl
