// exp, log, log1p and expm1 of native/core/exact_math.h: cases that are hard to round, values at the edges, and random
// arguments, at which both attempts must agree; where MPFR was found, these against MPFR too.
//
//   exact_math [--random N] [FILE...]   FILE: lines "function argument result", in hexadecimal; # begins a comment
//   exact_math --results FILE           the lines of FILE, "function argument", with MPFR's results, hardest first
//
// Prints what it tried; exits with 1 when something is wrong.
#include "../../native/core/exact_math.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#if defined(FPL_MPFR)
#include <mpfr.h>

#include <algorithm>
#endif

namespace {

using namespace fpl;

int64_t failures = 0;

uint64_t bitsOf(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
double doubleOf(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
// The float64 that is `steps` further from 0.
double beyond(double x, int64_t steps) { return doubleOf(bitsOf(x) + uint64_t(steps)); }

bool same(double a, double b) { return bitsOf(a) == bitsOf(b) || (a != a && b != b); }

void check(const char* function, double x, double got, double wanted, const char* what) {
  if (same(got, wanted)) return;
  ++failures;
  fprintf(stderr, "wrong: %s(%a) is %a, wanted %a (%s)\n", function, x, got, wanted, what);
}

struct Function {
  const char* name;
  double (*function)(double);
  // The second attempt alone, and whether it is made for this x.
  double (*wide)(double);
  bool (*hasWide)(double);
};

bool moderate(double x) { return std::fabs(x) >= 0x1p-54 && std::fabs(x) < 745; }

const Function kFunctions[] = {
    {"exp", fpl::exp, exact::expWide, moderate},
    {"log", fpl::log, exact::logWide, [](double x) { return x > 0 && x < INFINITY && x != 1; }},
    {"log1p", fpl::log1p, exact::log1pWide, [](double x) { return std::fabs(x) >= 0x1p-54 && x > -1 && x < INFINITY; }},
    {"expm1", fpl::expm1, exact::expm1Wide, [](double x) { return moderate(x) && x > -700; }},
};

const Function* find(const std::string& name) {
  for (const Function& f : kFunctions) {
    if (name == f.name) return &f;
  }
  return nullptr;
}

// Values known without arithmetic.
void edges() {
  const double smallest = doubleOf(1), largest = beyond(INFINITY, -1), nan = NAN;
  const struct {
    const char* name;
    double x, wanted;
  } kCases[] = {
      {"exp", 0.0, 1},
      {"exp", -0.0, 1},
      {"exp", INFINITY, INFINITY},
      {"exp", -INFINITY, 0},
      {"exp", nan, nan},
      {"exp", smallest, 1},
      {"exp", -0x1p-54, 1},
      {"exp", beyond(0x1p-53, 1), 1 + 0x1p-52},
      {"exp", 0x1p-53, 1 + 0x1p-52},  // 1 + 2^-53 + 2^-107: above the middle
      {"exp", beyond(0x1p-53, -1), 1},
      {"exp", beyond(-0x1p-54, 1), 1 - 0x1p-53},
      {"exp", 0x1.62e42fefa39efp9, 0x1.fffffffffff2ap1023},
      {"exp", 0x1.62e42fefa39f0p9, INFINITY},
      {"exp", 709.9, INFINITY},
      {"exp", largest, INFINITY},
      {"exp", -0x1.74910d52d3051p9, smallest},
      {"exp", -0x1.74910d52d3052p9, 0},
      {"exp", -745.9, 0},
      {"exp", -largest, 0},
      {"log", 0.0, -INFINITY},
      {"log", -0.0, -INFINITY},
      {"log", 1, 0},
      {"log", INFINITY, INFINITY},
      {"log", -smallest, nan},
      {"log", -INFINITY, nan},
      {"log", nan, nan},
      {"log", smallest, -0x1.74385446d71c3p9},
      {"log", largest, 0x1.62e42fefa39efp9},
      {"log1p", 0.0, 0.0},
      {"log1p", -0.0, -0.0},
      {"log1p", smallest, smallest},
      {"log1p", -smallest, -smallest},
      {"log1p", 0x1p-54, 0x1p-54},
      {"log1p", -0x1p-54, -0x1p-54},
      {"log1p", INFINITY, INFINITY},
      {"log1p", -1, -INFINITY},
      {"log1p", beyond(-1, 1), nan},
      {"log1p", -INFINITY, nan},
      {"log1p", nan, nan},
      {"log1p", largest, 0x1.62e42fefa39efp9},
      {"log1p", beyond(-1, -1), -0x1.25e4f7b2737fap5},
      {"expm1", 0.0, 0.0},
      {"expm1", -0.0, -0.0},
      {"expm1", smallest, smallest},
      {"expm1", -smallest, -smallest},
      {"expm1", 0x1p-54, 0x1p-54},
      {"expm1", INFINITY, INFINITY},
      {"expm1", -INFINITY, -1},
      {"expm1", nan, nan},
      {"expm1", -37.5, -1},
      {"expm1", -37.4, beyond(-1, -1)},
      {"expm1", -largest, -1},
      {"expm1", 0x1.62e42fefa39efp9, 0x1.fffffffffff2ap1023},
      {"expm1", 0x1.62e42fefa39f0p9, INFINITY},
      {"expm1", largest, INFINITY},
  };
  for (const auto& c : kCases) check(c.name, c.x, find(c.name)->function(c.x), c.wanted, "edge");
}

int64_t cases(const char* path) {
  std::ifstream file(path);
  std::string line, name, x, wanted;
  int64_t count = 0;
  while (std::getline(file, line)) {
    std::istringstream words(line.substr(0, line.find('#')));
    if (!(words >> name >> x >> wanted)) continue;
    const double argument = strtod(x.c_str(), nullptr), result = strtod(wanted.c_str(), nullptr);
    const Function& f = *find(name);
    check(f.name, argument, f.function(argument), result, path);
    if (f.hasWide(argument)) check(f.name, argument, f.wide(argument), result, "the second attempt");
    ++count;
  }
  if (count == 0) {
    fprintf(stderr, "wrong: no cases in %s\n", path);
    ++failures;
  }
  return count;
}

#if defined(FPL_MPFR)
// What MPFR gives, in 53 bits, and the exact value to 300.
class Reference {
 public:
  Reference() {
    mpfr_set_emin(-1073);
    mpfr_set_emax(1024);
    mpfr_init2(rounded_, 53);
    mpfr_init2(x_, 53);
    mpfr_init2(value_, 300);
    mpfr_init2(difference_, 300);
  }
  ~Reference() {
    for (mpfr_ptr p : {rounded_, x_, value_, difference_}) mpfr_clear(p);
  }

  double operator()(const std::string& name, double x) {
    mpfr_set_d(x_, x, MPFR_RNDN);
    const int sign = call(name, rounded_);
    mpfr_subnormalize(rounded_, sign, MPFR_RNDN);
    return mpfr_get_d(rounded_, MPFR_RNDN);
  }

  // How far high + low is from the value, in units of `unit`. After operator().
  double distance(const std::string& name, double high, double low, double unit) {
    call(name, value_);
    mpfr_sub_d(difference_, value_, high, MPFR_RNDN);
    mpfr_sub_d(difference_, difference_, low, MPFR_RNDN);
    mpfr_div_d(difference_, difference_, unit, MPFR_RNDN);
    return std::fabs(mpfr_get_d(difference_, MPFR_RNDN));
  }

  // -log2 of how near the value comes to the middle of two float64, relative to itself. After operator().
  double hardness(const std::string& name) {
    const double nearest = mpfr_get_d(rounded_, MPFR_RNDN);
    call(name, value_);
    mpfr_sub_d(difference_, value_, nearest, MPFR_RNDN);
    const bool up = (mpfr_sgn(difference_) > 0) == (nearest > 0);
    const double half = std::fabs(beyond(nearest, up ? 1 : -1) - nearest) / 2;
    mpfr_abs(difference_, difference_, MPFR_RNDN);
    mpfr_sub_d(difference_, difference_, half, MPFR_RNDN);
    mpfr_div(difference_, difference_, value_, MPFR_RNDN);
    mpfr_abs(difference_, difference_, MPFR_RNDN);
    mpfr_log2(difference_, difference_, MPFR_RNDN);
    return -mpfr_get_d(difference_, MPFR_RNDN);
  }

 private:
  int call(const std::string& name, mpfr_ptr out) {
    if (name == "exp") return mpfr_exp(out, x_, MPFR_RNDN);
    if (name == "log") return mpfr_log(out, x_, MPFR_RNDN);
    return name == "log1p" ? mpfr_log1p(out, x_, MPFR_RNDN) : mpfr_expm1(out, x_, MPFR_RNDN);
  }

  mpfr_t rounded_, x_, value_, difference_;
};

int results(const char* path) {
  struct Line {
    double hardness;
    std::string text;
  };
  Reference reference;
  std::vector<Line> lines;
  std::ifstream file(path);
  std::string name, x;
  while (file >> name >> x) {
    char text[200];
    const double argument = strtod(x.c_str(), nullptr), result = reference(name, argument);
    const double hardness = reference.hardness(name);
    snprintf(text, sizeof text, "%s %a %a  # 2^-%.1f", name.c_str(), argument, result, hardness);
    lines.push_back({hardness, text});
  }
  std::sort(lines.begin(), lines.end(), [](const Line& a, const Line& b) { return a.hardness > b.hardness; });
  for (const Line& line : lines) printf("%s\n", line.text.c_str());
  return 0;
}
#endif

// The first attempt's value, where there is one.
bool approximation(const std::string& name, double x, exact::Approximation& out) {
  if (name == "exp" && std::fabs(x) < 708) {
    const exact::Power power = exact::powerOf(x);
    if (power.exponent < -900) return false;
    const double scale = exact::normalPower(power.exponent);
    out = {power.mantissa.high * scale, power.mantissa.low * scale, power.mantissa.error * scale};
    return true;
  }
  if (name == "log" && x >= 0x1p-1022 && x < INFINITY) {
    out = exact::logOf(x, 0);
    return true;
  }
  if (name == "log1p" && x > -1 && x < INFINITY && std::fabs(x) > 0x1p-54) {
    out = exact::log1pOf(x);
    return true;
  }
  if (name == "expm1" && x > -38 && x < 708 && std::fabs(x) > 0x1p-54) {
    out = exact::expm1Of(x);
    return true;
  }
  return false;
}

uint64_t next(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

// Any bits; any exponent of those that matter, either sign; near 1 and -1; what losses and rows meet.
double argument(int64_t i, uint64_t& state) {
  const uint64_t random = next(state);
  const double unit = double(random >> 11) * 0x1p-53, sign = random & 1 ? -1 : 1;
  switch (i % 5) {
    case 0:
      return doubleOf(random);
    case 1:
      return sign * std::ldexp(1 + unit, int(next(state) % 70) - 58);
    case 2:
      return sign + std::ldexp(unit, -int(next(state) % 40)) * (random & 2 ? -1 : 1);
    case 3:
      return 760 * (2 * unit - 1);
    default:
      return sign * 20 * unit;
  }
}

// The product that is used where the compiler has a wider one, and the other.
void products() {
  uint64_t state = 1;
  const auto word = [&] {
    const uint64_t random = next(state), kind = random >> 61;
    return kind == 0 ? ~uint64_t(0) : kind == 1 ? random & 0xffffffffu : kind == 2 ? random << 32 : random;
  };
  for (int i = 0; i < 100000; ++i) {
    const uint64_t a = word(), b = word();
    if (exact::multiplyHigh(a, b) == exact::multiplyHighInParts(a, b)) continue;
    ++failures;
    fprintf(stderr, "wrong: the product of %" PRIx64 " and %" PRIx64 "\n", a, b);
  }
}

int64_t randomArguments(int64_t count) {
  int64_t tried = 0;
#if defined(FPL_MPFR)
  Reference reference;
#endif
  for (const Function& f : kFunctions) {
    uint64_t state = 88172645463325252u;
    double worst = 0;
    int64_t undecided = 0, first = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double x = argument(i, state), got = f.function(x);
      ++tried;
      if (f.hasWide(x)) check(f.name, x, got, f.wide(x), "the other attempt");
      exact::Approximation value{};
      const bool hasFirst = approximation(f.name, x, value);
      double out;
      if (hasFirst) {
        ++first;
        undecided += !exact::round(value, out);
      }
#if defined(FPL_MPFR)
      check(f.name, x, got, reference(f.name, x), "MPFR");
      if (hasFirst && value.error > 0)
        worst = std::max(worst, reference.distance(f.name, value.high, value.low, value.error));
#endif
    }
    // A quarter of the bound is there for its own addition.
    if (worst > 0.75) {
      ++failures;
      fprintf(stderr, "wrong: %s's first attempt is off by %.3f times its bound\n", f.name, worst);
    }
    printf("%s: the second attempt was wanted %.2f %% of the time", f.name, 100.0 * double(undecided) / double(first));
    if (worst > 0) printf("; the first one's error was at most %.2f of its bound", worst);
    printf("\n");
  }
  return tried;
}

}  // namespace

int main(int argc, char** argv) {
  int64_t count = 20000, listed = 0;
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--random") == 0 && i + 1 < argc) {
      count = atoll(argv[++i]);
#if defined(FPL_MPFR)
    } else if (strcmp(argv[i], "--results") == 0 && i + 1 < argc) {
      return results(argv[++i]);
#endif
    } else {
      listed += cases(argv[i]);
    }
  }
  edges();
  products();
  const int64_t tried = randomArguments(count);
#if defined(FPL_MPFR)
  const char* against = "against MPFR";
#else
  const char* against = "without MPFR";
#endif
  printf("%" PRId64 " cases and %" PRId64 " random arguments %s: %" PRId64 " wrong\n", listed, tried, against,
         failures);
  return failures == 0 ? 0 : 1;
}
