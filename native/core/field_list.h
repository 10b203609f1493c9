// The fields of a job as text, by which lib knows whether a binary has the same ones.
#pragma once

#include <string>
#include <type_traits>

#include "job_fields.h"

namespace fpl {

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
    static_assert(LossTerms::kMost == 32);
    add("most terms 32");
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

}  // namespace fpl
