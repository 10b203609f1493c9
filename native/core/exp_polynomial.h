// The polynomials of e^r in float32, and the powers of two between which they reach.
#pragma once

namespace fpl {

// The coefficients of the minimax polynomial of e^r of degree 6, but for the first two, which are 1 (relative error
// 3.1e-9 on |r| <= ln 2 / 2). The kernels of the CPU and of CUDA share it.
constexpr double kExp2 = 0.49999993412490124, kExp3 = 0.16666520107834054, kExp4 = 0.041668394213308244;
constexpr double kExp5 = 0.008368780409796215, kExp6 = 0.0013814466935590675;

// The same of degree 3 (relative error 2.6e-8 on |r| <= ln 2 / 16).
constexpr double kExp2OfEighth = 0.500064472, kExp3OfEighth = 0.1666685841;

// 2^(i / 8)
constexpr double kPowersOfEighths[8] = {1,
                                        1.0905077326652577,
                                        1.189207115002721,
                                        1.2968395546510096,
                                        1.4142135623730951,
                                        1.5422108254079407,
                                        1.681792830507429,
                                        1.8340080864093424};

// A factor with which all eight are nearly floats: within 0.06 · 2^-24 of one, relative to it.
constexpr float kPowersScale = 0x1.89cb7cp+0f;

}  // namespace fpl
