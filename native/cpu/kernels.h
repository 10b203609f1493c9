// The interface of the SIMD kernels: the functions that an instruction set offers, and the constants of its
// exponential.
#pragma once

#include <cstdint>
#include <utility>

#include "../core/asserts.h"
#include "../core/dtypes.h"
#include "../core/exp_polynomial.h"
#include "../core/row_gradient.h"
#include "../core/softcap.h"

namespace fpl {

// Constants of exp(x / temperature) = 2^n · polynomial(r), n = round(x · log2e / T), r = x - n · T ln 2; exp.inl has n
// in eighths, too.
//
// The temperature is folded in: r stays in the logits' own scale, ln 2 is multiplied by T and the polynomial's
// coefficients are divided by its powers, so a temperature costs no instruction. T ln 2 is split in two; the first part
// has 12 bits, so n times it is exact and so is its subtraction from x. The polynomials are those of
// core/exp_polynomial.h, whose first coefficient is 1, so that exp(0) is 1.
struct ExpConstants {
  explicit ExpConstants(double temperature);

  double inverseTemperature;
  double unitLog;  // T ln 2: the natural log of 2, in the logits' scale
  float log2e;
  float ln2High, ln2Low;
  // T ln 2 in one constant, for a fused multiply-add. With it a logit's r is off by n · (T ln 2 - ln2), so that
  //
  //   e^(x / T) as computed = e^(x / T) · e^(n · ln2Error) = e^(x / T) · e^(u · ln2Error) · e^((n - u) · ln2Error)
  //
  // where 2^u is about the largest. The second factor is the same for all logits and is taken out of the sum. The third
  // is nearly 1: |n - u| is at most 27 for the logits that count, and a sum uses this constant only where ln2Error is
  // below 3e-9, as it is for T = 1 and other powers of two.
  float ln2;
  double ln2Error;   // (T ln 2 - ln2) / T
  bool oneConstant;  // a sum may use ln2
  bool inReach;      // ofWhole, multiplied by 2^-100, are normal numbers
  float inverse;     // 1 / T
  // The polynomials without their first coefficient: for n in whole numbers, |r| <= T ln 2 / 2, and in eighths.
  float ofWhole[6], ofEighth[3];
};

// How many parts of `size` there are in `count`, the last of which need not be full.
constexpr int64_t ceilDiv(int64_t count, int64_t size) { return (count + size - 1) / size; }

// How a row is cut; kernels.inl has a picture.
constexpr int64_t kLanes = 16;          // sums side by side, as many on every instruction set: so the bits are the same
constexpr int64_t kTile = 4 * kLanes;   // logits
constexpr int64_t kBlock = 64 * kTile;  // logits between two looks at the unit

// A product of matrices takes its factors packed in panels, as the products of BLIS do. A panel of a left factor a(i,
// k) has `rows` rows i (BLIS's MR), a panel of a right factor b(k, j) `columns` columns j (NR). A panel holds all
// elements of k = 1, then those of k = 0, then 3 and 2, and so on: element (i, k) is at panel(i / rows)[(k ^ 1) · rows
// + i % rows]. Products are added in that order on every instruction set, as AVX512-BF16 adds them. Where the number of
// terms is odd, the last one comes last. The last panel is filled up with zeros.
struct PanelShape {
  int64_t rows, columns;
};

// How many terms k are summed in float32 before the sum is added to the result (BLIS's KC): its rounding stays small.
constexpr int64_t kDepth = 256;

// Sizes of the pieces of work on matrices. They are multiples of every instruction set's panels, as product.inl
// asserts.
constexpr int64_t kRowsOfTile = 96;      // rows of a left factor
constexpr int64_t kWordsOfTile = 192;    // entries of the vocabulary, in either factor: a multiple of kTile, too
constexpr int64_t kColumnsOfPart = 256;  // columns of a right factor

// c(i, j) = Σ_k a(i, k) · b(k, j) over k in [0, depth), added to c when `add` is set. Element (i, j) of c is at
// i·stride + j.
struct Product {
  const float *a, *b;
  int64_t panelOfA, panelOfB;  // elements from panel to panel
  int64_t rows, columns, depth;
  float* c;
  int64_t stride;
  bool add;
};

// A matrix as a list of vectors, its rows or its columns. The elements of a vector are neighbours, and each vector has
// an address of its own.
struct Vectors {
  DType dtype;
  const void* const* begins;
  int64_t skipped = 0;  // elements of each vector that are not part of the matrix, before the first that is

