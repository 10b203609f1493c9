// The floating-point environment that all arithmetic here relies on: rounding to nearest, no traps, and subnormal
// numbers that are neither flushed nor taken for zeros. Other code in the process may have left another environment on
// the thread, and a new thread begins with its creator's.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#elif defined(_M_ARM64)
#include <intrin.h>
#endif

namespace fpl {

// The register that holds it: MXCSR on x86-64, FPCR on arm64. A processor with neither has one environment only.
#if defined(__x86_64__) || defined(_M_X64)
constexpr uint64_t kFloatEnvironment = 0x1f80;
inline uint64_t floatEnvironment() { return _mm_getcsr(); }
inline void setFloatEnvironment(uint64_t value) { _mm_setcsr(uint32_t(value)); }
#elif defined(__aarch64__)
constexpr uint64_t kFloatEnvironment = 0;
inline uint64_t floatEnvironment() {
  uint64_t value;
  __asm__ volatile("mrs %0, fpcr" : "=r"(value) : : "memory");
  return value;
}
inline void setFloatEnvironment(uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
#elif defined(_M_ARM64)
constexpr uint64_t kFloatEnvironment = 0;
inline uint64_t floatEnvironment() { return uint64_t(_ReadStatusReg(ARM64_FPCR)); }
inline void setFloatEnvironment(uint64_t value) { _WriteStatusReg(ARM64_FPCR, int64_t(value)); }
#else
constexpr uint64_t kFloatEnvironment = 0;
inline uint64_t floatEnvironment() { return kFloatEnvironment; }
inline void setFloatEnvironment(uint64_t) {}
#endif

// Sets that environment on this thread for as long as the object lives, and then the thread's own again. On x86-64 the
// flags of past exceptions are in the same register and become those of before, too.
class FloatEnvironment {
 public:
  FloatEnvironment() : before_(floatEnvironment()) {
    if (before_ != kFloatEnvironment) setFloatEnvironment(kFloatEnvironment);
  }
  ~FloatEnvironment() { setFloatEnvironment(before_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  const uint64_t before_;
};

}  // namespace fpl
