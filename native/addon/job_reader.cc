#include "job_reader.h"

#include <type_traits>

#include "job_fields.h"

namespace fpl {
namespace {

// Bytes of a slot.
constexpr size_t kSlot = 64;

// The value of an array says where it is; k > 0: in its slot, with k - 1 elements.
constexpr double kAbsent = 0, kAddress = -2;

// Visits the fields of a job in order to fill them.
class FieldReader {
 public:
  FieldReader(const Napi::CallbackInfo& info, size_t first, const double* values, char* arena, LentMemory* lent)
      : info_(info), argument_(first), values_(values), arena_(arena), lent_(lent) {}

  template <typename T>
  void in(const char*, T*& array, int64_t* length = nullptr) {
    const Array found = next();
    array = static_cast<T*>(found.data);
    if (length) *length = int64_t(found.length);
  }

  template <typename T>
  void out(const char* name, T*& array, int64_t* length = nullptr) {
    in(name, array, length);
  }

  template <typename T>
  void lentIn(const char*, T*& array, bool* onDevice) {
    const size_t argument = argument_;
    const Array found = next();
    array = static_cast<T*>(found.data);
    if (onDevice && found.onDevice) *onDevice = true;
    if (lent_ && argument_ > argument && !found.onDevice) lent_->hold(info_.Env(), info_[argument]);
  }

  template <typename T>
  void lentOut(const char* name, T*& array, bool* onDevice) {
    lentIn(name, array, onDevice);
  }

  template <typename T>
  void address(const char* name, T*& memory) {
    in(name, memory);
  }

  template <typename T>
  void number(const char*, T& number) {
    const double value = values_[field_++];
    if constexpr (std::is_same_v<T, bool>) {
      number = value != 0;
    } else if constexpr (std::is_enum_v<T>) {
      number = T(int32_t(value));
    } else {
      number = T(value);
    }
  }

  template <typename T>
  void number(const char*, const char* name, T& value) {
    number(name, value);
  }

 private:
  struct Array {
    void* data = nullptr;  // null: absent
    size_t length = 0;     // of one that is not on the GPU
    bool onDevice = false;
  };

  Array next() {
    Array array;
    const size_t field = field_++;
    const double value = values_[field];
    if (value == kAbsent) return array;
    if (value > 0) {
      array.data = arena_ + field * kSlot;
      array.length = size_t(value) - 1;
      return array;
    }
    const Napi::Value argument = info_[argument_++];
    if (value == kAddress) {
      bool lossless;
      array.data = reinterpret_cast<void*>(uintptr_t(argument.As<Napi::BigInt>().Uint64Value(&lossless)));
      array.onDevice = true;
    } else {
      napi_get_typedarray_info(info_.Env(), argument, nullptr, &array.length, &array.data, nullptr, nullptr);
    }
    return array;
  }

  const Napi::CallbackInfo& info_;
  size_t argument_;
  const double* values_;
  char* arena_;
  LentMemory* lent_;
  size_t field_ = 0;
};

// The elements of an array, in lib's words; those of a tensor are what its dtype says.
template <typename T>
const char* elementsOf() {
  using Element = std::remove_const_t<T>;
  if constexpr (std::is_same_v<Element, int32_t>) {
    return "int32";
  } else if constexpr (std::is_same_v<Element, float>) {
    return "float32";
  } else if constexpr (std::is_same_v<Element, double> || std::is_same_v<Element, TokenState>) {
    return "float64";
  } else {
    static_assert(std::is_same_v<Element, void>);
    return "tensor";
  }
}

// Visits the fields of a job in order to list them.
class FieldList {
 public:
  FieldList() {
    Job job;
    job.loss.terms.count = 1;
    visitFields(*this, job);
    // What the numbers of enumerations stand for, and what else both sides have to know.
    static_assert(int32_t(DType::kFloat32) == 0 && int32_t(DType::kFloat16) == 1 && int32_t(DType::kBFloat16) == 2);
    add("dtypes float32 float16 bfloat16");
    static_assert(int32_t(Divergence::kReverseKl) == 0 && int32_t(Divergence::kForwardKl) == 1);
    static_assert(int32_t(Divergence::kJensenShannon) == 2 && int32_t(Divergence::kAlpha) == 3);
    add("divergences reverse_kl forward_kl js alpha");
    static_assert(int32_t(SftNormalization::kTokens) == 0 && int32_t(SftNormalization::kSequences) == 1);
    static_assert(int32_t(SftNormalization::kSum) == 2);
    add("sft normalizations tokens sequences sum");
    add("most terms " + std::to_string(LossTerms::kMost));
    add("slot bytes " + std::to_string(kSlot));
  }

