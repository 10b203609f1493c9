#include "blas_bindings.h"

#include <chrono>
#include <stdexcept>
#include <string>

namespace fpl {

Napi::Object BlasBindings::functions() {
  Napi::Object out = Napi::Object::New(env_);
  const auto define = [&](const char* name, auto function) { out[name] = Napi::Function::New(env_, function, name); };
  define("open", [this](const Napi::CallbackInfo& info) { return open(info); });
  define("stepSeconds", [this](const Napi::CallbackInfo& info) { return stepSeconds(info); });
  return out;
}

Napi::Value BlasBindings::open(const Napi::CallbackInfo& info) {
  try {
    opened_.push_back(blas::open(info[0].As<Napi::String>()));
    return Napi::Number::New(env_, double(opened_.size()));
  } catch (const std::runtime_error& error) {
    return Napi::String::New(env_, error.what());
  }
}

Napi::Value BlasBindings::stepSeconds(const Napi::CallbackInfo& info) {
  const auto number = [&](size_t i) { return info[i].As<Napi::Number>().Int64Value(); };
  const blas::Library& library = *opened_.back();
  const int64_t rows = number(0), width = number(1), vocab = number(2), threads = number(3);
  std::vector<float> hidden(rows * width, 0.5f), weight(vocab * width, 0.25f), logits(rows * vocab);
  std::vector<float> hiddenSums(rows * width), weightSums(vocab * width);
  const auto start = std::chrono::steady_clock::now();
  library.multiply(
      {{hidden.data(), width}, {weight.data(), width, true}, rows, vocab, width, logits.data(), vocab, false}, threads);
  library.multiply(
      {{logits.data(), vocab}, {weight.data(), width}, rows, width, vocab, hiddenSums.data(), width, false}, threads);
  library.multiply(
      {{logits.data(), vocab, true}, {hidden.data(), width}, vocab, width, rows, weightSums.data(), width, false},
      threads);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return Napi::Number::New(env_, seconds.count());
}

}  // namespace fpl
