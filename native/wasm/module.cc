// The WebAssembly module: the functions that JavaScript calls. It does no arithmetic, and it trusts its caller as the
// addon does.
//
//   description()        address of a text: the fields of a job (core/field_list.h), and after an empty line each the
//                        names of the losses of pairs and of single sequences, in the order of their numbers
//   allocate(bytes), release(address)   memory that begins at a multiple of 64; address 0 when there is none to be had
//   run(values, job)     runs the job whose fields `values` has, two numbers each: see JobReader. 1, or 0 when it was
//                        cancelled. `job` is memory of jobBytes(), in which the byte at cancelledAt() cancels it.
//   letCallersSleep(truth)   see ThreadPool
//   help()               makes a worker's thread one of the pool's; it does not return
//
// With shared memory each thread has an instance of its own in the same memory. JavaScript gives an instance its stack
// by setting __stack_pointer.
#include <cstddef>
#include <cstdlib>
#include <new>
#include <type_traits>

#include "../core/field_list.h"
#include "../cpu/stages.h"

namespace fpl {
namespace {

ThreadPool pool;

// The C library's allocator is for one thread.
Mutex heap;

// Visits the fields of a job in order to fill them. A number is the first of its field's two values; an array's are its
// address, 0 for none, and its number of elements.
class JobReader {
 public:
  explicit JobReader(const double* values) : values_(values) {}

  template <typename T>
  void in(const char*, T*& array, int64_t* length = nullptr) {
    array = reinterpret_cast<T*>(uintptr_t(values_[0]));
    if (length) *length = int64_t(values_[1]);
    values_ += 2;
  }

  template <typename T>
  void out(const char* name, T*& array, int64_t* length = nullptr) {
    in(name, array, length);
  }

  template <typename T>
  void lentIn(const char* name, T*& array, bool*) {
    in(name, array);
  }

  template <typename T>
  void lentOut(const char* name, T*& array, bool*) {
    in(name, array);
  }

  template <typename T>
  void address(const char* name, T*& memory) {
    in(name, memory);
  }

  template <typename T>
  void number(const char*, T& number) {
    if constexpr (std::is_same_v<T, bool>) {
      number = values_[0] != 0;
    } else if constexpr (std::is_enum_v<T>) {
      number = T(int32_t(values_[0]));
    } else {
      number = T(values_[0]);
    }
    values_ += 2;
  }

  template <typename T>
  void number(const char*, const char* name, T& value) {
    number(name, value);
  }

 private:
  const double* values_;
};

std::string describe() {
  std::string text = FieldList().text;
  const auto add = [&](const char* const* names, int32_t count) {
    text += '\n';
    for (int32_t i = 0; i < count; ++i) text += std::string(names[i]) + '\n';
  };
  add(kLossNames, kLossCount);
  add(kUnpairedLossNames, kUnpairedLossCount);
  // Asked for here, by one thread, before there are others.
  instructionSets();
  return text;
}

}  // namespace
}  // namespace fpl

#define FPL_EXPORT(name) __attribute__((export_name(#name))) name

extern "C" {

const char* FPL_EXPORT(description)() {
  static const std::string text = fpl::describe();
  return text.c_str();
}

void* FPL_EXPORT(allocate)(size_t bytes) {
  const fpl::Locked locked(fpl::heap);
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

void FPL_EXPORT(release)(void* memory) {
  const fpl::Locked locked(fpl::heap);
  free(memory);
}

size_t FPL_EXPORT(jobBytes)() { return sizeof(fpl::Job); }
size_t FPL_EXPORT(cancelledAt)() { return offsetof(fpl::Job, cancelled); }

int32_t FPL_EXPORT(run)(const double* values, void* memory) {
  fpl::Job& job = *new (memory) fpl::Job;
  fpl::JobReader reader(values);
  fpl::visitFields(reader, job);
  fpl::connectStages(job);
  return fpl::runJob(job, fpl::pool);
}

void FPL_EXPORT(letCallersSleep)(int32_t truth) { fpl::pool.letCallersSleep(truth != 0); }

void FPL_EXPORT(help)() { fpl::pool.help(); }

}  // extern "C"

// In the place of the C++ library's, which prints.
_LIBCPP_BEGIN_NAMESPACE_STD
[[noreturn]] void __libcpp_verbose_abort(const char*, ...) noexcept { __builtin_trap(); }
_LIBCPP_END_NAMESPACE_STD

// JavaScript throws the module away when it has run out of memory.
void* operator new(size_t bytes) {
  void* const memory = allocate(bytes);
  if (!memory) __builtin_trap();
  return memory;
}
void* operator new[](size_t bytes) { return operator new(bytes); }
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, size_t) noexcept { release(memory); }
void operator delete[](void* memory, size_t) noexcept { release(memory); }
