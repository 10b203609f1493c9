// libFuzzer: any job that lib can ask for, against the oracle. A find is kept by libFuzzer in a file, which `fuzz FILE`
// runs again; it becomes a case in corpus/.
#include <cstdio>
#include <cstdlib>

#include "example.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fpl::ThreadPool* const pool = new fpl::ThreadPool;
  fpl::Example example(data, size);
  const std::string problem = fpl::differential(example, *pool);
  if (!problem.empty()) {
    fprintf(stderr, "%s\n%s\n", example.text().c_str(), problem.c_str());
    abort();
  }
  return 0;
}
