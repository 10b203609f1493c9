// Has the launches of the backend on the host (native/cuda/host) carried out by the machine, with the PTX that nvcc has
// made of the same kernels.
//
//   FPL_HOST_PTX         the folder with the PTX
//   FPL_HOST_PTX_COUNTS  a file to which each launch adds a line of JSON with its counts
#include <cstdio>
#include <cstdlib>

#include "../../native/cuda/host/runtime.h"
#include "machine.h"

namespace fpl {
namespace ptx {
namespace {

// The kernel's name in the demangled one of Named<&(kernel)>.
std::string nameOf(const char* named) {
  std::string name = demangled(named);
  const size_t begin = name.find("<&") + 2, end = name.rfind('>');
  name = name.substr(begin, end - begin);
  while (name.back() == ' ') name.pop_back();
  if (name.front() == '(' && name.back() == ')') name = name.substr(1, name.size() - 2);
  return withoutParameters(name);
}

void writeCounts(const std::string& name, int64_t blocks, int threads, const Counts& counts) {
  const char* path = getenv("FPL_HOST_PTX_COUNTS");
  FILE* file = path && *path ? fopen(path, "a") : nullptr;
  if (!file) return;
  const auto print = [&](const char* key, int64_t value, const char* end) {
    fprintf(file, "\"%s\":%lld%s", key, static_cast<long long>(value), end);
  };
  fprintf(file, "{\"kernel\":\"%s\",", name.c_str());
  print("blocks", blocks, ",");
  print("threads", threads, ",");
  print("instructions", counts.instructions, ",");
  print("warpInstructions", counts.warpInstructions, ",");
  print("loaded", counts.loaded, ",");
  print("stored", counts.stored, ",");
  print("sectors", counts.sectors, "}\n");
  fclose(file);
}

// Under the lock of the runtime.
void carryOut(const cuda::host::Kernel& kernel, int64_t blocks, int threads, int device) {
  try {
    static Module module{getenv("FPL_HOST_PTX")};
    static Machine machine(module);
    const std::string name = nameOf(kernel.name);
    const Function* function = module.kernel(name);
    if (!function) throw Fault{"no kernel " + name};
    std::vector<Region> regions;
    for (const auto& [memory, data, bytes] : cuda::host::allocationsOf(device)) {
      regions.push_back({reinterpret_cast<uint64_t>(memory), bytes, static_cast<char*>(data), true, {}});
    }
    writeCounts(name, blocks, threads, machine.run(*function, blocks, threads, kernel.arguments, std::move(regions)));
  } catch (const Fault& fault) {
    fprintf(stderr, "PTX: %s\n", fault.message.c_str());
    abort();
  }
}

const bool asked = [] {
  const char* folder = getenv("FPL_HOST_PTX");
  if (folder && *folder) cuda::host::carrier = carryOut;
  return true;
}();

}  // namespace
}  // namespace ptx
}  // namespace fpl
