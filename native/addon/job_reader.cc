#include "job_reader.h"

#include <type_traits>

#include "../core/field_list.h"
#include "../core/job_fields.h"

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

  // Most arrays of a job are absent: this much is inlined in every field.
  FPL_IN_LOOPS Array next() {
    const size_t field = field_++;
    return values_[field] == kAbsent ? Array() : present(field);
  }

  FPL_SELDOM Array present(size_t field) {
    Array array;
    const double value = values_[field];
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
  connectStages(job);
}

std::string jobFields() { return FieldList().text + "slot bytes " + std::to_string(kSlot) + "\n"; }

}  // namespace fpl
