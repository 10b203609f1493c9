// Stage 1 in two jobs, for a vocabulary that several processes share: one leaves the states of the segments among its
// columns, the other begins from those of all processes. They travel through arrays of the host's, in the form of
// native/core/segment_state_form.h.
#pragma once

#include <vector>

#include "../core/segment_state_form.h"
#include "stages.h"
#include "swept.h"

namespace fpl {
namespace cuda {

// Whether a job begins from these.
inline bool areGiven(const SegmentStates& segments) { return segments.present() && !segments.areMade(); }

// Room on the device for the states that a sweep leaves of rows, and for the logits of their labels.
struct MadeStates {
  SweepScratch partials;
  float* labelLogits = nullptr;

  // Those of row `first` and on. `classWeights`: what the sweep takes, or null.
  SweepScratch from(int64_t first, const float* classWeights) const;
};

// The states of one forward.
class SharedSegments {
 public:
  // A job that begins from states has them in the arrays of `stage` by now. `loss`: that of single tokens, or null.
  SharedSegments(const Forward& stage, const Tokens& tokens, const TokenLoss* loss);

  void place(Layout& layout);
  // Of a job that makes the states: what the sweep writes. Rows are those of the logits or, with a head, the active
  // ones.
  const MadeStates& made() const { return onDevice_; }
  // What the other finishes rows from.
  const SweepScratch& given() const { return onDevice_.partials; }
  // Writes the states that have been made to the job's arrays.
  void read() const;

 private:
  // Calls visit(row, index) for each active row: its place among the rows of the logits, and here.
  template <typename Visit>
  void eachRow(const Visit& visit) const;
  // Calls visit(place, bytes) for each state of a row: its place here, and in the job's array.
  template <typename Visit>
  void eachState(int64_t row, int64_t index, const Visit& visit) const;
  template <typename T>
  T* place(Layout& layout, std::vector<T>& host) const;

  const SegmentStates& segments_;
  const Tokens& tokens_;
  const SegmentStateForm form_;
  const int64_t vocab_;   // columns of this process
  const bool isCompact_;  // inactive rows have no place here
  // On the host; those that are not wanted are empty.
  std::vector<PartialSums> sums_;
  std::vector<PartialByProducts> byProducts_;
  std::vector<double> logits_, weighted_;
  std::vector<float> logitsOfLabels_;
  // The same on the device.
  MadeStates onDevice_;
};

}  // namespace cuda
}  // namespace fpl
