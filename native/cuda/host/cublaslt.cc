// The part of cuBLASLt that the backend uses, on the host, for tests: plain sums over k, one after the other. It
// refuses what a GPU would refuse or do differently now and then: sizes that do not fit each other, memory less aligned
// than was promised when the algorithm was chosen, a bias that was not announced then, and algorithms that might split
// sums.
//
// FPL_HOST_FAULT=matmul makes every product fail. FPL_HOST_PRODUCTS names a file to which each adds a line, and
// FPL_HOST_CHOICES one to which each choice of an algorithm does.
#include "../cublaslt.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "access.h"

using namespace fpl;
using namespace fpl::cuda::cublaslt;

namespace fpl {
namespace cuda {
namespace cublaslt {

struct Handle {};
struct Operation {
  int32_t pointerMode = kScalarsOnHost, transposeA = kAsStored, transposeB = kAsStored, epilogue = kNoEpilogue;
  const float* bias = nullptr;
  Compute compute = Compute::kFloat32;

  bool isComplete() const { return epilogue == kNoEpilogue || (epilogue == kAddsBias && bias); }
};
struct Layout {
  Type type;
  int64_t rows, columns, ld;
};
struct Preference {
  uint32_t reductions = 7;
  uint32_t alignments[4] = {256, 256, 256, 256};
};

}  // namespace cublaslt
}  // namespace cuda
}  // namespace fpl

namespace {

// What an Algorithm holds.
struct Promise {
  uint32_t reductions;
  uint32_t alignments[4], alignmentOfBias;
  int32_t epilogue;
};
static_assert(sizeof(Promise) <= sizeof(Algorithm), "what is promised fits an algorithm");

// A float32 as TF32 with 10 bits of its fraction: cut off and not rounded, which loses the most that a GPU may lose.
float cut(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= ~uint32_t(0x1fff);
  memcpy(&x, &bits, sizeof bits);
  return x;
}

// A stored matrix, whether it is used transposed, and whether as TF32.
struct Factor {
  const char* data;
  Layout layout;
  bool transposed, tf32;

