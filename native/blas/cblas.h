// A library of BLAS, opened when the program runs: nothing of it is needed to compile this package. Of its C interface
// (CBLAS) the products of matrices are used.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace fpl {
namespace blas {

// A factor of a product, whose rows or, transposed, columns have neighbours as elements.
struct Factor {
  const void* data;
  int64_t stride;  // elements from row to row or, transposed, from column to column
  bool transposed = false;
};

// c(i, j) = Σ_k a(i, k) · b(k, j) over k in [0, depth), added to c when `add` is set. Element (i, j) of c is at
// i·stride + j. All sizes are above 0.
struct Product {
  Factor a, b;
  int64_t rows, columns, depth;
  float* c;
  int64_t stride;
  bool add;
};

class Library {
 public:
  virtual ~Library() = default;

  // On up to `threads` threads of the library, where it lets itself be told. It does one product at a time: the number
  // of its threads belongs to the process.
  virtual void multiply(const Product& product, int64_t threads) const = 0;
  // The same with bfloat16 factors, whose products are summed in float32; only where it has that.
  virtual void multiplyBFloat16(const Product& product, int64_t threads) const = 0;

  bool hasBFloat16 = false;
  int32_t integerBits = 32;  // of sizes
};

// Opens it for as long as the process lives, and tries it with small products. Throws a std::runtime_error that says
// why it cannot be used.
std::unique_ptr<Library> open(const std::string& path);

}  // namespace blas
}  // namespace fpl