  template <typename T>
  void in(const char* name, T*&, int64_t* = nullptr) {
    field("in", name, elementsOf<T>());
  }

  template <typename T>
  void out(const char* name, T*&, int64_t* = nullptr) {
    field("out", name, elementsOf<T>());
  }

  template <typename T>
  void lentIn(const char* name, T*&, bool*) {
    field("in", name, elementsOf<T>());
  }

  template <typename T>
  void lentOut(const char* name, T*&, bool*) {
    field("out", name, elementsOf<T>());
  }

  template <typename T>
  void address(const char* name, T*&) {
    field("in", name, "address");
  }

  template <typename T>
  void number(const char* name, T&) {
    field("number", name);
  }

  template <typename T>
  void number(const char* owner, const char* name, T&) {
    field("number", (std::string(owner) + "." + name).c_str());
  }

  std::string text;
  size_t count = 0;

 private:
  void field(const std::string& kind, const char* name, const char* elements = nullptr) {
    ++count;
    add(kind + " " + name + (elements ? std::string(" ") + elements : ""));
  }

  void add(const std::string& line) { text += line + "\n"; }
};

}  // namespace

JobMemory::JobMemory(Napi::Env env) {
  const size_t fields = FieldList().count;
  // The list has one term of the loss.
  Napi::Float64Array values = Napi::Float64Array::New(env, fields + 3 * (LossTerms::kMost - 1));
  Napi::ArrayBuffer arena = Napi::ArrayBuffer::New(env, kSlot * fields);
  valueData_ = values.Data();
  arenaData_ = static_cast<char*>(arena.Data());
  values_ = Napi::Persistent(values.As<Napi::Object>());
  arena_ = Napi::Persistent(arena.As<Napi::Object>());
}

void JobMemory::read(const Napi::CallbackInfo& info, size_t first, Job& job, LentMemory* lent) const {
  FieldReader reader(info, first, valueData_, arenaData_, lent);
  visitFields(reader, job);

  const Forward& policy = job.policy;
  job.hasPolicy = policy.logProbs != nullptr;
  job.hasReference = job.reference.logProbs != nullptr;
  job.hasLoss = job.loss.summary != nullptr;
  job.hasTokenLoss = job.tokenLoss.summary != nullptr;
  job.hasUnpairedLoss = job.unpairedLoss.summary != nullptr;
  // Of sequences whose log-probs are computed here, it is about these.
  if (job.hasPolicy) job.unpairedLoss.logProbs = policy.logProbs;
  if (job.hasReference) job.unpairedLoss.referenceLogProbs = job.reference.logProbs;

  // The gradient is that of the policy's logits, from the states its forward has left or leaves.
  Gradient& gradient = job.gradient;
  HeadGradient& headGradient = job.headGradient;
  gradient.logits = headGradient.logits = policy.logits;
  gradient.states = headGradient.states = policy.states;
  headGradient.head = policy.head;
  gradient.entropies = headGradient.entropies = policy.entropies;
  headGradient.coefficients = gradient.coefficients;
  headGradient.tokenCoefficients = gradient.tokenCoefficients;
  headGradient.skipInactive = gradient.skipInactive;
  job.hasHeadGradient = policy.head.present() && gradient.coefficients;
  job.hasGradient = !policy.head.present() && gradient.coefficients;
}

std::string jobFields() { return FieldList().text; }

}  // namespace fpl
