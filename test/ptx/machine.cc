#include "machine.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include "../../native/cuda/host/memory.h"

namespace fpl {
namespace ptx {
namespace {

constexpr int64_t kSector = 32;
constexpr int64_t kCell = 2;             // bytes
constexpr int64_t kMostLocal = 1 << 14;  // of each thread

struct Free {
  void operator()(void* memory) const { free(memory); }
};

// Lanes on their way to where they meet others.
struct Way {
  int at, until;
  uint32_t lanes;
};

// Of the accesses of a block, those that are known to come before: of all its threads those before an epoch, and of one
// those until another.
struct Known {
  uint64_t before;
  uint32_t thread;
  uint64_t until;
};
using KnownOfBlocks = std::unordered_map<uint32_t, Known>;

// What a thread has learned of other blocks, and in which epoch: behind the next barrier all of its block know.
struct Acquired {
  KnownOfBlocks of;
  uint32_t thread;
  uint64_t epoch;
};

// A function that is being carried out.
struct Frame {
  const Function* function = nullptr;
  std::unique_ptr<Lanes, Free> registers;
  int64_t capacity = 0;
  std::vector<Way> ways;
  std::vector<char> variables;  // of all lanes
  int64_t local = 0;            // where its part of the threads' own memory begins
  const Instruction* call = nullptr;
  uint32_t lanes = 0;

  Registers view() const { return {registers.get(), function->constants.data()}; }
  char* variable(int lane, int64_t offset) { return variables.data() + lane * function->variableBytes + offset; }
};

struct Warp {
  int number = 0;
  uint32_t alive = 0;
  std::vector<Frame> frames;
  int depth = 0;                         // frames in use
  const Instruction* barrier = nullptr;  // where it waits
  // Each thread's own memory, and which bytes of it have been written.
  std::vector<char> local, localWritten;
};

}  // namespace

struct Machine::Launch {
  Module& module;
  const Function* kernel = nullptr;
  int64_t blocks = 0, block = 0;
  int threads = 0;
  std::vector<char> arguments;
  std::vector<Region> regions;
  size_t lastRegion = 0;
  std::vector<char> shared;
  std::vector<Cell> sharedCells;
  std::vector<Warp> warps;
  // Now, and when the block, the launch, and what lies between two barriers began.
  uint64_t epoch = 0, blockBegan = 0, launchBegan = 0, intervalBegan = 0;
  // What ordered atomics have left at their addresses in this launch, and what the block knows from them.
  std::unordered_map<uint64_t, KnownOfBlocks> released;
  std::vector<Acquired> acquired;
  Counts counts;
  // For messages.
  const Instruction* current = nullptr;
  const Frame* currentFrame = nullptr;
  int currentWarp = 0;

  explicit Launch(Module& of) : module(of) {}

  [[noreturn]] void refuse(const std::string& problem, int lane = 0) const {
    const Function& function = *currentFrame->function;
    throw Fault{function.file + ":" + std::to_string(current->line) + ": " + current->opcode + ": " + problem +
                " (block " + std::to_string(block) + ", thread " + std::to_string(currentWarp * kLanes + lane) +
                " of " + kernel->name + ")"};
  }

  uint32_t thread(int lane) const { return uint32_t(block * threads + currentWarp * kLanes + lane); }

  // --- Memory.

  Region& regionAt(uint64_t address, int64_t bytes, int lane) {
    const auto holds = [&](const Region& region) {
      return address >= region.begin && address - region.begin + uint64_t(bytes) <= region.bytes;
    };
    if (lastRegion < regions.size() && holds(regions[lastRegion])) return regions[lastRegion];
    auto found = std::upper_bound(regions.begin(), regions.end(), address,
                                  [](uint64_t at, const Region& region) { return at < region.begin; });
    if (found != regions.begin()) --found;
    if (found == regions.end() || !holds(*found)) {
      const bool inside = found != regions.end() && address >= found->begin && address - found->begin < found->bytes;
      refuse(std::to_string(bytes) + " bytes at " + hex(address) + (inside ? " reach out of" : " are outside of") +
                 " global memory",
             lane);
    }
    lastRegion = size_t(found - regions.begin());
    return *found;
  }
  static std::string hex(uint64_t address) {
    char text[24];
    snprintf(text, sizeof text, "%#llx", static_cast<unsigned long long>(address));
    return text;
  }

