// What instructions make of registers. Results are exact or correctly rounded as PTX has it; float32 NaN is the one
// that GPUs give. The approximate ones are those of native/cuda/host/block.h, with as much error as the instructions
// may have.
#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "../../native/core/dtypes.h"
#include "../../native/cuda/host/block.h"
#include "module.h"

namespace fpl {
namespace ptx {
namespace {

template <typename T>
T valueOf(uint64_t word) {
  if constexpr (std::is_same_v<T, float>) {
    return floatOf(uint32_t(word));
  } else if constexpr (std::is_same_v<T, double>) {
    double value;
    memcpy(&value, &word, sizeof value);
    return value;
  } else if constexpr (std::is_same_v<T, bool>) {
    return word != 0;
  } else {
    return T(word);
  }
}

uint64_t wordOf(float value) { return bitsOf(value); }
uint64_t wordOf(double value) {
  uint64_t word;
  memcpy(&word, &value, sizeof word);
  return word;
}
template <typename T>
uint64_t wordOf(T value) {
  return uint64_t(value);
}

template <typename F>
void eachLane(uint32_t lanes, const F& f) {
  if (lanes == ~0u) {
    for (int lane = 0; lane < kLanes; ++lane) f(lane);
  } else {
    for (; lanes; lanes &= lanes - 1) f(__builtin_ctz(lanes));
  }
}

template <typename F>
struct Lambda : Lambda<decltype(&F::operator())> {};
template <typename F, typename R, typename... A>
struct Lambda<R (F::*)(A...) const> {
  template <size_t... at>
  static void apply(const F& f, const Instruction& i, Registers r, uint32_t lanes, std::index_sequence<at...>) {
    Lanes& to = r.registers[i.operands[0]];
    const Lanes* const from[] = {&r[i.operands[at + 1]]...};
    eachLane(lanes, [&](int lane) { to[lane] = wordOf(f(valueOf<A>((*from[at])[lane])...)); });
  }
  static constexpr int kCount = sizeof...(A);
};

// An operation on the operands of one lane.
template <typename F>
Compute op(F f) {
  static const F function = f;
  using L = Lambda<F>;
  return {[](const Instruction& i, Registers r, uint32_t lanes) {
            L::apply(function, i, r, lanes, std::make_index_sequence<L::kCount>{});
          },
          L::kCount + 1};
}

// The low and high halves of a register from two, and into two.
template <typename Half>
Compute pack() {
  return op([](Half low, Half high) { return uint64_t(high) << 8 * sizeof(Half) | uint64_t(low); });
}
template <typename Half>
Compute unpack() {
  return {[](const Instruction& i, Registers r, uint32_t lanes) {
            Lanes &low = r.registers[i.operands[0]], &high = r.registers[i.operands[1]];
            const Lanes whole = r[i.operands[2]];
            eachLane(lanes, [&](int lane) {
              low[lane] = Half(whole[lane]);
              high[lane] = Half(whole[lane] >> 8 * sizeof(Half));
            });
          },
          3};
}

float canonical(float x) { return x != x ? floatOf(0x7fffffff) : x; }
double canonical(double x) { return x; }

template <typename T>
T larger(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a) return canonical(b);
    if (b != b) return a;
    if (a == b) return std::signbit(a) ? b : a;
  }
  return a < b ? b : a;
}
template <typename T>
T smaller(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a) return canonical(b);
    if (b != b) return a;
    if (a == b) return std::signbit(a) ? a : b;
  }
  return b < a ? b : a;
}

