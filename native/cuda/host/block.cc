#include "block.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#else
#define __sanitizer_start_switch_fiber(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#define __sanitizer_finish_switch_fiber(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#endif

namespace fpl {
namespace cuda {
namespace host {
namespace {

constexpr size_t kStack = 128 << 10;
constexpr int kLanes = 32;

enum class Wait { kNothing, kBlock, kWarp, kDone };

// It runs one thread after the other, of one block after the other: to make one anew takes longer than most threads.
struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStack]};
  ucontext_t start;
  jmp_buf resume;
  bool started = false;
  Wait wait = Wait::kNothing;
  void* sanitizer = nullptr;  // what AddressSanitizer keeps of it while it waits
};

// What runs on this thread of the host.
struct Machine {
  std::vector<Fiber> fibers;
  jmp_buf scheduler;
  int thread = 0, threads = 0;
  int64_t block = 0;
  bool inFiber = false, escaping = false, inGrid = false;
  // What AddressSanitizer has to be told of the scheduler.
  void* sanitizer = nullptr;
  const void* stack = nullptr;
  size_t stackSize = 0;
  const std::function<void()>* body = nullptr;
  std::map<const void*, std::unique_ptr<char[]>> shared;
  std::vector<uint64_t> lanes;
  uint64_t random = 88172645463325252u;

  uint64_t next() {
    random ^= random << 13;
    random ^= random >> 7;
    return random ^= random << 17;
  }
};

// Read at every step of every kernel: without the calls by which a library finds its variables of a thread, and which
// construct them. Null until the thread runs its first kernel.
__attribute__((tls_model("initial-exec"))) thread_local Machine* machine = nullptr;

[[noreturn]] void refuse(const char* problem) {
  fprintf(stderr, "kernel on the host: %s (block %lld)\n", problem, static_cast<long long>(machine->block));
  abort();
}

// Both sides of a switch between the scheduler's stack and a fiber's.
void arriveInFiber() {
  __sanitizer_finish_switch_fiber(machine->fibers[machine->thread].sanitizer, &machine->stack, &machine->stackSize);
  machine->inFiber = true;
}
void leaveFiber(void** keep) {
  machine->inFiber = false;
  __sanitizer_start_switch_fiber(keep, machine->stack, machine->stackSize);
}

void pause(Wait wait) {
  Fiber& fiber = machine->fibers[machine->thread];
  fiber.wait = wait;
  if (_setjmp(fiber.resume) == 0) {
    leaveFiber(&fiber.sanitizer);
    _longjmp(machine->scheduler, 1);
  }
  arriveInFiber();
}

void enter() {
  arriveInFiber();
  for (;;) {
    (*machine->body)();
    pause(Wait::kDone);
  }
}

void resume(int thread) {
  Fiber& fiber = machine->fibers[thread];
  machine->thread = thread;
  fiber.wait = Wait::kNothing;
  if (_setjmp(machine->scheduler) != 0) {
    __sanitizer_finish_switch_fiber(machine->sanitizer, nullptr, nullptr);
    return;
  }
  __sanitizer_start_switch_fiber(&machine->sanitizer, fiber.stack.get(), kStack);
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStack;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, enter, 0);
  setcontext(&fiber.start);
}

bool all(int first, int end, Wait wait) {
  for (int t = first; t < end; ++t) {
    if (machine->fibers[t].wait != wait) return false;
  }
  return true;
}

void runBlock() {
  const int threads = machine->threads;
  for (auto& variable : machine->shared) variable.second.reset();
  machine->shared.clear();

  std::vector<int> ready(threads);
  for (int t = 0; t < threads; ++t) ready[t] = t;
  while (!ready.empty()) {
    for (size_t i = ready.size(); i > 1; --i) std::swap(ready[i - 1], ready[(machine->next() >> 32) * i >> 32]);
    for (const int t : ready) resume(t);
    ready.clear();
    // All of a warp wait for each other, or all of the block do.
    for (int first = 0; first < threads; first += kLanes) {
      const int end = first + kLanes < threads ? first + kLanes : threads;
      if (!all(first, end, Wait::kWarp)) continue;
      for (int t = first; t < end; ++t) ready.push_back(t);
    }
    if (!ready.empty()) continue;
    if (all(0, threads, Wait::kDone)) return;
    if (!all(0, threads, Wait::kBlock))
      refuse("some threads wait at a barrier or an exchange that others do not reach");
    for (int t = 0; t < threads; ++t) ready.push_back(t);
  }
}

}  // namespace

void runGrid(int64_t blocks, int threads, const std::function<void()>& body) {
  static thread_local Machine own;
  machine = &own;
  // The threads of a grid that was left by an escape are where they were.
  if (own.inGrid) own.fibers.clear();
  own.inGrid = true;
  if (int(own.fibers.size()) < threads) own.fibers.resize(threads);
  own.threads = threads;
  own.lanes.assign(threads, 0);
  own.body = &body;
  for (own.block = 0; own.block < blocks; ++own.block) runBlock();
  own.inGrid = false;
}

void beginEscape() {
  if (!machine) return;
  machine->escaping = machine->inFiber;
  if (machine->escaping) leaveFiber(nullptr);
}
void endEscape() {
  if (!machine) return;
  if (machine->escaping) __sanitizer_finish_switch_fiber(machine->sanitizer, nullptr, nullptr);
  machine->escaping = false;
}

int currentThread() { return machine->thread; }
int64_t currentBlock() { return machine->block; }
void waitForBlock() { pause(Wait::kBlock); }
void waitForWarp() { pause(Wait::kWarp); }

void* sharedMemory(const void* tag, size_t size) {
  std::unique_ptr<char[]>& memory = machine->shared[tag];
  if (!memory) {
    memory.reset(new char[size]);
    memset(memory.get(), 0xff, size);
  }
  return memory.get();
}

void* laneSlot(int lane) { return &machine->lanes[machine->thread / kLanes * kLanes + lane]; }

}  // namespace host
}  // namespace cuda
}  // namespace fpl