  // Whether nothing lies between a thread's use of a place and now: no barrier and, of global memory, no end of a
  // kernel and no pair of ordered atomics.
  bool isUnordered(uint32_t by, uint64_t used, bool global, int lane) const {
    if (used >= intervalBegan) return true;
    return global && used >= launchBegan && used < blockBegan && !knows(by, used, lane);
  }
  bool isVisible(const Acquired& a, int lane) const { return a.thread == thread(lane) || a.epoch < intervalBegan; }
  bool knows(uint32_t by, uint64_t used, int lane) const {
    for (const Acquired& a : acquired) {
      const auto found = a.of.find(by / uint32_t(threads));
      if (found == a.of.end() || !isVisible(a, lane)) continue;
      const Known& known = found->second;
      if (used < known.before || (by == known.thread && used <= known.until)) return true;
    }
    return false;
  }
  // What an ordered atomic lets the thread know, and what it lets later ones know.
  void order(uint64_t address, int lane) {
    KnownOfBlocks& here = released[address];
    if (!here.empty()) acquired.push_back({here, thread(lane), epoch});
    for (const Acquired& a : acquired) {
      if (!isVisible(a, lane)) continue;
      for (const auto& [of, known] : a.of) {
        Known& mine = here.emplace(of, known).first->second;
        if (mine.until < known.until) mine = known;
      }
    }
    here[uint32_t(block)] = {intervalBegan, thread(lane), epoch++};
  }
  void note(Cell& cell, bool global, bool writes, bool atomic, int lane) {
    const uint32_t me = thread(lane);
    const char* const where = global ? "global" : "shared";
    const bool together = atomic && cell.isAtomic;
    if (!together && cell.writer != me && isUnordered(cell.writer, cell.written, global, lane)) {
      refuse(std::string(writes ? "writes" : "reads") + " what thread " + std::to_string(cell.writer % threads) +
                 " of block " + std::to_string(cell.writer / threads) + " writes in " + where + " memory",
             lane);
    }
    if (writes && !together && (cell.reader != me || cell.readByMany) &&
        isUnordered(cell.reader, cell.read, global, lane)) {
      refuse("writes what thread " + std::to_string(cell.reader % threads) + " of block " +
                 std::to_string(cell.reader / threads) + " reads in " + where + " memory",
             lane);
    }
    if (writes) {
      cell.writer = me;
      cell.written = epoch;
      cell.isAtomic = atomic;
    } else {
      cell.readByMany = isUnordered(cell.reader, cell.read, global, lane) && (cell.readByMany || cell.reader != me);
      cell.reader = me;
      cell.read = epoch;
    }
  }

  // The place of an access, which has been checked.
  char* place(const Instruction& i, Frame& frame, int lane, uint64_t base, bool writes) {
    const int64_t bytes = int64_t(i.bytes) * i.elements;
    const uint64_t address = base + uint64_t(i.offset);
    if (i.space == Space::kVariables) return frame.variable(lane, i.offset);
    if (address % uint64_t(bytes) != 0) refuse(hex(address) + " is not a multiple of " + std::to_string(bytes), lane);
    const auto checked = [&](int64_t size, const char* what) {
      if (address > uint64_t(size) || uint64_t(size) - address < uint64_t(bytes)) {
        refuse(std::to_string(bytes) + " bytes at " + hex(address) + " are outside of " + what, lane);
      }
    };
    const bool atomic = i.kind == Instruction::kAtomic;
    switch (i.space) {
      case Space::kArguments:
        checked(int64_t(arguments.size()), "the arguments");
        if (writes) refuse("writes to the arguments", lane);
        return arguments.data() + address;
      case Space::kShared:
        checked(int64_t(shared.size()), "shared memory");
        for (int64_t at = int64_t(address) / kCell; at * kCell < int64_t(address) + bytes; ++at) {
          Cell& cell = sharedCells[size_t(at)];
          if (!writes && cell.written < blockBegan) refuse("reads shared memory that nobody has written", lane);
          note(cell, false, writes, false, lane);
        }
        return shared.data() + address;
      case Space::kLocal: {
        Warp& warp = warps[size_t(currentWarp)];
        checked(frame.local + frame.function->localBytes, "the thread's own memory");
        const size_t at = size_t(lane * kMostLocal) + address;
        if (writes) {
          memset(&warp.localWritten[at], 1, size_t(bytes));
        } else if (memchr(&warp.localWritten[at], 0, size_t(bytes))) {
          refuse("reads memory of its own that it has not written", lane);
        }
        return &warp.local[at];
      }
      default: {
        Region& region = regionAt(address, bytes, lane);
        const uint64_t offset = address - region.begin;
        char* data = region.data + offset;
        if (!region.isWritable) {
          if (writes) refuse("writes to a table", lane);
          return data;
        }
        // A byte is fresh if the two that it is one of are.
        const int64_t odd = bytes == 1 ? int64_t(offset % 2) : 0;
        if ((!writes || atomic) && isFresh(data - odd, bytes == 1 ? 2 : bytes)) {
          refuse("reads global memory that nobody has written", lane);
        }
        if (region.cells.empty()) region.cells.resize((region.bytes + kCell - 1) / kCell);
        for (uint64_t at = offset / kCell; at * kCell < offset + uint64_t(bytes); ++at) {
          note(region.cells[at], true, writes, atomic, lane);
        }
        return data;
      }
    }
  }
  static bool isFresh(const char* data, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 2) {
      if (memcmp(data + at, &cuda::host::kFresh, 2) != 0) return false;
    }
    return true;
  }

