// The chunks of an output layer's rows on a GPU (native/cuda/chunks.h). Prints what it tried; exits with 1 when
// something is wrong.
#include "../../native/cuda/chunks.h"

#include <cstdio>
#include <string>
#include <vector>

using fpl::cuda::ChunkedLayer;
using fpl::cuda::Chunks;

namespace {

int64_t failures = 0, tried = 0;

void check(bool holds, const std::string& what) {
  ++tried;
  if (holds) return;
  ++failures;
  fprintf(stderr, "wrong: %s\n", what.c_str());
}

std::string text(const std::vector<int64_t>& list) {
  std::string out;
  for (const int64_t each : list) out += " " + std::to_string(each);
  return out;
}

std::vector<int64_t> rowsOf(const Chunks& chunks) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < chunks.count(); ++i) rows.push_back(chunks.begin(i + 1) - chunks.begin(i));
  return rows;
}

void expect(int64_t rows, int64_t most, const ChunkedLayer& layer, const std::vector<int64_t>& wanted) {
  const std::vector<int64_t> got = rowsOf(Chunks(rows, most, layer));
  check(got == wanted,
        std::to_string(rows) + " rows, at most " + std::to_string(most) + ":" + text(got) + ", not" + text(wanted));
}

// What holds of any rows.
void invariants(int64_t rows, int64_t most, const ChunkedLayer& layer) {
  const Chunks chunks(rows, most, layer);
  const std::string what = std::to_string(rows) + " rows, at most " + std::to_string(most) + ", of [" +
                           std::to_string(layer.vocab) + ", " + std::to_string(layer.width) +
                           "]:" + text(rowsOf(chunks));
  const int64_t unit = most >= Chunks::kTileRows ? Chunks::kTileRows : 1;
  int64_t longest = 0, shortest = rows;
  check(chunks.begin(0) == 0 && chunks.begin(chunks.count()) == rows, what + " are not all rows");
  for (int64_t i = 0; i < chunks.count(); ++i) {
    const int64_t begin = chunks.begin(i), own = chunks.begin(i + 1) - begin;
    check(own > 0 && own <= most, what + " has a chunk that is empty or too long");
    check(begin % unit == 0, what + " has a chunk that begins within a tile");
    check(chunks.beginningWith(begin) == i, what + " does not know a chunk by its first row");
    longest = std::max(longest, own);
    shortest = std::min(shortest, own);
  }
  check(chunks.most() == longest, what + " has a longest chunk of other length than it says");
  check(longest - shortest < 2 * unit, what + " has a chunk that is much shorter than another");
  check((chunks.count() == 1) == (rows <= most || rows == 0),
        what + " is cut where it need not be, or not where it must");
}

}  // namespace

int main() {
  const ChunkedLayer large{128256, 4096, 132};
  expect(0, 1536, large, {});
  expect(1, 1536, large, {1});
  expect(1536, 1536, large, {1536});
  // A hidden state's gradient is 16 tiles wide: those of 1024 rows are one round of 132 multiprocessors, those of 1408
  // two, though that were two chunks fewer.
  expect(8192, 1536, large, std::vector<int64_t>(8, 1024));
  expect(8192, 1536, {128256, 4096, 108}, {1408, 1408, 1280, 1408, 1408, 1280});
  // A chunk more is a pass over the weight's gradient more.
  expect(12000, 6144, {32000, 4096, 132}, {6016, 5984});
  expect(1600, 1536, large, {896, 704});
  // Of fewer rows than a tile's each.
  expect(16, 11, {211, 29, 4}, {8, 8});
  expect(17, 5, {211, 29, 4}, {5, 4, 4, 4});
  expect(3, 1, {211, 29, 4}, {1, 1, 1});
  for (const ChunkedLayer& layer : {large, {128256, 4096, 148}, {32000, 2048, 108}, {50257, 768, 132}, {33, 7, 4}}) {
    for (const int64_t most : {1, 2, 5, 127, 128, 256, 384, 1536, 6272}) {
      for (int64_t rows = 1; rows < 20000; rows += 1 + rows / 3) invariants(rows, most, layer);
      for (const int64_t rows : {most, most + 1, 2 * most, 2 * most + 1, 7 * most - 1}) invariants(rows, most, layer);
    }
  }
  printf("%lld checks, %lld wrong\n", static_cast<long long>(tried), static_cast<long long>(failures));
  return failures == 0 ? 0 : 1;
}
