// Stages 1 and 4 on single rows of logits that are in memory.
#pragma once

#include <vector>

#include "rows.h"

namespace fpl {

// A row of tokens, and the row of `logits` that has its logits.
struct LogitsRow {
  int64_t row, place;
};

// Active rows and their logits: those of all rows or, in the order of the active ones, of these alone.
struct LogitsOfRows {
  const Rows& logits;
  const int64_t* active;
  int64_t count;
  bool areAlone = false;

  LogitsRow operator[](int64_t i) const { return {active[i], areAlone ? i : active[i]}; }
};

// Stage 1, and what of stage 3 depends on a single row.
class RowReader {
 public:
  RowReader(const Forward& forward, const Rows& logits, const Tokens& tokens, TokenState* states,
            float* sumSquaredProbs, const LogitConstants& constants, const Kernels& kernels);

  SweptRow sweep(const LogitsRow& at, int64_t segment) const;
  // That of a label among the columns, capped if it has to be.
  float labelLogit(const LogitsRow& at) const;
  // With what all segments of the row have given, merged in order.
  void finish(const LogitsRow& at, const SweptRow& swept) const;
  // All segments of an active row.
  void read(const LogitsRow& at) const;

 private:
  const Rows& rows_;
  const Tokens& tokens_;
  const RowSegments segments_;
  const RowSweep sweep_;
  const RowFinisher finish_;
};

// Stage 1 of these rows, and the first job of a stage 1 in two.
void readRows(const Forward& forward, const LogitsOfRows& rows, const Tokens& tokens, TokenState* states,
              float* sumSquaredProbs, const CpuContext& context);
void sweepRows(const Forward& forward, const LogitsOfRows& rows, const Tokens& tokens, const CpuContext& context);

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