template <typename To, typename From>
To saturated(From x) {
  if (x != x) return 0;
  if (x <= From(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
  if (x >= From(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
  return To(x);
}

template <typename T>
uint32_t packTwo(float high, float low) {
  // PTX' one NaN, without a sign, in the place of the argument's.
  const auto bits = [](float x) {
    T half;
    fromFloat(x, half);
    return x != x ? 0x7fffu : uint32_t(half.bits);
  };
  return bits(high) << 16 | bits(low);
}

uint32_t permuted(uint32_t a, uint32_t b, uint32_t selectors) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = selectors >> 4 * i & 15;
    uint32_t byte = uint32_t(bytes >> 8 * (selector & 7)) & 0xff;
    if (selector & 8) byte = byte & 0x80 ? 0xff : 0;
    out |= byte << 8 * i;
  }
  return out;
}

uint64_t inserted(uint64_t bits, uint64_t into, uint32_t at, uint32_t length) {
  at &= 0xff;
  length &= 0xff;
  if (at >= 64 || length == 0) return into;
  const uint64_t mask = (length >= 64 ? ~uint64_t(0) : (uint64_t(1) << length) - 1) << at;
  return (into & ~mask) | (bits << at & mask);
}

using Computes = std::unordered_map<std::string, Compute>;

template <typename T>
void addComparisons(Computes& all, const std::string& type) {
  all["setp.eq." + type] = op([](T a, T b) { return a == b; });
  all["setp.ne." + type] = op([](T a, T b) { return a < b || a > b; });  // false for NaN
  all["setp.lt." + type] = op([](T a, T b) { return a < b; });
  all["setp.le." + type] = op([](T a, T b) { return a <= b; });
  all["setp.gt." + type] = op([](T a, T b) { return a > b; });
  all["setp.ge." + type] = op([](T a, T b) { return a >= b; });
}

template <typename T>
void addFloats(Computes& all, const std::string& type) {
  addComparisons<T>(all, type);
  all["setp.neu." + type] = op([](T a, T b) { return a != b; });
  all["setp.ltu." + type] = op([](T a, T b) { return !(a >= b); });
  all["setp.leu." + type] = op([](T a, T b) { return !(a > b); });
  all["setp.gtu." + type] = op([](T a, T b) { return !(a <= b); });
  all["setp.geu." + type] = op([](T a, T b) { return !(a < b); });
  all["setp.num." + type] = op([](T a, T b) { return a == a && b == b; });
  all["setp.nan." + type] = op([](T a, T b) { return a != a || b != b; });
  all["add.rn." + type] = op([](T a, T b) { return canonical(a + b); });
  all["sub.rn." + type] = op([](T a, T b) { return canonical(a - b); });
  all["mul.rn." + type] = op([](T a, T b) { return canonical(a * b); });
  all["fma.rn." + type] = op([](T a, T b, T c) { return canonical(std::fma(a, b, c)); });
  all["div.rn." + type] = op([](T a, T b) { return canonical(a / b); });
  all["rcp.rn." + type] = op([](T a) { return canonical(1 / a); });
  all["max." + type] = op([](T a, T b) { return larger(a, b); });
  all["min." + type] = op([](T a, T b) { return smaller(a, b); });
  all["abs." + type] = op([](T a) { return std::fabs(a); });
  all["neg." + type] = op([](T a) { return -a; });
  all["copysign." + type] = op([](T sign, T a) { return std::copysign(a, sign); });
}

template <typename T>
void addIntegers(Computes& all, const std::string& width) {
  using S = std::make_signed_t<T>;
  constexpr uint32_t kBits = 8 * sizeof(T);
  addComparisons<S>(all, "s" + width);
  addComparisons<T>(all, "u" + width);
  all["setp.eq.b" + width] = op([](T a, T b) { return a == b; });
  all["setp.ne.b" + width] = op([](T a, T b) { return a != b; });
  all["add.s" + width] = all["add.u" + width] = op([](T a, T b) { return T(a + b); });
  all["sub.s" + width] = op([](T a, T b) { return T(a - b); });
  all["mul.lo.s" + width] = op([](T a, T b) { return T(uint64_t(a) * b); });
  all["mad.lo.s" + width] = op([](T a, T b, T c) { return T(uint64_t(a) * b + c); });
  all["min.s" + width] = op([](S a, S b) { return smaller(a, b); });
  all["max.s" + width] = op([](S a, S b) { return larger(a, b); });
  all["min.u" + width] = op([](T a, T b) { return smaller(a, b); });
  all["max.u" + width] = op([](T a, T b) { return larger(a, b); });
  all["neg.s" + width] = op([](T a) { return T(-a); });
  all["abs.s" + width] = op([](S a) { return a < 0 ? T(-T(a)) : T(a); });
  all["and.b" + width] = op([](T a, T b) { return T(a & b); });
  all["or.b" + width] = op([](T a, T b) { return T(a | b); });
  all["xor.b" + width] = op([](T a, T b) { return T(a ^ b); });
  all["not.b" + width] = op([](T a) { return T(~a); });
  all["shl.b" + width] = op([](T a, uint32_t by) { return by < kBits ? T(a << by) : T(0); });
  all["shr.u" + width] = op([](T a, uint32_t by) { return by < kBits ? T(a >> by) : T(0); });
  all["shr.s" + width] = op([](S a, uint32_t by) { return T(a >> (by < kBits ? by : kBits - 1)); });
  for (const char* type : {"s", "u", "b"}) {
    all["selp." + (type + width)] = op([](T a, T b, bool which) { return which ? a : b; });
    all["mov." + (type + width)] = op([](T a) { return a; });
  }
  // What a division by 0 gives is left open; here it is all ones.
  if constexpr (sizeof(T) > 2) {
    all["div.u" + width] = op([](T a, T b) { return b ? T(a / b) : T(~T(0)); });
    all["rem.u" + width] = op([](T a, T b) { return b ? T(a % b) : T(~T(0)); });
    all["div.s" + width] = op([](S a, S b) { return b == 0 ? T(~T(0)) : b == -1 ? T(-T(a)) : T(a / b); });
    all["rem.s" + width] = op([](S a, S b) { return b == 0 ? T(~T(0)) : b == -1 ? T(0) : T(a % b); });
  }
}

Computes made() {
  Computes all;
  addFloats<float>(all, "f32");
  addFloats<double>(all, "f64");
  addIntegers<uint16_t>(all, "16");
  addIntegers<uint32_t>(all, "32");
  addIntegers<uint64_t>(all, "64");
  all["mov.f32"] = op([](uint32_t a) { return a; });
  all["mov.f64"] = op([](uint64_t a) { return a; });
  all["selp.f32"] = op([](uint32_t a, uint32_t b, bool which) { return which ? a : b; });
  all["selp.f64"] = op([](uint64_t a, uint64_t b, bool which) { return which ? a : b; });
  all["mov.b32 pack"] = pack<uint16_t>();
  all["mov.b64 pack"] = pack<uint32_t>();
  all["mov.b32 unpack"] = unpack<uint16_t>();
  all["mov.b64 unpack"] = unpack<uint32_t>();

  all["mov.pred"] = op([](bool a) { return a; });
  all["not.pred"] = op([](bool a) { return !a; });
  all["and.pred"] = op([](bool a, bool b) { return a && b; });
  all["or.pred"] = op([](bool a, bool b) { return a || b; });

  all["mul.hi.u64"] = op([](uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)(a)*b >> 64); });
  all["mul.wide.u16"] = op([](uint16_t a, uint16_t b) { return uint32_t(a) * b; });
  all["mul.wide.u32"] = op([](uint32_t a, uint32_t b) { return uint64_t(a) * b; });
  all["mul.wide.s32"] = op([](int32_t a, int32_t b) { return int64_t(a) * b; });
  all["shf.r.wrap.b32"] =
      op([](uint32_t low, uint32_t high, uint32_t by) { return uint32_t((uint64_t(high) << 32 | low) >> (by & 31)); });
  all["bfi.b64"] = op([](uint64_t a, uint64_t b, uint32_t at, uint32_t length) { return inserted(a, b, at, length); });
  all["prmt.b32"] = op([](uint32_t a, uint32_t b, uint32_t selectors) { return permuted(a, b, selectors); });

  all["cvt.u16.u32"] = op([](uint32_t a) { return uint16_t(a); });
  all["cvt.u16.u64"] = op([](uint64_t a) { return uint16_t(a); });
  all["cvt.u32.u16"] = op([](uint16_t a) { return uint32_t(a); });
  all["cvt.u32.u64"] = op([](uint64_t a) { return uint32_t(a); });
  all["cvt.u64.u16"] = op([](uint16_t a) { return uint64_t(a); });
  all["cvt.u64.u32"] = op([](uint32_t a) { return uint64_t(a); });
  all["cvt.s64.s16"] = op([](int16_t a) { return int64_t(a); });
  all["cvt.s64.s32"] = op([](int32_t a) { return int64_t(a); });
  all["cvt.f32.f16"] = op([](uint16_t a) { return canonical(toFloat(Float16{a})); });
  all["cvt.f64.f32"] = op([](float a) { return double(a); });
  all["cvt.rn.f32.f64"] = op([](double a) { return canonical(float(a)); });
  all["cvt.rn.f32.u16"] = op([](uint16_t a) { return float(a); });
  all["cvt.rn.f32.s32"] = op([](int32_t a) { return float(a); });
  all["cvt.rn.f64.s16"] = op([](int16_t a) { return double(a); });
  all["cvt.rn.f64.s32"] = op([](int32_t a) { return double(a); });
  all["cvt.rn.f64.u32"] = op([](uint32_t a) { return double(a); });
  all["cvt.rn.f64.s64"] = op([](int64_t a) { return double(a); });
  all["cvt.rzi.s32.f64"] = op([](double a) { return saturated<int32_t>(a); });
  all["cvt.rni.f64.f64"] = op([](double a) { return std::nearbyint(a); });
  all["cvt.rn.f16x2.f32"] = op([](float high, float low) { return packTwo<Float16>(high, low); });
  all["cvt.rn.bf16x2.f32"] = op([](float high, float low) { return packTwo<BFloat16>(high, low); });

  // .ftz: subnormal arguments are 0.
  all["ex2.approx.ftz.f32"] = op([](float a) { return canonical(cuda::exp2Fast(a)); });
  all["rcp.approx.ftz.f32"] =
      op([](float a) { return canonical(cuda::inverseFast(std::fabs(a) < 0x1p-126f ? std::copysign(0.0f, a) : a)); });
  return all;
}

}  // namespace

const std::unordered_map<std::string, Compute>& computes() {
  static const Computes all = made();
  return all;
}

}  // namespace ptx
}  // namespace fpl
