// Logits that are on the host, brought to the device and back in chunks: while one chunk is copied by the GPU and
// another is worked on, the next is copied to pinned memory. Rows that predict nothing are left out.
#pragma once

#include <functional>

#include "plan.h"

namespace fpl {
namespace cuda {

// A stream for copies beside the kernels' own, and an event. They are destroyed when they go out of scope.
class CopyStream {
 public:
  CopyStream();
  ~CopyStream();
  CopyStream(const CopyStream&) = delete;
  operator Stream() const { return stream_; }

 private:
  Stream stream_ = nullptr;
};
class CopyEvent {
 public:
  CopyEvent();
  ~CopyEvent();
  CopyEvent(const CopyEvent&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// Its two pinned buffers are kept from call to call: pinning takes longer than a copy of as much.
class Staging {
 public:
  Staging() = default;
  ~Staging();
  Staging(const Staging&) = delete;

  // Makes room in the buffers for `upload` and `download` of such rows.
  void reserve(const Rows& rows);

  // Rows of `from`, on the host, to the same rows of `to`; `ready(first, end)` is called when work on these rows may be
  // enqueued on `compute`. `targets` (on the host) tell which rows are active; null: all are. Stops early once
  // `cancelled`.
  void upload(const Rows& from, const Rows& to, const int32_t* targets, const std::atomic<bool>& cancelled,
              Stream compute, const std::function<void(int64_t first, int64_t end)>& ready);

  // Back, `work(first, end)` being called to enqueue what fills these rows. Inactive rows become zeros unless skipped.
  void download(const Rows& from, const Rows& to, const int32_t* targets, bool skipInactive, Stream compute,
                const std::function<void(int64_t first, int64_t end)>& work);

 private:
  static constexpr int kBuffers = 2;
  static constexpr size_t kChunk = 16 << 20;

  // A buffer, once nothing is copied to or from it any more.
  char* unused(int buffer);

  CopyStream copies_;
  PinnedMemory buffers_[kBuffers];
  CopyEvent copied_[kBuffers], worked_;
};

}  // namespace cuda
}  // namespace fpl
