// Stages 1 and 4 on single rows of logits that are in memory.
#pragma once

#include <vector>

#include "rows.h"

namespace fpl {

// Stage 1, and what of stage 3 depends on a single row.
class RowReader {
 public:
  RowReader(const Forward& forward, const Tokens& tokens, TokenState* states, float* sumSquaredProbs,
            const LogitConstants& constants, const Kernels& kernels);

  SweptRow sweep(int64_t row, int64_t segment) const;
  // That of a label among the columns, capped if it has to be.
  float labelLogit(int64_t row) const;
  // With what all segments of the row have given, merged in order.
  void finish(int64_t row, const SweptRow& swept) const;
  // All segments of an active row.
  void read(int64_t row) const;

 private:
  const Rows& rows_;
  const Tokens& tokens_;
  const RowSegments segments_;
  const RowSweep sweep_;
  const RowFinisher finish_;
};

// A row of stage 4, and its sequence.
struct RowOfSequence {
  int64_t row, sequence;
};

// The rows of these sequences that stage 4 writes, in order.
std::vector<RowOfSequence> writtenRows(const Gradient& gradient, const Tokens& tokens, const Sequences& sequences);

// Stage 4.
class RowWriter {
 public:
  RowWriter(const Gradient& gradient, const Tokens& tokens, const LogitConstants& constants, const Kernels& kernels);

  // Segments first .. last of a row.
  void write(const RowOfSequence& at, int64_t first, int64_t last) const;
  void write(const RowOfSequence& at) const { write(at, 0, segments_.count); }

 private:
  ResultSlopes slopesOf(const RowOfSequence& at) const;

  const Gradient& gradient_;
  const Tokens& tokens_;
  const LogitConstants& constants_;
  const Kernels& kernels_;
  const RowSegments segments_;
  bool stream_;
};

}  // namespace fpl
