#include "lent_memory.h"

#include <atomic>
#include <cstring>
#include <typeinfo>

#if defined(__linux__) && defined(__x86_64__)
#include <dlfcn.h>
#endif

namespace fpl {

// std::_Sp_counted_base.
struct MemoryShare::Owners {
  virtual ~Owners() = default;
  virtual void freeMemory() noexcept = 0;
  virtual void freeThis() noexcept = 0;
  virtual void* deleter(const std::type_info&) noexcept = 0;

  std::atomic<int> shares;
  std::atomic<int> observers;  // all shares together count as one more
};

MemoryShare::MemoryShare(MemoryShare&& other) noexcept { *this = std::move(other); }

MemoryShare& MemoryShare::operator=(MemoryShare&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(owners_, other.owners_);
  return *this;
}

MemoryShare::~MemoryShare() {
  if (!owners_ || owners_->shares.fetch_sub(1) > 1) return;
  owners_->freeMemory();
  if (owners_->observers.fetch_sub(1) == 1) owners_->freeThis();
}

namespace {

// v8::ArrayBuffer::GetBackingStore. A napi_value is the pointer that V8 takes for `this`.
using GetShare = MemoryShare (*)(napi_value arrayBuffer);

#if defined(__linux__) && defined(__x86_64__)
GetShare findGetShare(napi_env env) {
  const napi_node_version* node = nullptr;
  if (napi_get_node_version(env, &node) != napi_ok || strcmp(node->release, "node") != 0) return nullptr;
  if (node->major != 20 && node->major != 22 && node->major != 24 && node->major != 26) return nullptr;
  // The mangled name of a function that takes a std::shared_ptr tells which library's it is.
  const char* const taking = "_ZN2v811ArrayBuffer3NewEPNS_7IsolateESt10shared_ptrINS_12BackingStoreEE";
  if (!dlsym(RTLD_DEFAULT, taking)) return nullptr;
  return reinterpret_cast<GetShare>(dlsym(RTLD_DEFAULT, "_ZN2v811ArrayBuffer15GetBackingStoreEv"));
}
#else
GetShare findGetShare(napi_env) { return nullptr; }
#endif

GetShare getShare(napi_env env) {
  static const GetShare found = findGetShare(env);
  return found;
}

}  // namespace

bool LentMemory::held(napi_env env) { return getShare(env) != nullptr; }

void LentMemory::hold(napi_env env, napi_value typedArray) {
  const GetShare share = getShare(env);
  napi_value buffer;
  bool holdable = false;
  if (!share || napi_get_typedarray_info(env, typedArray, nullptr, nullptr, nullptr, &buffer, nullptr) != napi_ok ||
      napi_is_arraybuffer(env, buffer, &holdable) != napi_ok || !holdable) {
    return;
  }
  shares_.push_back(share(buffer));
}

}  // namespace fpl
