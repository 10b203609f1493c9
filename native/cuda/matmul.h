// Products of matrices on the GPU, by cuBLASLt. The same factors give the same bits each time, and a row of a product
// the same whatever the number of rows.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "../core/dtypes.h"
#include "cublaslt.h"

namespace fpl {
namespace cuda {

// Element (row, column) is at row · rowStride + column · columnStride, one of which is 1.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0, columns = 0;
  int64_t rowStride = 0, columnStride = 1;

  bool byRows() const { return columnStride == 1 && rowStride >= columns; }
  Matrix transposed() const { return {data, dtype, columns, rows, columnStride, rowStride}; }
};

// c = a · b + bias; a and b of one type, c of float32.
struct Product {
  Matrix a, b, c;
  const float* bias = nullptr;  // of each column of c, which is stored row by row; or none
  bool tf32 = false;            // float32 factors lose all but 10 bits of their fractions
};

// What the products on one device share.
class CublasLt {
 public:
  // All that the choice of an algorithm depends on.
  using Case = std::vector<int64_t>;
  static constexpr size_t kMostChoices = 128;

  CublasLt();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;

  static constexpr size_t kWorkspace = 32 << 20;

  const cublaslt::Functions* functions;
  cublaslt::Handle* handle = nullptr;
  std::map<Case, cublaslt::Algorithm> chosen;  // so that no call chooses again what one before it has chosen
};

class Matmul {
 public:
  // The algorithm is the one chosen for `model`, the same product with another number of rows, where that can do it: so
  // products of many numbers of rows have one choice.
  Matmul(CublasLt& lt, const Product& model, const Product& product, bool scalarsOnDevice);

  // c = alpha · a · b + beta · c + bias; where beta is 0, c may hold anything. The workspace has CublasLt::kWorkspace
  // bytes.
  void multiply(const float* alpha, const float* beta, void* workspace, Stream stream) const;

 private:
  struct Description;
  // Takes the algorithm chosen for `model`, now or before, unless it cannot do this product.
  bool choose(CublasLt& lt, const Product& model, bool scalarsOnDevice);

  const CublasLt* lt_;
  std::shared_ptr<const Description> description_;
  cublaslt::Algorithm algorithm_{};
};

}  // namespace cuda
}  // namespace fpl
