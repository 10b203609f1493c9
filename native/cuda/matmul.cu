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
  check(f, f.createOperation(&made, Compute::kFloat32, Type::kFloat32), kChoosing);
  Owned<Operation> operation(made, f.destroyOperation);
  const auto set = [&](OperationAttribute attribute, int32_t value) {
    check(f, f.setOperation(made, attribute, &value, sizeof value), kChoosing);
  };
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
  return {p.b.transposed(), p.a.transposed(), p.c.transposed()};
}

CublasLt::Case caseOf(const Product& model, const Product& product, bool scalarsOnDevice) {
  CublasLt::Case found{scalarsOnDevice};
  for (const Product* p : {&model, &product}) {
    for (const Matrix& m : {p->a, p->b, p->c}) {
      found.insert(found.end(), {int64_t(m.dtype), m.rows, m.columns, m.rowStride, m.columnStride});
    }
  }
  for (const Matrix& m : {product.a, product.b, product.c}) found.push_back(alignmentOf(m.data));
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

  Product product;
  Owned<Operation> operation;
  Owned<Layout> a, b, c;
};

Matmul::Matmul(CublasLt& lt, const Product& model, const Product& product, bool scalarsOnDevice)
    : lt_(&lt), description_(std::make_shared<Description>(*lt.functions, product, scalarsOnDevice)) {
  const CublasLt::Case key = caseOf(model, product, scalarsOnDevice);
  const auto known = lt.chosen.find(key);
  if (known != lt.chosen.end()) {
    algorithm_ = known->second;
    return;
  }
  if (!choose(Description(*lt.functions, model, scalarsOnDevice)) && !choose(*description_)) {
    check(*lt.functions, Status::kNotSupported, kChoosing);
  }
  // Who never has the same number of rows twice shall not fill the memory; choosing again gives the same.
  if (lt.chosen.size() >= CublasLt::kMostChoices) lt.chosen.clear();
  lt.chosen.emplace(key, algorithm_);
}

bool Matmul::choose(const Description& model) {
  const Functions& f = *lt_->functions;
  const Description& own = *description_;
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
  set(PreferenceAttribute::kAlignmentA, alignmentOf(own.product.b.data));
  set(PreferenceAttribute::kAlignmentB, alignmentOf(own.product.a.data));
  set(PreferenceAttribute::kAlignmentC, alignmentOf(own.product.c.data));
  set(PreferenceAttribute::kAlignmentD, alignmentOf(own.product.c.data));
  Choice choice{};
  int count = 0;
  Status status = f.choose(lt_->handle, model.operation.get(), model.a.get(), model.b.get(), model.c.get(),
                           model.c.get(), made, 1, &choice, &count);
  if (status != Status::kSuccess || count == 0 || choice.status != Status::kSuccess) return false;
  algorithm_ = choice.algorithm;
  status = f.verify(lt_->handle, own.operation.get(), own.a.get(), own.b.get(), own.c.get(), own.c.get(), &algorithm_,
                    &choice);
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
