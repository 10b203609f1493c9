// A library that is opened while the program runs.
#pragma once

#include <string>

#if defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace fpl {

// It stays open when the handle goes, unless it is closed: libraries with threads do not like to be unloaded.
class LibraryHandle {
 public:
  // `path`, or a name for the dynamic linker. Where it cannot be opened, `problem` says why.
  bool open(const std::string& path, std::string& problem) {
#if defined(_WIN32)
    handle_ = LoadLibraryA(path.c_str());
    if (!handle_) problem = path + ": LoadLibrary failed with error " + std::to_string(GetLastError());
#else
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle_) problem = dlerror();
#endif
    return handle_ != nullptr;
  }

  // The address of a function or of an object; null where the library has none.
  void* find(const char* name) const {
#if defined(_WIN32)
    return reinterpret_cast<void*>(GetProcAddress(HMODULE(handle_), name));
#else
    return dlsym(handle_, name);
#endif
  }

  void close() {
#if defined(_WIN32)
    FreeLibrary(HMODULE(handle_));
#else
    dlclose(handle_);
#endif
    handle_ = nullptr;
  }

 private:
  void* handle_ = nullptr;
};

}  // namespace fpl
