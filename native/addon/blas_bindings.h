// Libraries of BLAS, as JavaScript sees them: see blas/cblas.h.
//
//   open(path)   the library's number, from 1 on, which jobs name it by; or why it cannot be used
//   stepSeconds(rows, width, vocab, threads)   seconds of the bare products of an output layer's step, by the library
//                                              that was opened last; for npm run bench
#pragma once

#include <memory>
#include <vector>

#include "../blas/cblas.h"
#include "napi.h"

namespace fpl {

class BlasBindings {
 public:
  explicit BlasBindings(Napi::Env env) : env_(env) {}

  Napi::Object functions();
  // Null for 0. It lives as long as this.
  const blas::Library* find(int32_t number) const { return number > 0 ? opened_[size_t(number) - 1].get() : nullptr; }

 private:
  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value stepSeconds(const Napi::CallbackInfo& info);

  Napi::Env env_;
  std::vector<std::unique_ptr<blas::Library>> opened_;
};

}  // namespace fpl