  int64_t rows() const { return transposed ? layout.columns : layout.rows; }
  int64_t columns() const { return transposed ? layout.rows : layout.columns; }
  float at(int64_t row, int64_t column) const {
    const int64_t i = transposed ? row * layout.ld + column : column * layout.ld + row;
    switch (layout.type) {
      case Type::kFloat32:
        return tf32 ? cut(reinterpret_cast<const float*>(data)[i]) : reinterpret_cast<const float*>(data)[i];
      case Type::kFloat16:
        return toFloat(reinterpret_cast<const Float16*>(data)[i]);
      case Type::kBFloat16:
        return toFloat(reinterpret_cast<const BFloat16*>(data)[i]);
    }
    return 0;
  }
};

Factor factorOf(const void* data, const Layout& layout, int32_t transpose, Compute compute) {
  return {static_cast<const char*>(data), layout, transpose == kTransposed, compute == Compute::kTf32};
}

bool fits(const Operation& operation, const Layout& a, const Layout& b, const Layout& c) {
  const Factor left = factorOf(nullptr, a, operation.transposeA, operation.compute);
  const Factor right = factorOf(nullptr, b, operation.transposeB, operation.compute);
  for (const Layout* layout : {&a, &b, &c}) {
    if (layout->rows < 1 || layout->columns < 1 || layout->ld < layout->rows) return false;
  }
  if (operation.compute == Compute::kTf32 && a.type != Type::kFloat32) return false;
  return left.columns() == right.rows() && left.rows() == c.rows && right.columns() == c.columns && a.type == b.type &&
         c.type == Type::kFloat32;
}

// The largest power of two, up to the alignment of all memory, that divides the address.
uint32_t alignmentOf(const void* data) {
  uint32_t alignment = 256;
  while (reinterpret_cast<uintptr_t>(data) % alignment != 0) alignment /= 2;
  return alignment;
}

void multiply(const Factor& a, const Factor& b, float alpha, float beta, const float* bias, float* d, int64_t ld) {
  for (int64_t column = 0; column < b.columns(); ++column) {
    for (int64_t row = 0; row < a.rows(); ++row) {
      float sum = 0;
      for (int64_t k = 0; k < a.columns(); ++k) sum += a.at(row, k) * b.at(k, column);
      float& out = d[column * ld + row];
      out = beta == 0 ? alpha * sum : alpha * sum + beta * out;
      if (bias) out += bias[row];
    }
  }
}

// Adds a line with two sizes to the file that the environment names, if it does.
void note(const char* variable, int64_t rows, int64_t columns) {
  const char* name = getenv(variable);
  FILE* file = name && *name ? fopen(name, "a") : nullptr;
  if (!file) return;
  fprintf(file, "%lld %lld\n", static_cast<long long>(rows), static_cast<long long>(columns));
  fclose(file);
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* cublasLtGetStatusName(Status status) {
  switch (status) {
    case Status::kSuccess:
      return "CUBLAS_STATUS_SUCCESS";
    case Status::kInvalidValue:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case Status::kExecutionFailed:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case Status::kNotSupported:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "unknown";
}

EXPORT Status cublasLtCreate(Handle** handle) {
  if (cuda::host::isFailing(__func__)) return Status::kExecutionFailed;
  *handle = new Handle;
  return Status::kSuccess;
}
EXPORT Status cublasLtDestroy(Handle* handle) {
  delete handle;
  return Status::kSuccess;
}

EXPORT Status cublasLtMatmulDescCreate(Operation** operation, Compute compute, Type scalars) {
  if (cuda::host::isFailing(__func__)) return Status::kExecutionFailed;
  if (scalars != Type::kFloat32) return Status::kNotSupported;
  if (compute != Compute::kFloat32 && compute != Compute::kTf32) return Status::kNotSupported;
  *operation = new Operation;
  (*operation)->compute = compute;
  return Status::kSuccess;
}
EXPORT Status cublasLtMatmulDescDestroy(Operation* operation) {
  delete operation;
  return Status::kSuccess;
}
EXPORT Status cublasLtMatmulDescSetAttribute(Operation* operation, OperationAttribute attribute, const void* value,
                                             size_t bytes) {
  const auto put = [&](auto& place) {
    if (bytes != sizeof place) return Status::kInvalidValue;
    memcpy(&place, value, bytes);
    return Status::kSuccess;
  };
  switch (attribute) {
    case OperationAttribute::kPointerMode:
      return put(operation->pointerMode);
    case OperationAttribute::kTransposeA:
      return put(operation->transposeA);
    case OperationAttribute::kTransposeB:
      return put(operation->transposeB);
    case OperationAttribute::kEpilogue:
      return put(operation->epilogue);
    case OperationAttribute::kBiasPointer:
      return put(operation->bias);
  }
  return Status::kInvalidValue;
}

EXPORT Status cublasLtMatrixLayoutCreate(Layout** layout, Type type, uint64_t rows, uint64_t columns, int64_t ld) {
  if (cuda::host::isFailing(__func__)) return Status::kExecutionFailed;
  *layout = new Layout{type, int64_t(rows), int64_t(columns), ld};
  return Status::kSuccess;
}
EXPORT Status cublasLtMatrixLayoutDestroy(Layout* layout) {
  delete layout;
  return Status::kSuccess;
}

EXPORT Status cublasLtMatmulPreferenceCreate(Preference** preference) {
  if (cuda::host::isFailing(__func__)) return Status::kExecutionFailed;
  *preference = new Preference;
  return Status::kSuccess;
}
EXPORT Status cublasLtMatmulPreferenceDestroy(Preference* preference) {
  delete preference;
  return Status::kSuccess;
}
EXPORT Status cublasLtMatmulPreferenceSetAttribute(Preference* preference, PreferenceAttribute attribute,
                                                   const void* value, size_t bytes) {
  if (attribute == PreferenceAttribute::kWorkspaceBytes) {
    return bytes == sizeof(uint64_t) ? Status::kSuccess : Status::kInvalidValue;
  }
  if (bytes != sizeof(uint32_t)) return Status::kInvalidValue;
  const int which = int(attribute) - int(PreferenceAttribute::kAlignmentA);
  memcpy(which < 0 ? &preference->reductions : &preference->alignments[which], value, bytes);
  return Status::kSuccess;
}

EXPORT Status cublasLtMatmulAlgoGetHeuristic(Handle*, Operation* operation, Layout* a, Layout* b, Layout* c, Layout*,
                                             Preference* preference, int, Choice* choice, int* count) {
  *count = 0;
  if (cuda::host::isFailing(__func__)) return Status::kExecutionFailed;
  if (!fits(*operation, *a, *b, *c) || !operation->isComplete()) return Status::kInvalidValue;
  Promise promise{preference->reductions, {}, alignmentOf(operation->bias), operation->epilogue};
  memcpy(promise.alignments, preference->alignments, sizeof promise.alignments);
  note("FPL_HOST_CHOICES", c->rows, c->columns);
  *choice = {};
  memcpy(&choice->algorithm, &promise, sizeof promise);
  *count = 1;
  return Status::kSuccess;
}

EXPORT Status cublasLtMatmulAlgoCheck(Handle*, Operation* operation, Layout* a, Layout* b, Layout* c, Layout*,
                                      const Algorithm*, Choice* choice) {
  choice->workspaceBytes = 0;
  if (cuda::host::isFailing(__func__)) return Status::kExecutionFailed;
  return fits(*operation, *a, *b, *c) ? Status::kSuccess : Status::kInvalidValue;
}

EXPORT Status cublasLtMatmul(Handle*, Operation* operation, const void* alpha, const void* a, Layout* aLayout,
                             const void* b, Layout* bLayout, const void* beta, const void* c, Layout* cLayout, void* d,
                             Layout*, const Algorithm* algorithm, void* workspace, size_t, cuda::Stream stream) {
  const char* fault = getenv("FPL_HOST_FAULT");
  if ((fault && strcmp(fault, "matmul") == 0) || cuda::host::isFailing(__func__)) return Status::kExecutionFailed;
  Promise promise;
  memcpy(&promise, algorithm, sizeof promise);
  if (promise.reductions != 0) return Status::kNotSupported;
  if (!operation->isComplete() || promise.epilogue != operation->epilogue ||
      alignmentOf(operation->bias) < promise.alignmentOfBias) {
    return Status::kInvalidValue;
  }
  const void* pointers[4] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    if (reinterpret_cast<uintptr_t>(pointers[i]) % promise.alignments[i] != 0) return Status::kInvalidValue;
  }
  if (!fits(*operation, *aLayout, *bLayout, *cLayout) || c != d || !workspace) return Status::kInvalidValue;

  note("FPL_HOST_PRODUCTS", cLayout->rows, cLayout->columns);

  const bool later = operation->pointerMode == kScalarsOnDevice;
  const auto *alphaAt = static_cast<const float*>(alpha), *betaAt = static_cast<const float*>(beta);
  const float alphaNow = later ? 0 : *alphaAt, betaNow = later ? 0 : *betaAt;
  const Operation how = *operation;
  const Layout left = *aLayout, right = *bLayout, out = *cLayout;
  const cuda::host::Access* device = cuda::host::access();
  if (!device) return Status::kExecutionFailed;
  const auto work = [=](int number) {
    const auto seen = [=](const auto* at) {
      return reinterpret_cast<decltype(at)>(device->resolved(reinterpret_cast<uint64_t>(at), number));
    };
    multiply(factorOf(seen(static_cast<const char*>(a)), left, how.transposeA, how.compute),
             factorOf(seen(static_cast<const char*>(b)), right, how.transposeB, how.compute),
             later ? *seen(alphaAt) : alphaNow, later ? *seen(betaAt) : betaNow, how.bias ? seen(how.bias) : nullptr,
             const_cast<float*>(seen(static_cast<const float*>(d))), out.ld);
  };
  return device->enqueue(stream, work) == cudaSuccess ? Status::kSuccess : Status::kExecutionFailed;
}
