// Memory of devices, and memory of the host that devices copy from and to by themselves. Where a device has pools, both
// are given back without waiting for it, and kept for whoever asks next.
#pragma once

#include <set>
#include <string>
#include <utility>

#include "launch.h"

namespace fpl {
namespace cuda {

// Memory of the current device, for any stream. Throws where there is no room, naming the bytes and what they are for.
char* allocateOnDevice(size_t bytes, const std::string& purpose);
// It is given to others once all work has ended that is enqueued by now: on streams that a StreamUse has been made for,
// and on the default stream, which waits for all streams but those that are created as non-blocking.
void releaseOnDevice(void* memory);
// Whether that is memory which was given back, and which nobody has been given since: the pool keeps it, and CUDA may
// take it for memory that is in use.
bool isGivenBack(int device, const void* memory);
// Gives what the pool of the current device keeps, and nobody uses, back to the system. Waits for the device.
void trimPool();

// What the library keeps of a device.
struct Pool;

// While it lives, a stream gets work that uses memory. Made after, so that it ends before, what owns that memory.
class StreamUse {
 public:
  // Throws where the pool of the current device cannot be opened.
  explicit StreamUse(Stream stream);
  ~StreamUse();
  StreamUse(const StreamUse&) = delete;

 private:
  Pool& pool_;
  Stream stream_;
};

// The streams on which the calling thread captures graphs. Nothing may be allocated meanwhile.
std::set<Stream>& capturing();

// Memory that is given back when it goes out of scope, on the device that is current then.
template <typename Kind>
class Memory {
 public:
  Memory() = default;
  Memory(char* data, size_t size) : data_(data), size_(size) {}
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Memory() {
    if (data_) Kind::release(data_, size_);
  }
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

struct OnDevice {
  static void release(char* memory, size_t bytes);
};
struct Pinned {
  static void release(char* memory, size_t bytes);
};
using DeviceMemory = Memory<OnDevice>;
using PinnedMemory = Memory<Pinned>;

// The library's own; zero when FUSED_PREFERENCE_LOSS_CLEAR_MEMORY is set, for tools that look for what is read before
// it is written: results are copied with the gaps between them, and rows with what lies beside them.
DeviceMemory deviceMemory(size_t bytes, const std::string& purpose);
// At least as many bytes.
PinnedMemory pinnedMemory(size_t bytes);

}  // namespace cuda
}  // namespace fpl
