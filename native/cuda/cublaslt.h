// The part of cuBLASLt that the backend uses. It is opened when a job has a head, and nothing of it is linked or
// included here: its functions, and the values they take, are declared as its documentation has them for versions 12
// and 13.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "launch.h"

namespace fpl {
namespace cuda {
namespace cublaslt {

// Opaque to everybody but the library.
struct Handle;
struct Operation;   // cublasLtMatmulDesc_t
struct Layout;      // cublasLtMatrixLayout_t
struct Preference;  // cublasLtMatmulPreference_t

enum class Status : int32_t { kSuccess = 0, kInvalidValue = 7, kExecutionFailed = 13, kNotSupported = 15 };
enum class Type : int32_t { kFloat32 = 0, kFloat16 = 2, kBFloat16 = 14 };  // cudaDataType
// cublasComputeType_t: products and sums in float32, and float32 factors as they are or as TF32.
enum class Compute : int32_t { kFloat32 = 68, kTf32 = 77 };

enum class OperationAttribute : int32_t {
  kPointerMode = 2,
  kTransposeA = 3,
  kTransposeB = 4,
  kEpilogue = 7,
  kBiasPointer = 8,  // [rows of d], of d's type
};
constexpr int32_t kAsStored = 0, kTransposed = 1;            // cublasOperation_t
constexpr int32_t kScalarsOnHost = 0, kScalarsOnDevice = 1;  // cublasLtPointerMode_t
constexpr int32_t kNoEpilogue = 1, kAddsBias = 4;            // cublasLtEpilogue_t

enum class PreferenceAttribute : int32_t {
  kWorkspaceBytes = 1,    // uint64
  kReductionSchemes = 3,  // uint32, a mask
  kAlignmentA = 5,        // uint32, bytes; 256 unless told
  kAlignmentB = 6,
  kAlignmentC = 7,
  kAlignmentD = 8,
};

struct Algorithm {
  uint64_t data[8];
};
struct Choice {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspaceBytes;
  Status status;
  float waves;
  int32_t reserved[4];
};
static_assert(sizeof(Choice) == 96, "the size the library gives it");

// Matrices are stored column by column, `ld` elements apart.
struct Functions {
  const char* (*statusName)(Status);
  Status (*create)(Handle**);
  Status (*destroy)(Handle*);
  Status (*createOperation)(Operation**, Compute, Type scalars);
  Status (*destroyOperation)(Operation*);
  Status (*setOperation)(Operation*, OperationAttribute, const void* value, size_t bytes);
  Status (*createLayout)(Layout**, Type, uint64_t rows, uint64_t columns, int64_t ld);
  Status (*destroyLayout)(Layout*);
  Status (*createPreference)(Preference**);
  Status (*destroyPreference)(Preference*);
  Status (*setPreference)(Preference*, PreferenceAttribute, const void* value, size_t bytes);
  Status (*choose)(Handle*, Operation*, Layout* a, Layout* b, Layout* c, Layout* d, Preference*, int most, Choice*,
                   int* count);
  Status (*verify)(Handle*, Operation*, Layout* a, Layout* b, Layout* c, Layout* d, const Algorithm*, Choice*);
  // d = alpha · a · b + beta · c, and the bias to every column
  Status (*multiply)(Handle*, Operation*, const void* alpha, const void* a, Layout*, const void* b, Layout*,
                     const void* beta, const void* c, Layout*, void* d, Layout*, const Algorithm*, void* workspace,
                     size_t workspaceBytes, Stream);
};

// Opens the library, the first time; null and the reason where it cannot be opened.
const Functions* open(std::string& reason);

}  // namespace cublaslt
}  // namespace cuda
}  // namespace fpl
