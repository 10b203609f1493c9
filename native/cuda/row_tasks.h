// How the blocks of a launch share out rows, or pieces of them.
#pragma once

#include "stages.h"

namespace fpl {
namespace cuda {

// What each of the blocks of a launch does some of: the pieces of the rows.
struct RowTasks {
  VisitedRows rows;
  uint32_t pieces;  // of a row
  uint32_t blocks;  // of the launch

  // Calls body(row, piece) for those of this block, which all its threads go through together.
  template <typename Body>
  FPL_DEVICE void each(const Body& body) const {
    uint32_t places = uint32_t(rows.end - rows.first);
    if (rows.limit) {
      const int64_t left = *rows.limit - rows.first;
      places = left < 0 ? 0 : left < places ? uint32_t(left) : places;
    }
    const uint32_t tasks = places * pieces;
    for (uint32_t task = uint32_t(blockIndex()); task < tasks; task += blocks) {
      const uint32_t place = task / pieces, piece = task - place * pieces;
      body(rows.order ? uint32_t(rows.order[rows.first + place]) : uint32_t(rows.first) + place, piece);
    }
  }
};

// Calls launch(tasks) for as many rows at a time as have fewer than 2^31 pieces, with up to that many blocks.
template <typename Launch>
void forLaunches(VisitedRows rows, int64_t pieces, int64_t mostBlocks, const Launch& launch) {
  const int64_t end = rows.end, mostRows = kMostBlocks / pieces;
  for (; rows.first < end; rows.first = rows.end) {
    rows.end = end - rows.first < mostRows ? end : rows.first + mostRows;
    const int64_t tasks = rows.count() * pieces;
    launch(RowTasks{rows, uint32_t(pieces), uint32_t(tasks < mostBlocks ? tasks : mostBlocks)});
  }
}

// A number of each thread.
template <int kThreads>
struct Counts {
  int32_t of[kThreads];
};

// The rows of a thread, where each thread of a single block has a stretch of them.
struct Stretch {
  int64_t begin, end;
  int32_t before, total;  // how many rows predict something: of those before the stretch, and of all
};

template <int kThreads>
FPL_DEVICE Stretch stretchOfThread(const int32_t* targets, int64_t count, Counts<kThreads>& counts) {
  const int64_t share = (count + kThreads - 1) / kThreads, begin = threadIndex() * share;
  const int64_t end = begin + share < count ? begin + share : count;
  int32_t own = 0;
  for (int64_t row = begin; row < end; ++row) own += targets[row] != -1;
  counts.of[threadIndex()] = own;
  barrier();
  int32_t before = 0, total = 0;
  for (int t = 0; t < kThreads; ++t) {
    if (t == threadIndex()) before = total;
    total += counts.of[t];
  }
  return {begin, end, before, total};
}

}  // namespace cuda
}  // namespace fpl
