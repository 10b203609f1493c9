// The polynomial of e^r in float32, which the kernels of the CPU and of CUDA share.
#pragma once

namespace fpl {

// The coefficients of the minimax polynomial of e^r of degree 6, but for the first two, which are 1 (relative error
// 3.1e-9 on |r| <= ln 2 / 2).
constexpr double kExp2 = 0.49999993412490124, kExp3 = 0.16666520107834054, kExp4 = 0.041668394213308244;
constexpr double kExp5 = 0.008368780409796215, kExp6 = 0.0013814466935590675;

}  // namespace fpl
