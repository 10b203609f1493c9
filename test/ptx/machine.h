// A GPU that carries out PTX: blocks one after the other; of a block, warp after warp in the order of their numbers,
// each until its threads wait at a barrier or are done; of a warp, all lanes at once. Lanes that go different ways at a
// branch do so one way after the other (those that jump first) and meet again where all ways lead.
//
// It stops, with the kernel, the line and the thread, where
// - an address is outside of all allocations or of the block's shared memory, or not aligned;
// - memory is read that nobody has written: of shared and of a thread's own memory exactly, of global memory by the
//   pattern that native/cuda/host/memory.h fills it with;
// - two threads use the same place, one of them writes, and neither a barrier nor the end of a kernel lies in between:
//   in shared memory, and in global memory, but for atomics among themselves, and for what a block has done before an
//   atomic that releases, if the other has acquired from the same place since;
// - not all threads of a block come to a barrier, and to the same one;
// - a lane asks another one for a value, and not all lanes that take part are there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "module.h"

namespace fpl {
namespace ptx {

// Who used two bytes last. Epochs grow with every barrier, block and kernel.
struct Cell {
  uint32_t writer, reader;
  uint64_t written = 0, read = 0;  // epochs
  bool readByMany = false, isAtomic = false;
};

// Memory that kernels can use.
struct Region {
  uint64_t begin;  // as kernels see it
  size_t bytes;
  char* data;
  bool isWritable;
  std::vector<Cell> cells;
};

// Of one launch.
struct Counts {
  int64_t instructions = 0;        // of all threads
  int64_t warpInstructions = 0;    // issued once for all lanes that take part
  int64_t loaded = 0, stored = 0;  // bytes of global memory; an atomic does both
  int64_t sectors = 0;             // of 32 bytes of global memory, for each instruction of a warp
};

class Machine {
 public:
  explicit Machine(Module& module);
  ~Machine();

  // Runs a kernel with those bytes as its arguments. Throws Fault. The regions must not overlap.
  Counts run(const Function& kernel, int64_t blocks, int threads, const std::vector<std::string>& arguments,
             std::vector<Region> regions);

 private:
  struct Launch;
  Module& module_;
  std::unique_ptr<Launch> launch_;
};

}  // namespace ptx
}  // namespace fpl