  void access(const Instruction& i, Frame& frame, uint32_t lanes) {
    static const Lanes zeros{};
    const Registers registers = frame.view();
    const Lanes& base = i.base < 0 ? zeros : registers.registers[i.base];
    const bool global = i.space == Space::kGlobal, writes = i.kind == Instruction::kStore;
    const int64_t bytes = int64_t(i.bytes) * i.elements;
    uint64_t sectors[kLanes];
    int count = 0;
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      char* data = place(i, frame, lane, base[lane], writes);
      for (int k = 0; k < i.elements; ++k) move(i, registers, lane, k, data + k * i.bytes);
      if (!global) continue;
      const uint64_t sector = (base[lane] + uint64_t(i.offset)) / kSector;
      if (std::find(sectors, sectors + count, sector) == sectors + count) sectors[count++] = sector;
      (writes ? counts.stored : counts.loaded) += bytes;
      if (i.kind == Instruction::kAtomic) counts.stored += bytes;
      if (i.isOrdered) order(base[lane] + uint64_t(i.offset), lane);
    }
    counts.sectors += count;
  }
  // An element from or to memory.
  void move(const Instruction& i, Registers registers, int lane, int element, char* data) {
    if (i.kind == Instruction::kStore) {
      memcpy(data, &registers[i.operands[element]][lane], size_t(i.bytes));
      return;
    }
    uint64_t word = 0;
    memcpy(&word, data, size_t(i.bytes));
    if (i.isSigned && i.bytes < 8 && word >> (8 * i.bytes - 1)) word |= ~uint64_t(0) << 8 * i.bytes;
    registers.registers[i.operands[element]][lane] = word;
    if (i.kind == Instruction::kAtomic) {
      const uint32_t next = i.update(uint32_t(word), uint32_t(registers[i.operands[1]][lane]));
      memcpy(data, &next, sizeof next);
    }
  }

