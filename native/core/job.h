// A job: which of the four stages to run, and on what. The C++ face of lib/job.ts; all pointers are the
// caller's, checked before they got here, and stay valid until the job is done.
#pragma once

#include <atomic>
#include <cstdint>

#include "dtypes.h"
#include "losses.h"
#include "row_state.h"
#include "token_loss.h"

namespace fpl {

// Rows of logits: row (b, t) starts at element b·batchStride + t·timeStride.
struct Rows {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t batch = 0, time = 0, vocab = 0;
  int64_t batchStride = 0, timeStride = 0;
  bool onDevice = false;  // `data` is an address on the GPU

  FPL_HD int64_t count() const { return batch * time; }
  FPL_HD int64_t offset(int64_t row) const { return row / time * batchStride + row % time * timeStride; }
  template <typename T>
  FPL_HD T* at(int64_t row) const {
    return static_cast<T*>(data) + offset(row);
  }
};

// The output layer, whose logits hidden · weightᵀ + bias are never stored. Element (v, d) of the weight [V, D] is at
// v·rowStride + d·columnStride, one of which is 1.
struct Head {
  struct Weight {
    void* data = nullptr;
    DType dtype = DType::kFloat32;
    int64_t rowStride = 0, columnStride = 0;
    bool onDevice = false;
  };
  struct Bias {
    void* data = nullptr;  // [V], or null
    DType dtype = DType::kFloat32;
  };

  Rows hidden;  // rows of D elements: their `vocab` is the width D
  Weight weight;
  Bias bias;

  bool present() const { return weight.data != nullptr; }
  int64_t width() const { return hidden.vocab; }
};

// What each of the R rows predicts, and how rows form S sequences.
struct Tokens {
  const int32_t* targets = nullptr;  // [R], -1 where inactive
  const double* weights = nullptr;   // [R] or null: all 1
  // [R] factors that sft takes instead, which knows nothing of ldAlpha; or null: the same.
  const double* plainWeights = nullptr;
  const int32_t* offsets = nullptr;  // [S + 1]
  const int32_t* counts = nullptr;   // [S] active rows
  int64_t sequences = 0;
  double temperature = 1;
  bool average = false;
  double emptyLogProb = 0;

  FPL_HD double weight(int64_t row) const { return weights ? weights[row] : 1; }
};

// Labels that are on the GPU, where targets and counts are made of them.
struct DeviceLabels {
  const void* data = nullptr;     // [R] int32 or int64
  bool wide = false;              // int64
  const uint8_t* mask = nullptr;  // [R], 0 where inactive; or null: all active
  int64_t ignoreIndex = 0;
  bool shift = false;
};

// Stage 3 of single tokens.
struct TokenLoss {
  TokenLossConstants constants;
  double divisor = 1;         // of the sum
  double* losses = nullptr;   // [R], not divided
  double* summary = nullptr;  // loss
  // [R] its derivatives with respect to the results of single rows, where a gradient follows; scratch, or null.
  double *ofLogProb = nullptr, *ofLogSumExp = nullptr, *ofMeanLogit = nullptr;

  bool wantsMeanLogit() const { return constants.labelSmoothing != 0; }
};

// Stages 1 and 2. Outputs that are null are not wanted.
struct Forward {
  Rows logits;  // with a head, sizes alone
  Head head;
  double* logProbs = nullptr;       // [S]
  TokenState* states = nullptr;     // [R]
  double* entropies = nullptr;      // [R], unrounded, for the entropies' gradient
  double* plainLogProbs = nullptr;  // [S] with tokens.plainWeights; scratch
  double* logWeights = nullptr;     // [S]
  float* tokenLogProbs = nullptr;   // [R] each
  float* tokenEntropies = nullptr;
  int32_t* tokenArgmax = nullptr;
  float* logSumExp = nullptr;
  float* sumSquaredProbs = nullptr;
  float* tokenMeanLogits = nullptr;
  const TokenLoss* tokenLoss = nullptr;  // of which stage 1 takes care, row by row; or null

