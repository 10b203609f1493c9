// Stage 1 of a vocabulary that several processes share, in one job: the states of the segments among this process'
// columns are gathered on the GPU, and rows are finished from those of all processes, in the order of columns. They
// travel in the form of native/core/segment_state_form.h.
#pragma once

#include <vector>

#include "../core/segment_state_form.h"
#include "communicator.h"
#include "segment_states.h"

namespace fpl {
namespace cuda {

class StateExchange {
 public:
  // `job` is the host's, and has its targets there. Rows of `compact` states are the active ones alone.
  StateExchange(const Job& job, bool compact);

  // What the kernels have to know of the rows and the ranks, and room for the states.
  void placeInputs(Layout& layout);
  void placeScratch(Layout& layout);

  // What the sweep of the policy's rows, or of the reference's, writes.
  const MadeStates& made(bool reference) const { return stages_[reference ? 1 : 0].made; }
  // What rows are finished from.
  const SweepScratch& given(bool reference) const { return stages_[reference ? 1 : 0].given; }
  // Gathers the states of all processes.
  void gather(Communicator& communicator, Stream stream, const std::atomic<bool>& cancelled) const;

 private:
  // A forward's states: those of this process, and those of all.
  struct Stage {
    SegmentStateForm form;
    bool wantsByProducts;
    int64_t offset = 0;  // of its part of a message
    MadeStates made{};
    SweepScratch given{};
    float* labelLogits = nullptr;
  };

  int64_t bytesOf(const Stage& stage) const { return 4 * (rows() * most_ * stage.form.words() + mostLabels_); }
  int64_t rows() const { return int64_t(active_.size()); }

  const int64_t count_;  // rows of the logits
  const bool isCompact_;
  int64_t rank_ = 0, ranks_ = 0, start_ = 0;
  int64_t own_ = 0;               // states that this process has of a row
  int64_t most_ = 0, total_ = 0;  // the most that one has, and those of all
  int64_t mostLabels_ = 0;        // in the columns of one process
  int64_t messageBytes_ = 0;
  std::vector<Stage> stages_;  // the policy's, and the reference's where its logits are in the job
  // On the host, and on the device.
  std::vector<int32_t> active_;    // the active rows
  std::vector<int32_t> segments_;  // [total, 2] of each segment, in the order of columns: its rank, and its place there
  std::vector<int32_t> labels_;    // [active rows, 2] of each label: its rank, and its place there
  std::vector<int32_t> ownLabels_;  // places among the states of the rows whose labels are this process'
  const int32_t *activeOnDevice_ = nullptr, *segmentsOnDevice_ = nullptr, *labelsOnDevice_ = nullptr,
                *ownLabelsOnDevice_ = nullptr;
  char* messages_ = nullptr;  // of all ranks, one after the other
};

}  // namespace cuda
}  // namespace fpl
