// A test: whatever the library does on whichever device, the calling thread's context is afterwards what it was before,
// none where there was none; a device that nobody asks for is not used; and memory that the library gives back is used
// again after what others have enqueued on it.
#include <dlfcn.h>

#include <cstdio>

#include "../api.h"
#include "access.h"

namespace {

int problems = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  printf("not so: %s\n", what);
  ++problems;
}

}  // namespace

int main(int, char** arguments) {
  using namespace fpl::cuda;
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (!library) {
    printf("%s\n", dlerror());
    return 1;
  }
  const Api& api = *reinterpret_cast<const Api* (*)()>(dlsym(library, kApiSymbol))();
  const host::Access& access = *reinterpret_cast<host::GetAccess>(dlsym(library, host::kAccessSymbol))();
  {
    Problem problem;
    uint64_t memory = 0;
    void *stream = nullptr, *start = nullptr, *end = nullptr, *graph = nullptr;
    MemoryKind first = MemoryKind::kHost, last = first;
    int32_t of = -1;
    double milliseconds = 0;
    DeviceInfo info;
    const auto uses = [&](bool done, const char* what) { expect(done && !access.isInUse(0), what); };
    uses(api.deviceCount(&of, &problem) && api.deviceInfo(1, &info, &problem), "device 0 is idle: properties");
    uses(api.memoryAt(64, 8, &first, &last, &of, &problem) && first == MemoryKind::kHost, "device 0 is idle: nothing");
    uses(api.allocate(1, 64, &memory, &problem), "device 0 is idle: memory");
    uses(api.memoryAt(memory, 64, &first, &last, &of, &problem) && of == 1, "device 0 is idle: an address");
    uses(api.createStream(1, &stream, &problem), "device 0 is idle: a stream");
    uses(api.createEvent(1, &start, &problem) && api.createEvent(1, &end, &problem), "device 0 is idle: events");
    uses(api.recordEvent(1, start, stream, &problem), "device 0 is idle: recording");
    uses(api.beginCapture(1, stream, &problem), "device 0 is idle: a capture");
    uses(api.endCapture(1, stream, &graph, &problem), "device 0 is idle: a graph");
    uses(api.launchGraph(1, graph, stream, &problem), "device 0 is idle: launching");
    uses(api.recordEvent(1, end, stream, &problem), "device 0 is idle: recording");
    uses(api.milliseconds(1, start, end, &milliseconds, &problem), "device 0 is idle: reading events");
    uses(api.synchronize(1, stream, &problem), "device 0 is idle: waiting");
    uses(api.destroyGraph(1, graph, &problem), "device 0 is idle: the graph's end");
    uses(api.destroyEvent(1, start, &problem) && api.destroyEvent(1, end, &problem), "device 0 is idle: their end");
    uses(api.destroyStream(1, stream, &problem), "device 0 is idle: the stream's end");
    uses(api.release(1, memory, &problem), "device 0 is idle: giving back");
  }
  for (const uintptr_t context : {0, 1, 2}) {
    const auto is = [&] {
      void* current = nullptr;
      access.currentContext(&current);
      return current == reinterpret_cast<void*>(context);
    };
    access.makeCurrent(reinterpret_cast<void*>(context));
    for (const int32_t device : {0, 1}) {
      Problem problem;
      uint64_t memory = 0;
      expect(api.allocate(device, 64, &memory, &problem) && is(), "after memory was allocated");
      expect(api.release(device, memory, &problem) && is(), "after it was given back");
    }
    Problem problem;
    uint64_t memory = 0;
    expect(!api.allocate(0, uint64_t(1) << 50, &memory, &problem) && is(), "after there was none");
    expect(!api.allocate(9, 64, &memory, &problem) && is(), "after there was no such device");
  }
  // On the default stream, and on one that a stream of the library waits for.
  access.makeCurrent(reinterpret_cast<void*>(uintptr_t(1)));
  for (const bool isDefault : {true, false}) {
    Problem problem;
    uint64_t memory = 0;
    void *own = nullptr, *other = nullptr, *event = nullptr;
    expect(api.allocate(0, 64, &memory, &problem) && api.createStream(0, &own, &problem) &&
               api.createStream(0, &other, &problem) && api.createEvent(0, &event, &problem),
           "memory, streams and an event");
    const auto work = [&access, memory](int device) { *reinterpret_cast<char*>(access.resolved(memory, device)) = 1; };
    access.enqueue(isDefault ? nullptr : static_cast<cudaStream_t>(other), host::Work(work));
    if (!isDefault) {
      expect(api.recordEvent(0, event, other, &problem) && api.waitForEvent(0, own, event, &problem), "an event");
    }
    expect(api.release(0, memory, &problem), "giving back what others use");
    access.synchronize();
    expect(api.allocate(0, 64, &memory, &problem), "after others have used it");
  }
  if (problems == 0) printf("as they were\n");
  return problems == 0 ? 0 : 1;
}
