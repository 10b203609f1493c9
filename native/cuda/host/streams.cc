// A test of the runtime that the host plays: what uses memory of a pool before it has been taken or after it has been
// given back, on whichever stream, is found out, and what is in order is not. Prints what became of the case that is
// named.
#include <cstdio>
#include <map>
#include <string>

#include "runtime.h"

namespace {

constexpr size_t kBytes = 64;

cudaMemPool_t makePool(size_t kept) {
  cudaMemPoolProps properties{cudaMemAllocationTypePinned, {cudaMemLocationTypeDevice, 0}};
  cudaMemPool_t pool = nullptr;
  cudaMemPoolCreate(&pool, &properties);
  uint64_t threshold = kept;
  cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold);
  return pool;
}

cudaStream_t makeStream() {
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  return stream;
}

cudaEvent_t recorded(cudaStream_t stream) {
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  cudaEventRecord(event, stream);
  return event;
}

void follow(cudaStream_t stream, cudaStream_t other) { cudaStreamWaitEvent(stream, recorded(other), 0); }

// Has the work of a stream done, though nobody waits for it.
void happens(cudaStream_t stream) {
  const cudaStream_t other = makeStream();
  follow(other, stream);
  cudaStreamDestroy(other);
}

struct Case {
  cudaMemPool_t pool = makePool(0);
  cudaStream_t taking = makeStream(), working = makeStream(), giving = makeStream();
  void* memory = nullptr;

  void take() { cudaMallocFromPoolAsync(&memory, kBytes, pool, taking); }
  void work() { cudaMemsetAsync(memory, 1, kBytes, working); }
  cudaError_t give() { return cudaFreeAsync(memory, giving); }
  // Does all that waits.
  cudaError_t result() {
    for (cudaStream_t stream : {working, giving, taking}) cudaStreamSynchronize(stream);
    return cudaGetLastError();
  }
};

cudaError_t inOrder() {
  Case a;
  a.take();
  follow(a.working, a.taking);
  a.work();
  follow(a.giving, a.working);
  a.give();
  return a.result();
}

cudaError_t inOrderOfTheHost() {
  Case a;
  a.take();
  cudaStreamSynchronize(a.taking);
  a.work();
  cudaStreamSynchronize(a.working);
  a.give();
  return a.result();
}

cudaError_t inOrderOfAnEventThatTheHostHasAwaited() {
  Case a;
  a.take();
  cudaStreamSynchronize(a.taking);
  a.work();
  cudaEventSynchronize(recorded(a.working));
  a.give();
  return a.result();
}

cudaError_t inOrderOfAnEventThatTheHostHasAskedFor() {
  Case a;
  a.take();
  cudaStreamSynchronize(a.taking);
  a.work();
  const cudaEvent_t event = recorded(a.working);
  if (cudaEventQuery(event) != cudaErrorNotReady) return cudaErrorInvalidValue;
  cudaGetLastError();
  happens(a.working);
  if (cudaEventQuery(event) != cudaSuccess) return cudaErrorNotReady;
  a.give();
  return a.result();
}

// By way of a stream that has nothing to do with it.
cudaError_t inOrderAcrossStreams() {
  Case a;
  const cudaStream_t between = makeStream();
  a.take();
  follow(between, a.taking);
  follow(a.working, between);
  a.work();
  follow(between, a.working);
  follow(a.giving, between);
  a.give();
  return a.result();
}

cudaError_t beforeItIsTaken() {
  Case a;
  a.take();
  a.work();
  return a.result();
}

// Done first all the same.
cudaError_t beforeItIsGivenBackByChance() {
  Case a;
  a.take();
  cudaStreamSynchronize(a.taking);
  a.work();
  happens(a.working);
  return a.give();
}

cudaError_t afterItIsGivenBack() {
  Case a;
  a.take();
  cudaStreamSynchronize(a.taking);
  a.give();
  a.work();
  return a.result();
}

cudaError_t afterItIsGivenBackInOrder() {
  Case a;
  a.take();
  cudaStreamSynchronize(a.taking);
  a.give();
  follow(a.working, a.giving);
  a.work();
  return a.result();
}

