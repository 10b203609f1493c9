// The memory of the devices that the host plays. A device address is one of the host with a bit set that no address
// has: code of the host that follows it stops, and only kernels and copies know what it stands for. Fresh memory is
// garbage, freed memory is out of bounds and is not given out again soon, and so is what lies before and behind each
// allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

namespace fpl {
namespace cuda {
namespace host {

// Every 16-bit word of fresh memory: NaN in all number formats, and a label and an index out of range.
constexpr uint16_t kFresh = 0xfff5;

// Memory of one device; null where the system has none.
void* allocate(int device, size_t bytes);
// Its size; 0 for what is not the beginning of an allocation.
size_t release(void* memory);
// What all devices have given out.
size_t allocatedBytes();

// Memory of the host that devices copy from and to by themselves.
void* allocatePinned(size_t bytes);
bool releasePinned(void* memory);

struct Place {
  enum Kind { kHost, kPinned, kDevice, kNowhere } kind;  // kNowhere: a device address that is not allocated
  int device;
  size_t left;        // bytes from there to the allocation's end
  const void* begin;  // of the allocation
};
Place placeOf(const void* memory);

// Whether the work that is being done may use the allocation that begins there; null where all may.
extern bool (*mayUse)(const void* begin);

// An allocation: its beginning as the device has it, and one that can be followed.
struct Allocated {
  void *memory, *data;
  size_t bytes;
};
std::vector<Allocated> allocationsOf(int device);

// What a kernel or a copy on that device finds in the place of a word of its arguments: an address of the device's own
// memory becomes one that can be followed, if it may be used; another device's, a freed one's and the host's become, or
// stay, addresses that cannot; everything else is no address and stays as it is.
uint64_t resolved(uint64_t word, int device);

template <typename T>
T resolvedArgument(T argument, int device) {
  static_assert(std::is_trivially_copyable<T>::value, "kernels' arguments are copied byte by byte");
  for (size_t at = 0; at + sizeof(uint64_t) <= sizeof(T); at += sizeof(uint64_t)) {
    char* place = reinterpret_cast<char*>(&argument) + at;
    uint64_t word;
    memcpy(&word, place, sizeof word);
    word = resolved(word, device);
    memcpy(place, &word, sizeof word);
  }
  return argument;
}

// Whether these bytes, which can be followed, hold any that nothing has been written to since they were allocated.
bool isFresh(const void* memory, size_t bytes);

// Runs `body`, a kernel or a copy; false when it followed an address that leads nowhere.
bool survives(const std::function<void()>& body);

}  // namespace host
}  // namespace cuda
}  // namespace fpl
