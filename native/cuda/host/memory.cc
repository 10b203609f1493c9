#include "memory.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>

#include "block.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace fpl {
namespace cuda {
namespace host {
namespace {

constexpr uintptr_t kTag = uintptr_t(1) << 48;
// Makes an address of the host one that cannot be followed.
constexpr uint64_t kForeign = uint64_t(1) << 50;
// As aligned as on a device.
constexpr size_t kAlignment = 256;
// Freed allocations whose addresses are kept from being given out again.
constexpr size_t kKept = 512;

struct Mapping {
  void* start;
  size_t size;
};
struct Allocation {
  size_t bytes;
  int device;
  Mapping mapping;
};

std::mutex mutex;
std::map<uintptr_t, Allocation> allocations;  // by their beginning, as the device has it
std::map<uintptr_t, size_t> pinned;
std::deque<Mapping> freed;
size_t allocated = 0;

size_t pageSize() { return size_t(sysconf(_SC_PAGESIZE)); }
size_t roundedUp(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

// The entry of what holds that address, its end included.
template <typename Entry, typename Size>
typename std::map<uintptr_t, Entry>::const_iterator holding(const std::map<uintptr_t, Entry>& map, uintptr_t address,
                                                            const Size& size) {
  auto found = map.upper_bound(address);
  if (found == map.begin()) return map.end();
  --found;
  return address - found->first <= size(found->second) ? found : map.end();
}
auto allocationAt(uintptr_t address) {
  return holding(allocations, address, [](const Allocation& a) { return a.bytes; });
}
auto pinnedAt(uintptr_t address) {
  return holding(pinned, address, [](size_t bytes) { return bytes; });
}

// Whether that is an address of the host's. Small numbers, pairs of them and numbers of any format are not.
bool isHostAddress(uint64_t word) {
  if (word < uint64_t(1) << 46 || word >= kTag) return false;
  unsigned char resident;
  return mincore(reinterpret_cast<void*>(word / pageSize() * pageSize()), 1, &resident) == 0;
}

// An address that the processor has no room for may count as a fault of the stack, by the register it was in.
constexpr int kFaults[] = {SIGSEGV, SIGBUS};
struct sigaction otherwise[2];
thread_local sigjmp_buf* escape = nullptr;

void onFault(int signal, siginfo_t* info, void* context) {
  if (escape) {
    beginEscape();
    siglongjmp(*escape, 1);
  }
  const struct sigaction& other = otherwise[signal == kFaults[0] ? 0 : 1];
  if (other.sa_flags & SA_SIGINFO) {
    other.sa_sigaction(signal, info, context);
  } else {
    sigaction(signal, &other, nullptr);  // and the instruction faults again
  }
}

void catchFaults() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = onFault;
    action.sa_flags = SA_SIGINFO;
    for (int i = 0; i < 2; ++i) sigaction(kFaults[i], &action, &otherwise[i]);
  });
}

}  // namespace

bool (*mayUse)(const void* begin) = nullptr;

void* allocate(int device, size_t bytes) {
  const size_t page = pageSize(), used = roundedUp(bytes, kAlignment), inner = roundedUp(used, page);
  const size_t size = inner + 2 * page;
  void* start = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return nullptr;
  char* first = static_cast<char*>(start) + page;
  if (mprotect(first, inner, PROT_READ | PROT_WRITE) != 0) {
    munmap(start, size);
    return nullptr;
  }
  // Up against the page behind it.
  char* data = first + inner - used;
  std::fill_n(reinterpret_cast<uint16_t*>(data), used / sizeof(uint16_t), kFresh);
  ASAN_POISON_MEMORY_REGION(data + bytes, used - bytes);
  const uintptr_t address = reinterpret_cast<uintptr_t>(data) | kTag;
  const std::lock_guard<std::mutex> lock(mutex);
  allocations[address] = {bytes, device, {start, size}};
  allocated += bytes;
  return reinterpret_cast<void*>(address);
}

size_t release(void* memory) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = allocations.find(reinterpret_cast<uintptr_t>(memory));
  if (found == allocations.end()) return 0;
  const Allocation gone = found->second;
  allocations.erase(found);
  allocated -= gone.bytes;
  ASAN_UNPOISON_MEMORY_REGION(gone.mapping.start, gone.mapping.size);
  mmap(gone.mapping.start, gone.mapping.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
       0);
  freed.push_back(gone.mapping);
  if (freed.size() > kKept) {
    munmap(freed.front().start, freed.front().size);
    freed.pop_front();
  }
  return gone.bytes;
}

size_t allocatedBytes() {
  const std::lock_guard<std::mutex> lock(mutex);
  return allocated;
}

void* allocatePinned(size_t bytes) {
  void* memory = malloc(bytes);
  const std::lock_guard<std::mutex> lock(mutex);
  if (memory) pinned[reinterpret_cast<uintptr_t>(memory)] = bytes;
  return memory;
}

bool releasePinned(void* memory) {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = pinned.find(reinterpret_cast<uintptr_t>(memory));
    if (found == pinned.end()) return false;
    memset(memory, kFresh & 0xff, found->second);
    pinned.erase(found);
  }
  free(memory);
  return true;
}

Place placeOf(const void* memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const std::lock_guard<std::mutex> lock(mutex);
  if (const auto found = allocationAt(address); found != allocations.end()) {
    const auto [begin, allocation] = *found;
    return {Place::kDevice, allocation.device, begin + allocation.bytes - address, reinterpret_cast<void*>(begin)};
  }
  if (const auto found = pinnedAt(address); found != pinned.end()) {
    return {Place::kPinned, 0, found->first + found->second - address, reinterpret_cast<void*>(found->first)};
  }
  return {address & kTag ? Place::kNowhere : Place::kHost, -1, 0, nullptr};
}

std::vector<Allocated> allocationsOf(int device) {
  std::vector<Allocated> out;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& [address, allocation] : allocations) {
    if (allocation.device != device) continue;
    out.push_back({reinterpret_cast<void*>(address), reinterpret_cast<void*>(address & ~kTag), allocation.bytes});
  }
  return out;
}

uint64_t resolved(uint64_t word, int device) {
  const Place place = placeOf(reinterpret_cast<const void*>(word));
  switch (place.kind) {
    case Place::kDevice:
      return place.device == device && (!mayUse || mayUse(place.begin)) ? word & ~kTag : word;
    case Place::kHost:
      return isHostAddress(word) ? word | kForeign : word;
    default:
      return word;
  }
}

bool isFresh(const void* memory, size_t bytes) {
  const char* at = static_cast<const char*>(memory);
  // Whole words: a byte alone may well be that of a result.
  constexpr uint32_t kWord = uint32_t(kFresh) << 16 | kFresh;
  for (size_t i = 0; i + sizeof kWord <= bytes; i += sizeof kWord) {
    if (memcmp(at + i, &kWord, sizeof kWord) == 0) return true;
  }
  return false;
}

bool survives(const std::function<void()>& body) {
  catchFaults();
  sigjmp_buf here;
  sigjmp_buf* const outer = escape;
  if (sigsetjmp(here, 1) != 0) {
    endEscape();
    escape = outer;
    return false;
  }
  escape = &here;
  body();
  escape = outer;
  return true;
}

}  // namespace host
}  // namespace cuda
}  // namespace fpl
