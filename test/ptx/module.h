// nvcc's PTX as instructions that machine.h carries out. What is not known here is refused, with its name and line.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace fpl {
namespace ptx {

constexpr int kLanes = 32;

// The values of a register in the lanes of a warp, in the low bits.
using Lanes = std::array<uint64_t, kLanes>;

// What is unknown here, or what a kernel may not do.
struct Fault {
  std::string message;
};

struct Instruction;

// The registers that an instruction sees. An operand is the number of a register or, below 0, of a constant.
struct Registers {
  Lanes* registers;
  const Lanes* constants;

  const Lanes& operator[](int operand) const { return operand < 0 ? constants[~operand] : registers[operand]; }
};

// Carries out an instruction that reads and writes registers alone, in some lanes.
struct Compute {
  void (*run)(const Instruction&, Registers, uint32_t lanes) = nullptr;
  int operands = 0;
};
// By opcode. Moves of several registers into one and back are called `pack` and `unpack`.
const std::unordered_map<std::string, Compute>& computes();

// Where addresses count from 0, but for global ones: a block's shared memory, a thread's own memory, the arguments of
// the kernel, and the variables through which functions are called.
enum class Space { kGlobal, kShared, kLocal, kArguments, kVariables };

struct Symbol {
  Space space;
  int64_t offset;
  int64_t bytes;
};

struct Function;

struct Instruction {
  enum Kind { kCompute, kLoad, kStore, kAtomic, kShuffleDown, kBranch, kCall, kReturn, kBarrier };
  static constexpr int kMost = 5;

  Kind kind = kCompute;
  std::string opcode;
  int line = 0;
  Compute compute;
  int operands[kMost] = {};  // results first
  int count = 0;
  // The lanes that take part: those where this register is true or, if `unless`, false.
  int guard = -1;
  bool unless = false;
  // Of memory: `elements` of `bytes` each at `base` (or 0 where that is -1) + `offset`.
  Space space = Space::kGlobal;
  int elements = 1, bytes = 0, base = -1;
  bool isSigned = false;
  int64_t offset = 0;
  // Of atomics: what is in memory becomes update(that, operand). An ordered one acquires and releases.
  uint32_t (*update)(uint32_t, uint32_t) = nullptr;
  bool isOrdered = false;
  // Of branches: where they lead, and where lanes that went either way meet again.
  int target = -1, meeting = -1;
  // Of calls: the function, and the caller's variables for its arguments and its result.
  std::string callee;
  std::vector<Symbol> arguments;
  Symbol result{};
};

// What a register holds from the beginning on.
struct Special {
  enum Kind { kThread, kBlock, kThreads, kBlocks, kLocal } kind;
  int64_t offset;  // of kLocal: from where the function's own memory begins
};

struct Function {
  std::string file, name;
  bool isKernel = false;
  std::vector<Instruction> code;
  int registers = 0;
  std::vector<Lanes> constants;
  std::vector<std::pair<int, Special>> specials;
  std::vector<Symbol> parameters;
  Symbol result{};
  int64_t argumentBytes = 0, variableBytes = 0, localBytes = 0, sharedBytes = 0;
};

// Variables of the module in global memory.
struct Table {
  std::vector<char> bytes;
};

// The name that C++ has for what the linker knows as `name`; and what is left of it without a list of parameters.
std::string demangled(const std::string& name);
std::string withoutParameters(const std::string& name);

// All files of a folder.
class Module {
 public:
  explicit Module(const std::string& folder);
  // Of one text, for tests.
  Module(const std::string& file, const std::string& text) { add(file, text); }

  // The names of all kernels.
  std::vector<std::string> kernels() const;
  // Null where there is none. Parsed when it is first asked for.
  const Function* function(const std::string& name, const std::string& file);
  // The kernel of this name, of any file; names are those of demangled() without the parameters.
  const Function* kernel(const std::string& name);
  const std::map<std::string, Table>& tables() const { return tables_; }

 private:
  struct Source {
    std::string file, name, text;
    int line = 0;
    bool isKernel = false;
  };
  void add(const std::string& file, const std::string& text);

  std::map<std::string, Source> sources_;  // by file and name
  std::map<std::string, std::string> demangled_;
  std::map<std::string, std::unique_ptr<Function>> functions_;
  std::map<std::string, Table> tables_;  // by file and name
};

}  // namespace ptx
}  // namespace fpl
