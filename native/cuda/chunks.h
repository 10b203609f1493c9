// How the rows of an output layer are cut into chunks, which are multiplied one after the other: into nearly equal
// ones, and into as many as leave the least of the GPU idle. Nothing here needs a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fpl {
namespace cuda {

// An output layer, and the multiprocessors of its GPU.
struct ChunkedLayer {
  int64_t vocab, width, multiprocessors;
};

class Chunks {
 public:
  Chunks() = default;
  // `most`: rows that a chunk may have.
  Chunks(int64_t rows, int64_t most, const ChunkedLayer& layer)
      : rows_(rows), unit_(most >= kTileRows ? kTileRows : 1) {
    units_ = dividedUp(rows, unit_);
    const int64_t mostUnits = most / unit_;
    count_ = dividedUp(units_, mostUnits);
    if (count_ < 2) return;
    double least = costOf(count_, layer);
    // More of them only where each then fits the multiprocessors so much better.
    for (int64_t more = count_ + 1, end = std::min(units_, 2 * count_); more <= end; ++more) {
      const double cost = costOf(more, layer);
      if (cost >= least) continue;
      least = cost;
      count_ = more;
    }
  }

  int64_t count() const { return count_; }
  // Rows of the longest, which is the first.
  int64_t most() const { return count_ == 0 ? 0 : begin(1); }
  // The row that the i-th begins with; of i = count(), the number of rows.
  int64_t begin(int64_t i) const { return beginOf(i, count_); }
  // Which one begins with a row.
  int64_t beginningWith(int64_t row) const { return row / unit_ * count_ / units_; }

  // Of a product, what a multiprocessor makes at once.
  static constexpr int64_t kTileRows = 128, kTileColumns = 256;
  // To read and write the weight's gradient once more takes about as long as to multiply so many rows.
  static constexpr int64_t kRowsOfPass = 512;

 private:
  int64_t beginOf(int64_t i, int64_t count) const { return i == count ? rows_ : dividedUp(i * units_, count) * unit_; }

  static int64_t dividedUp(int64_t value, int64_t by) { return (value + by - 1) / by; }

  // The time of the three products with so many chunks: for each the rounds in which the multiprocessors make its
  // tiles, times the terms of a sum.
  double costOf(int64_t count, const ChunkedLayer& layer) const {
    const auto rounds = [&](int64_t rows, int64_t columns) {
      return dividedUp(dividedUp(rows, kTileRows) * dividedUp(columns, kTileColumns), layer.multiprocessors);
    };
    const auto ofUnits = [&](int64_t units) {
      const int64_t rows = units * unit_;  // the last chunk may have fewer, but as many tiles
      return double(rounds(rows, layer.vocab) * layer.width) + double(rounds(rows, layer.width) * layer.vocab);
    };
    const int64_t longer = units_ % count;
    return double(longer) * ofUnits(units_ / count + 1) + double(count - longer) * ofUnits(units_ / count) +
           double(rounds(layer.vocab, layer.width) * (rows_ + count * kRowsOfPass));
  }

  int64_t rows_ = 0, unit_ = 1, units_ = 0, count_ = 0;
};

}  // namespace cuda
}  // namespace fpl
