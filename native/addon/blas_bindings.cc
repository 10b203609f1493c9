#include "blas_bindings.h"

#include <stdexcept>
#include <string>

namespace fpl {

Napi::Object BlasBindings::functions() {
  Napi::Object out = Napi::Object::New(env_);
  const auto open = [this](const Napi::CallbackInfo& info) -> Napi::Value {
    try {
      opened_.push_back(blas::open(info[0].As<Napi::String>()));
      return Napi::Number::New(env_, double(opened_.size()));
    } catch (const std::runtime_error& error) {
      return Napi::String::New(env_, error.what());
    }
  };
  out["open"] = Napi::Function::New(env_, open, "open");
  return out;
}

}  // namespace fpl