  void shuffleDown(const Instruction& i, Frame& frame, uint32_t lanes) {
    const Registers registers = frame.view();
    const Lanes from = registers[i.operands[1]], distances = registers[i.operands[2]];
    const Lanes bounds = registers[i.operands[3]], members = registers[i.operands[4]];
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      if (uint32_t(members[lane]) != lanes) refuse("not all lanes that take part are there, or others are", lane);
      const uint32_t segment = uint32_t(bounds[lane]) >> 8 & 31, clamp = uint32_t(bounds[lane]) & 31;
      const uint32_t most = (uint32_t(lane) & segment) | (clamp & ~segment);
      const uint32_t other = uint32_t(lane) + (uint32_t(distances[lane]) & 31);
      const bool inside = other <= most;
      if (inside && !(lanes >> other & 1)) refuse("asks lane " + std::to_string(other) + ", which is not there", lane);
      registers.registers[i.operands[0]][lane] = from[inside ? other : uint32_t(lane)];
      if (i.target >= 0) registers.registers[i.target][lane] = inside;
    }
  }

  // --- Control.

  Frame& enter(Warp& warp, const Function& function, uint32_t lanes, int64_t local) {
    if (warp.depth == int(warp.frames.size())) warp.frames.emplace_back();
    Frame& frame = warp.frames[size_t(warp.depth++)];
    frame.function = &function;
    if (frame.capacity < function.registers) {
      frame.registers.reset(static_cast<Lanes*>(calloc(size_t(function.registers), sizeof(Lanes))));
      frame.capacity = function.registers;
    }
    frame.ways.assign(1, {0, -1, lanes});
    frame.lanes = lanes;
    frame.variables.resize(size_t(function.variableBytes * kLanes));
    frame.local = (local + 15) / 16 * 16;
    frame.call = nullptr;
    if (function.localBytes > 0) {
      if (frame.local + function.localBytes > kMostLocal)
        throw Fault{function.name + " has too much memory of its own"};
      if (warp.local.empty()) warp.local.resize(kMostLocal * kLanes);
      if (warp.localWritten.empty()) warp.localWritten.resize(kMostLocal * kLanes);
      for (int lane = 0; lane < kLanes; ++lane) {
        memset(&warp.localWritten[size_t(lane * kMostLocal + frame.local)], 0, size_t(function.localBytes));
      }
    }
    for (const auto& [number, special] : function.specials) {
      Lanes& lane = frame.registers.get()[number];
      switch (special.kind) {
        case Special::kThread:
          for (int k = 0; k < kLanes; ++k) lane[k] = uint64_t(warp.number * kLanes + k);
          break;
        case Special::kBlock:
          lane.fill(uint64_t(block));
          break;
        case Special::kThreads:
          lane.fill(uint64_t(threads));
          break;
        case Special::kBlocks:
          lane.fill(uint64_t(blocks));
          break;
        case Special::kLocal:
          lane.fill(uint64_t(frame.local + special.offset));
      }
    }
    return frame;
  }

  void call(const Instruction& i, Warp& warp, uint32_t lanes) {
    const size_t caller = size_t(warp.depth - 1);
    const Function* function = module.function(i.callee, warp.frames[caller].function->file);
    if (!function) refuse("no function " + i.callee);
    if (function->parameters.size() != i.arguments.size()) refuse("other arguments than " + i.callee + " has");
    enter(warp, *function, lanes, warp.frames[caller].local + warp.frames[caller].function->localBytes);
    Frame &from = warp.frames[caller], &to = warp.frames[caller + 1];
    to.call = &i;
    for (size_t k = 0; k < i.arguments.size(); ++k) {
      for (int lane = 0; lane < kLanes; ++lane) {
        memcpy(to.variable(lane, function->parameters[k].offset), from.variable(lane, i.arguments[k].offset),
               size_t(function->parameters[k].bytes));
      }
    }
  }
  void leave(Warp& warp) {
    Frame& from = warp.frames[size_t(--warp.depth)];
    if (warp.depth == 0) return;
    Frame& to = warp.frames[size_t(warp.depth - 1)];
    for (uint32_t rest = from.lanes; rest; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      memcpy(to.variable(lane, from.call->result.offset), from.variable(lane, from.function->result.offset),
             size_t(from.call->result.bytes));
    }
  }

  void branch(const Instruction& i, Frame& frame, uint32_t taken) {
    Way& way = frame.ways.back();
    const uint32_t others = way.lanes & ~taken;
    if (taken == 0) {
      ++way.at;
    } else if (others == 0) {
      way.at = i.target;
    } else {
      const Way next = {way.at + 1, i.meeting, others}, there = {i.target, i.meeting, taken};
      way.at = i.meeting;
      frame.ways.push_back(next);
      frame.ways.push_back(there);
    }
  }

  // Until the warp waits or is done.
  void advance(Warp& warp) {
    currentWarp = warp.number;
    while (warp.depth > 0) {
      Frame& frame = warp.frames[size_t(warp.depth - 1)];
      if (frame.ways.empty()) {
        leave(warp);
        continue;
      }
      Way& way = frame.ways.back();
      if (way.lanes == 0 || way.at == way.until) {
        frame.ways.pop_back();
        continue;
      }
      const Instruction& i = frame.function->code[size_t(way.at)];
      current = &i;
      currentFrame = &frame;
      const uint32_t lanes = way.lanes & guarded(i, frame);
      ++counts.warpInstructions;
      counts.instructions += __builtin_popcount(lanes);
      if (i.kind == Instruction::kBranch) {
        if (i.meeting < 0) refuse("no way leads out of this loop", __builtin_ctz(lanes | 1u << 31));
        branch(i, frame, lanes);
        continue;
      }
      ++way.at;
      if (lanes == 0) continue;
      switch (i.kind) {
        case Instruction::kCompute:
          i.compute.run(i, frame.view(), lanes);
          break;
        case Instruction::kLoad:
        case Instruction::kStore:
        case Instruction::kAtomic:
          access(i, frame, lanes);
          break;
        case Instruction::kShuffleDown:
          shuffleDown(i, frame, lanes);
          break;
        case Instruction::kCall:
          call(i, warp, lanes);
          break;
        case Instruction::kReturn:
          for (Way& each : frame.ways) each.lanes &= ~lanes;
          if (warp.depth == 1) warp.alive &= ~lanes;
          break;
        case Instruction::kBarrier:
          if (lanes != allLanes(warp.number)) refuse("not all threads of the warp come to the barrier");
          warp.barrier = &i;
          return;
        case Instruction::kBranch:
          break;
      }
    }
  }
  uint32_t guarded(const Instruction& i, const Frame& frame) const {
    if (i.guard < 0) return ~0u;
    const Lanes& values = frame.registers.get()[i.guard];
    uint32_t lanes = 0;
    for (int lane = 0; lane < kLanes; ++lane) lanes |= uint32_t(values[lane] != 0) << lane;
    return i.unless ? ~lanes : lanes;
  }
  uint32_t allLanes(int warp) const {
    const int left = threads - warp * kLanes;
    return left >= kLanes ? ~0u : (1u << left) - 1;
  }

  void runBlock() {
    blockBegan = intervalBegan = ++epoch;
    acquired.clear();
    for (size_t k = 0; k < warps.size(); ++k) {
      Warp& warp = warps[k];
      warp.number = int(k);
      warp.alive = allLanes(int(k));
      warp.depth = 0;
      enter(warp, *kernel, warp.alive, 0);
    }
    while (true) {
      for (Warp& warp : warps) {
        warp.barrier = nullptr;
        advance(warp);
      }
      const Instruction* barrier = warps[0].barrier;
      for (const Warp& warp : warps) {
        if (warp.barrier == barrier) continue;
        const Warp& waits = warp.barrier ? warp : warps[0];
        current = waits.barrier;
        currentWarp = waits.number;
        currentFrame = &waits.frames[0];
        refuse("not all warps of the block come to this barrier");
      }
      if (!barrier) return;
      intervalBegan = ++epoch;
    }
  }
};