// The event was recorded before the work.
cudaError_t afterAnEarlierEvent() {
  Case a;
  a.take();
  cudaStreamSynchronize(a.taking);
  follow(a.giving, a.working);
  a.work();
  a.give();
  return a.result();
}

cudaError_t ofAGraph() {
  Case a;
  a.take();
  cudaStreamSynchronize(a.taking);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaStreamBeginCapture(a.working, cudaStreamCaptureModeThreadLocal);
  a.work();
  cudaStreamEndCapture(a.working, &graph);
  cudaGraphInstantiate(&executable, graph, 0);
  a.give();
  cudaGraphLaunch(executable, a.working);
  return a.result();
}

cudaError_t twice() {
  Case a;
  a.take();
  cudaStreamSynchronize(a.taking);
  a.give();
  return a.give();
}

cudaError_t byFree() {
  Case a;
  a.take();
  return cudaFree(a.memory);
}

// Memory that is not a pool's.
cudaError_t ofNoPool() {
  Case a;
  cudaMalloc(&a.memory, kBytes);
  return a.give();
}

cudaError_t whileCapturing() {
  Case a;
  cudaStreamBeginCapture(a.working, cudaStreamCaptureModeThreadLocal);
  a.take();
  cudaGraph_t graph = nullptr;
  return cudaStreamEndCapture(a.working, &graph);
}

// Nothing is captured any more, whatever takes the place of the stream.
cudaError_t ofAStreamThatIsDestroyedWhileItCaptures() {
  Case a;
  cudaStreamBeginCapture(a.working, cudaStreamCaptureModeThreadLocal);
  const cudaStream_t other = makeStream();
  follow(other, a.working);
  cudaStreamDestroy(a.working);
  a.working = other;
  a.take();
  cudaStreamSynchronize(a.taking);
  a.work();
  return a.result();
}

// A pool keeps what it may, and no more.
cudaError_t kept() {
  Case a;
  a.pool = makePool(kBytes);
  size_t before = 0, after = 0, total = 0;
  cudaMemGetInfo(&before, &total);
  void* other = nullptr;
  a.take();
  cudaMallocFromPoolAsync(&other, 3 * kBytes, a.pool, a.taking);
  cudaFreeAsync(a.memory, a.taking);
  cudaFreeAsync(other, a.taking);
  cudaStreamSynchronize(a.taking);
  cudaMemGetInfo(&after, &total);
  if (before - after != kBytes) return cudaErrorInvalidValue;
  a.take();
  cudaMemGetInfo(&after, &total);
  if (before - after != kBytes) return cudaErrorInvalidValue;
  cudaFreeAsync(a.memory, a.taking);
  cudaStreamSynchronize(a.taking);
  cudaMemPoolTrimTo(a.pool, 0);
  cudaMemGetInfo(&after, &total);
  return before == after ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

int main(int, char** arguments) {
  const std::map<std::string, cudaError_t (*)()> cases = {
      {"in order", inOrder},
      {"in order of the host", inOrderOfTheHost},
      {"in order of an event that the host has awaited", inOrderOfAnEventThatTheHostHasAwaited},
      {"in order of an event that the host has asked for", inOrderOfAnEventThatTheHostHasAskedFor},
      {"in order across streams", inOrderAcrossStreams},
      {"before it is taken", beforeItIsTaken},
      {"before it is given back, by chance", beforeItIsGivenBackByChance},
      {"after it is given back", afterItIsGivenBack},
      {"after it is given back, in order", afterItIsGivenBackInOrder},
      {"after an earlier event", afterAnEarlierEvent},
      {"of a graph", ofAGraph},
      {"twice", twice},
      {"by cudaFree", byFree},
      {"of no pool", ofNoPool},
      {"while capturing", whileCapturing},
      {"of a stream that is destroyed while it captures", ofAStreamThatIsDestroyedWhileItCaptures},
      {"kept", kept},
  };
  const auto found = cases.find(arguments[1]);
  if (found == cases.end()) return 1;
  printf("%s", cudaGetErrorName(found->second()));
  return 0;
}
