#include "staging.h"

#include <algorithm>
#include <cstring>

namespace fpl {
namespace cuda {
namespace {

constexpr const char* kDoing = "copying logits between host and device";

// As many rows from `first` on as fit a chunk, at least one.
int64_t chunkEnd(const Rows& rows, int64_t first, size_t chunk) {
  const int64_t rowBytes = rows.vocab * elementSize(rows.dtype);
  return std::min(rows.count(), first + std::max<int64_t>(1, int64_t(chunk) / rowBytes));
}

char* addressOf(const Rows& rows, int64_t row) {
  return static_cast<char*>(rows.data) + rows.offset(row) * elementSize(rows.dtype);
}

bool isActive(const int32_t* targets, int64_t row) { return !targets || targets[row] != -1; }

// Calls `visit(begin, end)` for every run of active rows in first .. last.
template <typename Visit>
void forRuns(const int32_t* targets, int64_t first, int64_t last, const Visit& visit) {
  for (int64_t row = first; row < last;) {
    if (!isActive(targets, row)) {
      ++row;
      continue;
    }
    const int64_t begin = row;
    while (row < last && isActive(targets, row)) ++row;
    visit(begin, row);
  }
}

}  // namespace

CopyStream::CopyStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), kDoing); }
CopyStream::~CopyStream() { ignore(cudaStreamDestroy(stream_)); }
CopyEvent::CopyEvent() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), kDoing); }
CopyEvent::~CopyEvent() { ignore(cudaEventDestroy(event_)); }

// Its copies may still be under way after an error.
Staging::~Staging() { ignore(cudaStreamSynchronize(copies_)); }

void Staging::reserve(const Rows& rows) {
  const int64_t most = chunkEnd(rows, 0, kChunk);
  const size_t bytes = size_t(most * rows.vocab * elementSize(rows.dtype));
  for (int buffer = 0; buffer < kBuffers && buffer * most < rows.count(); ++buffer) {
    PinnedMemory& pinned = buffers_[buffer];
    if (pinned.size() >= bytes) continue;
    // The old memory first: there may not be room for both.
    pinned = PinnedMemory();
    pinned = pinnedMemory(bytes);
  }
}

char* Staging::unused(int buffer) {
  check(cudaEventSynchronize(copied_[buffer]), kDoing);
  return buffers_[buffer].data();
}

void Staging::upload(const Rows& from, const Rows& to, const int32_t* targets, const std::atomic<bool>& cancelled,
                     Stream compute, const std::function<void(int64_t, int64_t)>& ready) {
  const StreamUse use(copies_);
  const size_t rowBytes = size_t(from.vocab * elementSize(from.dtype));
  int buffer = 0;
  for (int64_t first = 0; first < from.count() && !cancelled; buffer = (buffer + 1) % kBuffers) {
    const int64_t end = chunkEnd(from, first, kChunk);
    char* const pinned = unused(buffer);
    forRuns(targets, first, end, [&](int64_t begin, int64_t last) {
      char* at = pinned + size_t(begin - first) * rowBytes;
      for (int64_t row = begin; row < last; ++row)
        memcpy(at + size_t(row - begin) * rowBytes, addressOf(from, row), rowBytes);
      // The rows of `to` are neighbours.
      check(cudaMemcpyAsync(addressOf(to, begin), at, size_t(last - begin) * rowBytes, cudaMemcpyHostToDevice, copies_),
            kDoing);
    });
    check(cudaEventRecord(copied_[buffer], copies_), kDoing);
    check(cudaStreamWaitEvent(compute, copied_[buffer], 0), kDoing);
    ready(first, end);
    first = end;
  }
}

void Staging::download(const Rows& from, const Rows& to, const int32_t* targets, bool skipInactive, Stream compute,
                       const std::function<void(int64_t, int64_t)>& work) {
  const StreamUse use(copies_);
  const size_t rowBytes = size_t(from.vocab * elementSize(from.dtype));
  struct Chunk {
    int64_t first = 0, end = 0;
  };
  Chunk waiting[kBuffers];
  const auto empty = [&](int buffer) {
    const Chunk chunk = waiting[buffer];
    if (chunk.end == chunk.first) return;
    check(cudaEventSynchronize(copied_[buffer]), kDoing);
    for (int64_t row = chunk.first; row < chunk.end; ++row) {
      if (isActive(targets, row)) {
        memcpy(addressOf(to, row), buffers_[buffer].data() + size_t(row - chunk.first) * rowBytes, rowBytes);
      } else if (!skipInactive) {
        memset(addressOf(to, row), 0, rowBytes);
      }
    }
    waiting[buffer] = {};
  };
  int buffer = 0;
  for (int64_t first = 0; first < from.count(); buffer = (buffer + 1) % kBuffers) {
    const int64_t end = chunkEnd(from, first, kChunk);
    work(first, end);
    check(cudaEventRecord(worked_, compute), kDoing);
    check(cudaStreamWaitEvent(copies_, worked_, 0), kDoing);
    empty(buffer);
    char* const pinned = unused(buffer);
    forRuns(targets, first, end, [&](int64_t begin, int64_t last) {
      check(cudaMemcpyAsync(pinned + size_t(begin - first) * rowBytes, addressOf(from, begin),
                            size_t(last - begin) * rowBytes, cudaMemcpyDeviceToHost, copies_),
            kDoing);
    });
    check(cudaEventRecord(copied_[buffer], copies_), kDoing);
    waiting[buffer] = {first, end};
    first = end;
  }
  for (int i = 0; i < kBuffers; ++i) empty((buffer + i) % kBuffers);
}

}  // namespace cuda
}  // namespace fpl