Machine::Machine(Module& module) : module_(module), launch_(std::make_unique<Launch>(module)) {}
Machine::~Machine() = default;

Counts Machine::run(const Function& kernel, int64_t blocks, int threads, const std::vector<std::string>& arguments,
                    std::vector<Region> regions) {
  Launch& launch = *launch_;
  launch.kernel = &kernel;
  launch.blocks = blocks;
  launch.threads = threads;
  if (arguments.size() != kernel.parameters.size()) throw Fault{kernel.name + " has other arguments"};
  launch.arguments.assign(size_t(kernel.argumentBytes), 0);
  for (size_t k = 0; k < arguments.size(); ++k) {
    const Symbol& parameter = kernel.parameters[k];
    if (int64_t(arguments[k].size()) != parameter.bytes) throw Fault{kernel.name + " has arguments of other sizes"};
    memcpy(launch.arguments.data() + parameter.offset, arguments[k].data(), arguments[k].size());
  }
  for (const auto& [name, table] : module_.tables()) {
    char* data = const_cast<char*>(table.bytes.data());
    regions.push_back({reinterpret_cast<uint64_t>(data), table.bytes.size(), data, false, {}});
  }
  std::sort(regions.begin(), regions.end(), [](const Region& a, const Region& b) { return a.begin < b.begin; });
  // What is known of who used them stays: epochs tell the launches apart.
  for (Region& region : regions) {
    for (Region& before : launch.regions) {
      if (before.begin == region.begin && before.bytes == region.bytes) region.cells = std::move(before.cells);
    }
  }
  launch.regions = std::move(regions);
  launch.lastRegion = 0;
  launch.shared.resize(size_t(kernel.sharedBytes));
  launch.sharedCells.resize(size_t(kernel.sharedBytes + kCell - 1) / kCell);
  launch.warps.resize(size_t(threads + kLanes - 1) / kLanes);
  launch.counts = {};
  launch.launchBegan = launch.epoch + 1;
  launch.released.clear();
  for (launch.block = 0; launch.block < blocks; ++launch.block) launch.runBlock();
  return launch.counts;
}

}  // namespace ptx
}  // namespace fpl
