// A test: whatever the library does on whichever device, the calling thread's context is afterwards what it was before;
// none where there was none.
#include <dlfcn.h>

#include <cstdio>

#include "../api.h"
#include "runtime.h"

namespace {

int problems = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  printf("not so: %s\n", what);
  ++problems;
}

}  // namespace

int main(int, char** arguments) {
  using namespace fpl::cuda;
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (!library) {
    printf("%s\n", dlerror());
    return 1;
  }
  const Api& api = *reinterpret_cast<const Api* (*)()>(dlsym(library, kApiSymbol))();
  const host::Access& access = *reinterpret_cast<host::GetAccess>(dlsym(library, host::kAccessSymbol))();
  for (const uintptr_t context : {0, 1, 2}) {
    const auto is = [&] {
      void* current = nullptr;
      access.currentContext(&current);
      return current == reinterpret_cast<void*>(context);
    };
    access.makeCurrent(reinterpret_cast<void*>(context));
    for (const int32_t device : {0, 1}) {
      Problem problem;
      uint64_t memory = 0;
      expect(api.allocate(device, 64, &memory, &problem) && is(), "after memory was allocated");
      expect(api.release(device, memory, &problem) && is(), "after it was given back");
    }
    Problem problem;
    uint64_t memory = 0;
    expect(!api.allocate(0, uint64_t(1) << 50, &memory, &problem) && is(), "after there was none");
    expect(!api.allocate(9, 64, &memory, &problem) && is(), "after there was no such device");
  }
  if (problems == 0) printf("as they were\n");
  return problems == 0 ? 0 : 1;
}
