// Finds the instruction sets of this CPU, and computes the constants that all of them share.
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels.h"
#include "tiles.h"

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace fpl {

ExpConstants::ExpConstants(double temperature) {
  FPL_ASSERT(temperature > 0 && temperature < INFINITY);
  inverseTemperature = 1 / temperature;
  unitLog = temperature * kLn2;
  log2e = float(kLog2e / temperature);
  int exponent;
  const double mantissa = frexp(unitLog, &exponent);
  ln2High = float(ldexp(floor(ldexp(mantissa, 12)), exponent - 12));
  ln2Low = float(unitLog - double(ln2High));
  ln2 = float(unitLog);
  ln2Error = (unitLog - double(ln2)) * inverseTemperature;
  oneConstant = fabs(ln2Error) < 3e-9;
  inReach = temperature <= 4;
  inverse = float(inverseTemperature);
  const double whole[] = {1, kExp2, kExp3, kExp4, kExp5, kExp6}, eighth[] = {1, kExp2OfEighth, kExp3OfEighth};
  double power = 1;
  for (int i = 0; i < 6; ++i) {
    power *= inverseTemperature;
    ofWhole[i] = float(whole[i] * power);
    if (i < 3) ofEighth[i] = float(eighth[i] * power);
  }
}

#if defined(__x86_64__) || defined(_M_X64)
namespace {

struct Registers {
  uint32_t a, b, c, d;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r{};
#if defined(_MSC_VER)
  int out[4];
  __cpuidex(out, int(leaf), int(subleaf));
  r = {uint32_t(out[0]), uint32_t(out[1]), uint32_t(out[2]), uint32_t(out[3])};
#else
  __cpuid_count(leaf, subleaf, r.a, r.b, r.c, r.d);
#endif
  return r;
}

// The vector registers whose contents the operating system saves, a bit for each kind.
uint64_t savedRegisters() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
#endif
}

bool all(uint64_t bits, uint64_t wanted) { return (bits & wanted) == wanted; }

InstructionSets detect() {
  InstructionSets found{};
  bool hasAvx2 = false, hasAvx512 = false, hasBFloat16 = false;
  const Registers features = cpuid(1, 0);
  constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kF16c = 1u << 29;
  if (cpuid(0, 0).a >= 7 && all(features.c, kFma | kOsxsave | kF16c)) {
    const uint32_t extended = cpuid(7, 0).b;
    const uint64_t saved = savedRegisters();
#if defined(__APPLE__)
    // Darwin saves the registers of AVX-512 too, but says so only once a thread has used them.
    constexpr uint64_t kAvx512Registers = 0x6;
#else
    constexpr uint64_t kAvx512Registers = 0xe6;
#endif
    constexpr uint32_t kAvx2 = 1u << 5, kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
    hasAvx2 = all(extended, kAvx2) && all(saved, 0x6);
    hasAvx512 = hasAvx2 && all(extended, kF | kDq | kBw | kVl) && all(saved, kAvx512Registers);
    hasBFloat16 = hasAvx512 && cpuid(7, 0).a >= 1 && all(cpuid(7, 1).a, 1u << 5);
  }
#if defined(FPL_AVX512BF16)
  if (hasBFloat16 && avx512bf16::kPairs.works()) {
    static Kernels kernels = avx512::kKernels;
    kernels.name = "avx512bf16";
    kernels.pairs = &avx512bf16::kPairs;
    found.sets[found.count++] = &kernels;
  }
#endif
  if (hasAvx512) found.sets[found.count++] = &avx512::kKernels;
  // The faster of the two comes first; their bits are the same. Intel's cores take nearly twice as long for a product
  // of pairs as for two multiply-adds.
  const bool isIntel = cpuid(0, 0).b == 0x756e6547;  // "Genu", of "GenuineIntel"
  if (isIntel && found.count == 2) std::swap(found.sets[0], found.sets[1]);
  if (hasAvx2) found.sets[found.count++] = &avx2::kKernels;
  found.sets[found.count++] = &baseline::kKernels;
  return found;
}

}  // namespace
#else
namespace {
#if defined(__wasm__)
InstructionSets detect() { return {{&wasm::kKernels}, 1}; }
#else
InstructionSets detect() { return {{&neon::kKernels}, 1}; }
#endif
}  // namespace
#endif

const InstructionSets& instructionSets() {
  // Asked once: on a virtual machine CPUID takes longer than a small call.
  static const InstructionSets found = detect();
  return found;
}

const Kernels* findInstructionSet(const char* name) {
  const InstructionSets& found = instructionSets();
  for (int32_t i = 0; i < found.count; ++i) {
    if (strcmp(found.sets[i]->name, name) == 0) return found.sets[i];
  }
  return nullptr;
}

#if defined(FPL_AMX)
namespace {

// Why tiles cannot be used, or null.
const char* problemOfAmx() {
  constexpr uint32_t kBFloat16 = 1u << 22, kTile = 1u << 24;
  constexpr uint64_t kTileRegisters = 0x60000;
  if (!findInstructionSet("avx512") || !all(cpuid(7, 0).d, kBFloat16 | kTile))
    return "this CPU has no AMX for bfloat16";
  if (!all(savedRegisters(), kTileRegisters)) return "the system does not save AMX's registers";
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) {
    return "the system does not let this process use AMX";
  }
  return amx::kTiles.works() ? nullptr : "this CPU's AMX adds in another order than Intel's manual says";
}

}  // namespace
#endif

const TileKernels* amxTiles(const char** problem) {
#if defined(FPL_AMX)
  static const char* const found = problemOfAmx();
  if (problem) *problem = found;
  return found ? nullptr : &amx::kTiles;
#else
  if (problem) *problem = "this build has no AMX, which is of Linux on x64";
  return nullptr;
#endif
}

}  // namespace fpl