  // `count` elements of vector i, from `first` on. Float32 elements stay where they are; others are converted and put
  // into `buffer`.
  const float* read(int64_t i, int64_t first, int64_t count, float* buffer) const;
  // The same into `to`, whatever their type.
  void copy(int64_t i, int64_t first, int64_t count, float* to) const;
};

using PackAlong = void (*)(const Vectors&, int64_t count, int64_t depth, int64_t width, int64_t first, int64_t end,
                           float* panels, int64_t panel);
using PackAcross = void (*)(const Vectors&, int64_t offset, int64_t count, int64_t depth, int64_t width, int64_t first,
                            int64_t end, float* panels, int64_t panel);

// Products of two bfloat16 factors, whose number of terms is even. An element of a panel is a pair of terms, in 32 bits
// the even one below the odd one: so `depth` is half the number of terms. A panel has kLeastSpace elements more, the
// first of which is the least magnitude in the panel but for 0.
struct PairKernels {
  PackAlong packAlong;
  PackAcross packAcross;
  // The smallest magnitude among so many elements but for 0; 2^127 · 1.98 if there is no smaller one.
  float (*least)(const float* pairs, int64_t count);
  void (*multiply)(const Product&);  // the bits of a product of the same numbers in float32
  bool (*works)();
};
constexpr int64_t kLeastSpace = 16;

// One instruction set's kernels. `begin` and `end` are logits within the row; `begin` is a multiple of kTile.
struct Kernels {
  const char* name;
  // Adds logits begin .. end of the row to `state`, but for the one at `label`, which may be -1. Indexed by DType. The
  // second computes the by-products as well.
  void (*update[3])(const void* row, int64_t begin, int64_t end, int64_t label, const ExpConstants&, RowState&);
  void (*updateWithByProducts[3])(const void* row, int64_t begin, int64_t end, int64_t label, const ExpConstants&,
                                  RowState&);
  // Σ of logits begin .. end, the label's too.
  double (*sum[3])(const void* row, int64_t begin, int64_t end);
  // Σ of weights[i] · row[i]; a logit of weight 0 takes no part.
  double (*weightedSum[3])(const void* row, const float* weights, int64_t begin, int64_t end);
  // out[i] = factor · exp(row[i] / T), in units. Indexed by the DType of `out`, then by that of `row`. `out` may be
  // `row` where their elements are of one size. The second writes past the cache. The factor and the product must fit
  // float32.
  void (*gradient[3][3])(const void* row, void* out, int64_t begin, int64_t end, const ExpConstants&, Unit unit,
                         float factor);
  void (*gradientStreamed[3][3])(const void* row, void* out, int64_t begin, int64_t end, const ExpConstants&, Unit unit,
                                 float factor);
  // out[i] = w · (constant + perLog · log w) + everywhere, with w = exp(row[i] / T) as FullRowGradient has it.
  void (*fullGradient[3][3])(const void* row, void* out, int64_t begin, int64_t end, const ExpConstants&,
                             const FullRowGradient&);
  void (*fullGradientStreamed[3][3])(const void* row, void* out, int64_t begin, int64_t end, const ExpConstants&,
                                     const FullRowGradient&);
  // Zeros, past the cache.
  void (*streamZeros)(void* out, int64_t bytes);
  // out[begin + i] = values[i] + factor · weights[i]; `out` + begin may be `values`.
  void (*addMultiple[3])(const float* values, const float* weights, float factor, void* out, int64_t begin,
                         int64_t end);
  // capped[i] = tanh(row[begin + i] · scale); the second has the slopes 1 - tanh² as well. `capped` may be row + begin.
  void (*cap[3])(const void* row, int64_t begin, int64_t end, const CapConstants&, float* capped, float* slopes);
  void (*capWithSlopes[3])(const void* row, int64_t begin, int64_t end, const CapConstants&, float* capped,
                           float* slopes);
  // out[begin + i] = values[i] · slopes[i]
  void (*multiplyBySlopes[3])(const float* values, const float* slopes, void* out, int64_t begin, int64_t end);
  // Adds the terms of each sum in order, so the bits do not depend on the shape of the panels.
  PanelShape panels;
  void (*multiply)(const Product&);
  // Both pack panels first .. end of a factor that has `count` rows (or columns) and `depth` terms. A panel has `width`
  // of the rows, and panels are `panel` elements apart. (In BLIS, one of them packs a transposed matrix.) Indexed by
  // the vectors' DType.
  //
  // Vector i is row i of the factor: its elements go along the depth.
  PackAlong packAlong[3];
  // Vector k has term k of all rows: its elements go across them. Element `offset` is the one of row 0.
  PackAcross packAcross[3];
  // Does `rounds` times panels.rows · panels.columns multiply-adds without using memory, for npm run bench.
  float (*multiplyAdds)(int64_t rounds);
  const PairKernels* pairs;  // or null
};

// The instruction sets of this build that this CPU can run, best first. Their names are lib's InstructionSet.
struct InstructionSets {
  const Kernels* sets[5];
  int32_t count;
};
const InstructionSets& instructionSets();

// The one of that name, or null.
const Kernels* findInstructionSet(const char* name);

namespace baseline {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
// Compilers that have its intrinsics.
#if defined(__x86_64__) || (defined(_M_X64) && defined(__clang__))
#define FPL_AVX512BF16
namespace avx512bf16 {
extern const PairKernels kPairs;
}
#endif
namespace neon {
extern const Kernels kKernels;
}
namespace wasm {
extern const Kernels kKernels;
}

}  // namespace fpl