  // But for the mean logit, which has a kernel of its own.
  FPL_HD bool wantsByProducts() const {
    return logWeights || entropies || tokenEntropies || tokenArgmax || logSumExp || sumSquaredProbs;
  }
};

struct LossTerm {
  LossType type;
  double weight, labelSmoothing;
};

// The losses of the sum. lib lets no more than kMost through.
struct LossTerms {
  static constexpr int32_t kMost = 32;
  LossTerm list[kMost];
  int32_t count = 0;

  FPL_HD const LossTerm* begin() const { return list; }
  FPL_HD const LossTerm* end() const { return list + count; }
};

// Stage 3, over P pairs.
struct PreferenceLoss {
  LossTerms terms;
  LossConstants constants{};
  int64_t pairCount = 0;
  const int32_t* pairs = nullptr;  // [2 P] (chosen, rejected) sequences when stages 1 and 2 are in the job
  double *chosen = nullptr, *rejected = nullptr;
  double *referenceChosen = nullptr, *referenceRejected = nullptr;
  const double *chosenLengths = nullptr, *rejectedLengths = nullptr;  // or null: not needed by any term
  double* pairWeights = nullptr;                                      // or null: all 1
  double *plainChosen = nullptr, *gradPlain = nullptr;  // what sft has for chosen, gradChosen; scratch, or null: these
  double *losses = nullptr, *chosenRewards = nullptr, *rejectedRewards = nullptr;
  double *gradChosen = nullptr, *gradRejected = nullptr;
  double* summary = nullptr;  // loss, accuracy, margin
};

// The derivatives of the loss with respect to the results of single rows: [R] each, or null: 0. They are added to what
// the coefficients of the sequences give; those of inactive rows are not looked at.
struct TokenCoefficients {
  const double* logProb = nullptr;
  const double* logSumExp = nullptr;
  const double* entropy = nullptr;
  const double* meanLogit = nullptr;
};

// Stage 4.
struct Gradient {
  Rows logits, out;
  const TokenState* states = nullptr;  // [R]
  const double* entropies = nullptr;   // [R], where tokenCoefficients has those of the entropy
  TokenCoefficients tokenCoefficients;
  double* coefficients = nullptr;       // [S]
  double* plainCoefficients = nullptr;  // [S] those of tokens.plainWeights, or null
  bool skipInactive = false;            // leave the inactive rows of `out` as they are
};

// Stage 4 of a head. Outs that are null are not wanted.
struct HeadGradient {
  Head head;
  Rows logits;                         // sizes alone
  const TokenState* states = nullptr;  // [R]
  const double* entropies = nullptr;   // [R], where tokenCoefficients has those of the entropy
  TokenCoefficients tokenCoefficients;
  double* coefficients = nullptr;       // [S]
  double* plainCoefficients = nullptr;  // [S] those of tokens.plainWeights, or null
  float* hidden = nullptr;              // [R, D]
  float* weight = nullptr;              // [V, D] without gaps, in the order of the weight
  float* bias = nullptr;                // [V]
  bool onDevice = false;                // where these are
  bool accumulate = false;              // add to what they hold
  bool skipInactive = false;            // leave the inactive rows of `hidden` as they are
};

struct Job {
  bool hasPolicy = false, hasReference = false, hasLoss = false, hasTokenLoss = false;
  bool hasGradient = false, hasHeadGradient = false;
  Tokens tokens;
  Forward policy, reference;
  PreferenceLoss loss;
  TokenLoss tokenLoss;
  Gradient gradient;
  HeadGradient headGradient;

  // For the CUDA backend; -1: the job is the CPU's.
  int32_t device = -1;
  void* stream = nullptr;
  DeviceLabels labels;               // with data: instead of tokens.targets, and tokens.counts are results
  int32_t* invalidLabels = nullptr;  // how many of them were out of range

  // The logits that the job is about; with a head, sizes alone.
  const Rows& rows() const { return hasPolicy ? policy.logits : hasGradient ? gradient.logits : headGradient.logits; }

  int64_t threads = 0;          // 0: as many as the process may use
  int32_t instructionSet = -1;  // index into the instruction sets of the build; -1: the best this CPU has

  // Raised from another thread; honoured until stage 4 begins. A job that may be cancelled does not begin stage 4
  // before it has done with stage 1.
  bool cancellable = false;
  std::atomic<bool> cancelled{false};
};

}  // namespace fpl
