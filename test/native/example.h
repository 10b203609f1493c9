// A random job made from bytes: any element type, shape, layout, values, loss and set of options that lib lets through.
// Every array is exactly as long as the job may use, so that AddressSanitizer sees a step beyond it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../../native/core/job.h"
#include "../../native/cpu/stages.h"

namespace fpl {

// Choices made by bytes; zeros when there are none left.
class Choices {
 public:
  Choices(const uint8_t* data, size_t size) : next_(data), end_(data + size) {}

  uint8_t byte() { return next_ == end_ ? 0 : *next_++; }
  bool flag() { return byte() & 1; }
  bool done() const { return next_ == end_; }
  uint32_t word() {
    uint32_t out = 0;
    for (int i = 0; i < 4; ++i) out = out << 8 | byte();
    return out;
  }
  int64_t below(int64_t count) { return int64_t(count > 256 ? word() : byte()) % count; }
  // In [low, high].
  double between(double low, double high) { return low + (high - low) * word() / 4294967295.0; }

 private:
  const uint8_t *next_, *end_;
};

// The elements of one tensor, in memory of its own, `first` of them unused in front.
struct Elements {
  DType dtype = DType::kFloat32;
  int64_t first = 0;
  std::unique_ptr<unsigned char[]> memory;
  int64_t bytes = 0;

  void allocate(DType type, int64_t unused, int64_t count);
  void* data() const { return memory.get() + first * elementSize(dtype); }
  float at(int64_t i) const;
  void set(int64_t i, float value);
  void setBits(int64_t i, uint32_t bits);
  // Elements of one of nine kinds, from what a model gives to any bits at all; the last two are any finite number and
  // any bits. Arithmetic that is the same everywhere.
  void fill(int64_t start, int64_t count, int64_t style, uint32_t seed);
};

struct Example {
  Example(const uint8_t* data, size_t size);
  Example(const Example&) = delete;

  Job job;
  Elements logits, reference, out;
  bool inPlace = false;
  std::string text() const;

  std::vector<int32_t> targets, offsets, counts, pairs;
  std::vector<double> weights, plainWeights;
  std::vector<TokenState> states;
  std::vector<double> logProbs, logWeights, referenceLogProbs;
  std::vector<float> tokenLogProbs, tokenEntropies, logSumExp, sumSquaredProbs;
  std::vector<int32_t> tokenArgmax;
  std::vector<double> chosen, rejected, referenceChosen, referenceRejected, chosenTokenCounts, rejectedTokenCounts,
      pairWeights;
  std::vector<double> betas, labelSmoothings, marginOffsets, targetMargins;
  std::vector<double> losses, chosenRewards, rejectedRewards, gradChosen, gradRejected, summary, coefficients;
  // Derivatives of single tokens' results, and what is left to the caller.
  std::vector<double> ofLogProb, ofLogSumExp, ofEntropy, ofMeanLogit, entropies, rowScale;
  std::vector<double> tokenLosses, unpairedLosses, unpairedRewards, unpairedGradient, unpairedReference,
      unpairedTargets, unpairedBetas, unpairedWeights;
  std::vector<float> classWeights;
  std::vector<int32_t> desirable;
  double tokenSummary = 0, unpairedSummary[5] = {};

 private:
  void layRows(Choices& choices, Rows& rows, Elements& elements, int64_t batch, int64_t time, int64_t vocab);
  void fillRow(Choices& choices, const Rows& rows, Elements& elements, int64_t row);
  void chooseTokenLoss(Choices& choices);
  void chooseUnpairedLoss(Choices& choices);
  void chooseGradient(Choices& choices);
};

// Runs the example and holds everything it wrote against the oracle. Empty when all is well, else what is not.
std::string differential(Example& example, ThreadPool& pool);

}  // namespace fpl
