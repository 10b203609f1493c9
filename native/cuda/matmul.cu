#include "matmul.h"

namespace fpl {
namespace cuda {
namespace {

using namespace cublaslt;

constexpr const char* kChoosing = "choosing how to multiply";

void check(const Functions& f, Status status, const char* doing) {
  if (status != Status::kSuccess) throw Error{std::string(f.statusName(status)) + " while " + doing};
}

Type typeOf(DType dtype) {
  return dtype == DType::kFloat32 ? Type::kFloat32 : dtype == DType::kFloat16 ? Type::kFloat16 : Type::kBFloat16;
}

// One of the library's objects, given back with its function.
template <typename Object>
using Owned = std::unique_ptr<Object, Status (*)(Object*)>;

Owned<Layout> layoutOf(const Functions& f, const Matrix& m) {
  Layout* layout = nullptr;
  const Status status = m.byRows() ? f.createLayout(&layout, typeOf(m.dtype), m.columns, m.rows, m.rowStride)
                                   : f.createLayout(&layout, typeOf(m.dtype), m.rows, m.columns, m.columnStride);
  check(f, status, kChoosing);
  return {layout, f.destroyLayout};
}

Owned<Operation> operationOf(const Functions& f, const Product& p, bool scalarsOnDevice) {
  Operation* made = nullptr;
  check(f, f.createOperation(&made, p.tf32 ? Compute::kTf32 : Compute::kFloat32, Type::kFloat32), kChoosing);
  Owned<Operation> operation(made, f.destroyOperation);
  const auto set = [&](OperationAttribute attribute, auto value) {
    check(f, f.setOperation(made, attribute, &value, sizeof value), kChoosing);
  };
  if (p.bias) {
    set(OperationAttribute::kEpilogue, kAddsBias);
    set(OperationAttribute::kBiasPointer, p.bias);
  }
  set(OperationAttribute::kPointerMode, scalarsOnDevice ? kScalarsOnDevice : kScalarsOnHost);
  set(OperationAttribute::kTransposeA, p.b.byRows() ? kAsStored : kTransposed);
  set(OperationAttribute::kTransposeB, p.a.byRows() ? kAsStored : kTransposed);
  return operation;
}

// The largest power of two, up to what cuBLASLt asks for, that divides the address.
uint32_t alignmentOf(const void* data) {
  uint32_t alignment = 256;
  while (reinterpret_cast<uintptr_t>(data) % alignment != 0) alignment /= 2;
  return alignment;
}

// Such that c is stored row by row, which to cuBLASLt is cᵀ = bᵀ · aᵀ column by column.
Product byRows(const Product& p) {
  if (p.c.byRows()) return p;
  return {p.b.transposed(), p.a.transposed(), p.c.transposed(), nullptr, p.tf32};
}

CublasLt::Case caseOf(const Product& p, bool scalarsOnDevice) {
  CublasLt::Case found{scalarsOnDevice, p.bias ? alignmentOf(p.bias) : 0, p.tf32};
  for (const Matrix& m : {p.a, p.b, p.c}) {
    found.insert(found.end(), {int64_t(m.dtype), m.rows, m.columns, m.rowStride, m.columnStride, alignmentOf(m.data)});
  }
  return found;
}

}  // namespace

CublasLt::CublasLt() {
  std::string reason;
  functions = open(reason);
  if (!functions) throw Error{"the output layer needs cuBLASLt, which cannot be opened: " + reason};
  check(*functions, functions->create(&handle), "making cuBLASLt ready");
}

CublasLt::~CublasLt() { functions->destroy(handle); }

// A product in cuBLASLt's terms; its a is our b.
struct Matmul::Description {
  Description(const Functions& f, const Product& given, bool scalarsOnDevice)
      : product(byRows(given)),
        operation(operationOf(f, product, scalarsOnDevice)),
        a(layoutOf(f, product.b)),
        b(layoutOf(f, product.a)),
        c(layoutOf(f, product.c)) {}

  // Asks cuBLASLt for the algorithm it thinks best; false where it has none.
  bool choose(const CublasLt& lt, Algorithm& algorithm) const {
    const Functions& f = *lt.functions;
    Preference* made = nullptr;
    check(f, f.createPreference(&made), kChoosing);
    const Owned<Preference> preference(made, f.destroyPreference);
    const auto set = [&](PreferenceAttribute attribute, auto value) {
      check(f, f.setPreference(made, attribute, &value, sizeof value), kChoosing);
    };
    set(PreferenceAttribute::kWorkspaceBytes, uint64_t(CublasLt::kWorkspace));
    // No sum is split over blocks that would have to be added up: each element is one block's, in one order. That makes
    // the bits the same each time, and those of a row independent of the other rows.
    set(PreferenceAttribute::kReductionSchemes, uint32_t(0));
    set(PreferenceAttribute::kAlignmentA, alignmentOf(product.b.data));
    set(PreferenceAttribute::kAlignmentB, alignmentOf(product.a.data));
    set(PreferenceAttribute::kAlignmentC, alignmentOf(product.c.data));
    set(PreferenceAttribute::kAlignmentD, alignmentOf(product.c.data));
    Choice choice{};
    int count = 0;
    const Status status =
        f.choose(lt.handle, operation.get(), a.get(), b.get(), c.get(), c.get(), made, 1, &choice, &count);
    if (status != Status::kSuccess || count == 0 || choice.status != Status::kSuccess) return false;
    algorithm = choice.algorithm;
    return true;
  }

  Product product;
  Owned<Operation> operation;
  Owned<Layout> a, b, c;
};

Matmul::Matmul(CublasLt& lt, const Product& model, const Product& product, bool scalarsOnDevice)
    : lt_(&lt), description_(std::make_shared<Description>(*lt.functions, product, scalarsOnDevice)) {
  if (!choose(lt, model, scalarsOnDevice) && !choose(lt, product, scalarsOnDevice)) {
    check(*lt.functions, Status::kNotSupported, kChoosing);
  }
}

bool Matmul::choose(CublasLt& lt, const Product& model, bool scalarsOnDevice) {
  const CublasLt::Case key = caseOf(model, scalarsOnDevice);
  auto known = lt.chosen.find(key);
  if (known == lt.chosen.end()) {
    cublaslt::Algorithm found;
    if (!Description(*lt.functions, model, scalarsOnDevice).choose(lt, found)) return false;
    // Who never has the same sizes twice shall not fill the memory; choosing again gives the same.
    if (lt.chosen.size() >= CublasLt::kMostChoices) lt.chosen.clear();
    known = lt.chosen.emplace(key, found).first;
  }
  algorithm_ = known->second;
  const Description& own = *description_;
  Choice choice{};
  const Status status = lt.functions->verify(lt.handle, own.operation.get(), own.a.get(), own.b.get(), own.c.get(),
                                             own.c.get(), &algorithm_, &choice);
  return status == Status::kSuccess && choice.workspaceBytes <= CublasLt::kWorkspace;
}

void Matmul::multiply(const float* alpha, const float* beta, void* workspace, Stream stream) const {
  const Functions& f = *lt_->functions;
  const Description& d = *description_;
  const Product& p = d.product;
  const Status status =
      f.multiply(lt_->handle, d.operation.get(), alpha, p.b.data, d.a.get(), p.a.data, d.b.get(), beta, p.c.data,
                 d.c.get(), p.c.data, d.c.get(), &algorithm_, workspace, CublasLt::kWorkspace, stream);
  check(f, status, "multiplying with the output layer");
}

}  // namespace cuda
}  // namespace fpl
