// A job: which of the four stages to run, and on what data. It is the C++ form of Job in lib/job.ts. All pointers are
// the caller's. lib has checked them, and they stay valid until the job is done.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "dtypes.h"
#include "losses.h"
#include "row_state.h"
#include "token_loss.h"
#include "unpaired_losses.h"

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
  // The same for rows of any type.
  void* begin(int64_t row) const { return static_cast<char*>(data) + offset(row) * elementSize(dtype); }
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

// The logits are columns of those of a larger vocabulary.
struct Shard {
  int64_t start = 0;  // the first of them
  int64_t vocab = 0;  // the size of the vocabulary; 0: they are all columns
};

// What each of the R rows predicts, and how rows form S sequences.
struct Tokens {
  const int32_t* targets = nullptr;  // [R], -1 where inactive
  Shard shard;
  const double* weights = nullptr;  // [R] or null: all 1
  // [R] the weights that sft uses, as it ignores ldAlpha; or null: `weights`.
  const double* plainWeights = nullptr;
  const int32_t* offsets = nullptr;  // [S + 1]
  const int32_t* counts = nullptr;   // [S] active rows
  int64_t sequences = 0;
  double temperature = 1;
  // What counts are the numbers x / temperature of the logits x or, where this is not 0, tanh(x · capScale) /
  // temperature.
  double capScale = 0;
  bool average = false;
  double emptyLogProb = 0;

  FPL_HD double weight(int64_t row) const { return weights ? weights[row] : 1; }
  // The target of an active row among the columns of its logits; below 0 or beyond them where it is elsewhere.
  int64_t column(int64_t row) const { return targets[row] - shard.start; }
  int64_t vocabOf(const Rows& logits) const { return shard.vocab > 0 ? shard.vocab : logits.vocab; }
};

// Labels on the GPU. The job makes targets and counts of them there.
struct DeviceLabels {
  const void* data = nullptr;     // [R] int32 or int64
  bool wide = false;              // int64
  const uint8_t* mask = nullptr;  // [R], 0 where inactive; or null: all active
  int64_t ignoreIndex = 0;
  bool shift = false;
  // [S] the sequence that each stands against, -1 for none; or null. The weights of a sequence's active rows past the
  // number of them that it has, or this one if that has fewer, are multiplied by `ldAlpha`.
  const int32_t* partners = nullptr;
  double ldAlpha = 1;
};

// Stage 3 of single tokens.
struct TokenLoss {
  TokenLossConstants constants;
  // [V] factors of the classes in the smoothed cross-entropy, or null: all 1. Other factors are in Tokens::weights.
  const float* classWeights = nullptr;
  // [V] factors that are to be brought there, by label, where the labels are on the GPU; or null: all 1.
  const double* weightsOfLabels = nullptr;
  double divisor = 1;         // of the sum; 0: the sum of the factors of the labels, which are on the GPU
  double gradientScale = 1;   // factor of its derivatives
  double* losses = nullptr;   // [R], not divided
  double* summary = nullptr;  // loss
  // [R] its derivatives with respect to the results of single rows, where a gradient follows; scratch, or null.
  double *ofLogProb = nullptr, *ofLogSumExp = nullptr, *ofMeanLogit = nullptr;

  // That of the logits times the weights of their classes, where these have any.
  bool wantsMeanLogit() const { return constants.labelSmoothing != 0; }
  const float* classWeightsFrom(int64_t column) const { return classWeights ? classWeights + column : nullptr; }
  FPL_HD double labelWeight(int32_t label) const { return classWeights ? double(classWeights[label]) : 1; }
};

// Logits of a head, which stage 1 leaves to stage 4: those of the first active rows, or of none.
struct KeptLogits {
  float* data = nullptr;
  int64_t rows = 0, stride = 0;
  int64_t room = 0;  // rows behind these, for the logits of others, one chunk after the other

  // Those of an active row, by its place among the active ones; null: they are not kept.
  float* of(int64_t active) const { return active < rows ? data + active * stride : nullptr; }
  float* chunk() const { return data + rows * stride; }
};

// What stage 1 knows of each row, segment by segment of its vocabulary. A job with `bounds` fills the states from the
// columns that it has, and does nothing else; one without them begins from the states of whole rows.
struct SegmentStates {
  const int32_t* bounds = nullptr;  // [boundCount] the columns at which segments begin, and the end of the last
  int64_t boundCount = 0;
  int64_t count = 0;             // states of a row; 1 where those of all segments are merged
  int32_t* states = nullptr;     // [R, count], each of the words that SegmentStore gives it
  float* labelLogits = nullptr;  // [R] capped; a job fills those of labels among its columns
  float* keptLogits = nullptr;   // memory for a head's logits, which a job leaves to the one that has the gradient
  int64_t keptWords = 0;

  bool present() const { return states != nullptr; }
  bool areMade() const { return bounds != nullptr; }
};

// Stages 1 and 2. Outputs that are null are not wanted.
struct Forward {
  Rows logits;  // with a head: the sizes alone
  Head head;
  SegmentStates segments;           // those of a vocabulary that several processes share
  double* logProbs = nullptr;       // [S]
  TokenState* states = nullptr;     // [R]
  bool swept = false;               // stage 1 was another job's, which has left the states and what they go with
  double* entropies = nullptr;      // [R], not rounded, for the entropies' gradient
  double* plainLogProbs = nullptr;  // [S] logProbs with tokens.plainWeights; scratch
  double* logWeights = nullptr;     // [S]
  float* tokenLogProbs = nullptr;   // [R] each
  float* tokenEntropies = nullptr;
  int32_t* tokenArgmax = nullptr;
  float* logSumExp = nullptr;
  float* sumSquaredProbs = nullptr;
  float* tokenMeanLogits = nullptr;
  const TokenLoss* tokenLoss = nullptr;  // of which stage 1 takes care, row by row; or null
  KeptLogits kept;                       // of a head; scratch

  // But for the mean logit, which has a kernel of its own.
  bool wantsEntropy() const { return entropies || tokenEntropies; }
  bool wantsSquares() const { return logWeights || sumSquaredProbs; }
  bool wantsSumOfLogits(const TokenLoss* loss) const {
    return tokenMeanLogits || (loss && loss->wantsMeanLogit() && !loss->classWeights);
  }
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

// [P] each: constants of single pairs, in the place of those of all pairs; or null. That of the label smoothing is in
// the place of every term's.
struct PairConstants {
  const double* beta = nullptr;
  const double* labelSmoothing = nullptr;
  const double* offset = nullptr;
  const double* targetMargin = nullptr;
};

// Log-probs that the caller has on the GPU.
struct GivenLogProbs {
  const void* data = nullptr;  // float32 or float64; null: they are not there
  bool wide = false;           // float64

  FPL_HD double operator[](int64_t i) const {
    return wide ? static_cast<const double*>(data)[i] : double(static_cast<const float*>(data)[i]);
  }
};

// They go into the arrays of stage 3 that have their names: of pairs [P]; of sequences [S], those of the reference to
// pairs, too.
struct GivenOnDevice {
  GivenLogProbs chosen, rejected, referenceChosen, referenceRejected, logProbs, referenceLogProbs;

  bool hasReference() const { return referenceChosen.data || referenceLogProbs.data; }
};

// Stage 3, over P pairs.
struct PreferenceLoss {
  LossTerms terms;
  LossConstants constants{};
  PairConstants pairConstants;
  int64_t pairCount = 0;
  const int32_t* pairs = nullptr;  // [2 P] (chosen, rejected) sequences when stages 1 and 2 are in the job
  double *chosen = nullptr, *rejected = nullptr;
  double *referenceChosen = nullptr, *referenceRejected = nullptr;
  const double *chosenTokenCounts = nullptr, *rejectedTokenCounts = nullptr;  // or null: not needed by any term
  const double* pairWeights = nullptr;                                        // or null: all 1
  double* wpoWeights = nullptr;  // other factors, which come from the policy's logWeights; scratch, or null: all 1
  // sft's chosen and gradChosen, where tokens have plain weights; scratch. Or null: sft has the others'.
  double *plainChosen = nullptr, *gradPlain = nullptr;
  double *losses = nullptr, *chosenRewards = nullptr, *rejectedRewards = nullptr;
  double *gradChosen = nullptr, *gradRejected = nullptr;
  double* summary = nullptr;  // loss, accuracy, margin
};

// Stage 3, over S single sequences.
struct UnpairedPreferenceLoss {
  UnpairedLossType type{};
  UnpairedLossConstants constants{};
  int64_t count = 0;
  const int32_t* desirable = nullptr;  // [S] 1 or 0
  // [S] each, or null: weights beside those of the two kinds, β in the place of the constant, targets of regression
  const double *weights = nullptr, *betas = nullptr, *targets = nullptr;
  // [S] those of the forwards, where these are in the job
  const double *logProbs = nullptr, *referenceLogProbs = nullptr;
  double *losses = nullptr, *rewards = nullptr, *gradient = nullptr;  // [S]
  // loss; mean reward of the desirable and of the undesirable sequences, and their mean log-probs; NaN of none
  double* summary = nullptr;
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
  double* plainCoefficients = nullptr;  // [S] the coefficients that go with tokens.plainWeights, or null
  bool skipInactive = false;            // leave the inactive rows of `out` as they are
  const float* classWeights = nullptr;  // [V] factors of the slope of the mean logit, or null: all 1
  // [R] d loss / d logProb of each active row, which `out` then leaves to the caller; or null. `out` is d logProb / d
  // logits, but for zeros where the row is known to take no part.
  double* rowScale = nullptr;
};

// Stage 4 of a head. Outputs that are null are not wanted. Sums are float32, whatever the outputs are.
struct HeadGradient {
  Head head;
  Rows logits;                         // the sizes alone
  const TokenState* states = nullptr;  // [R]
  const double* entropies = nullptr;   // [R], where tokenCoefficients has those of the entropy
  TokenCoefficients tokenCoefficients;
  double* coefficients = nullptr;       // [S]
  double* plainCoefficients = nullptr;  // [S] the coefficients that go with tokens.plainWeights, or null
  const float* classWeights = nullptr;  // [V] factors of the slope of the mean logit, or null: all 1
  DType dtype = DType::kFloat32;        // of the outputs
  // What the gradient with respect to each logit but the label's is rounded to, before it is multiplied by weights and
  // hidden states: float32, or bfloat16 where these are. The label's is float32, and its products are added apart.
  DType precision = DType::kFloat32;
  void* hidden = nullptr;     // [R, D]
  void* weight = nullptr;     // [V, D] without gaps, in the order of the weight's elements
  void* bias = nullptr;       // [V]
  bool onDevice = false;      // these three are on the GPU
  bool accumulate = false;    // add to the values they hold
  bool skipInactive = false;  // leave the inactive rows of `hidden` as they are
  int64_t logitsBudget = 0;   // bytes of logits that stage 1 may keep for this one
  KeptLogits kept;            // those that it has kept; scratch
  // `hidden` is a share of sums over several processes: float32, and not added to anything.
  bool sharesHidden = false;

  DType hiddenDtype() const { return sharesHidden ? DType::kFloat32 : dtype; }
  bool addsToHidden() const { return accumulate && !sharesHidden; }
};

// The ranks that share the vocabulary, where a job exchanges states and sums with them by itself: the CUDA backend's,
// over NCCL.
struct Exchange {
  void* communicator = nullptr;      // the library's own Communicator, or null: the job exchanges nothing
  const int32_t* columns = nullptr;  // [2 ranks] the first of the columns that each rank has, and their end
  int64_t columnCount = 0;           // 2 ranks
  bool merges = false;               // each rank sends one state of a row

  bool present() const { return communicator != nullptr; }
  int64_t ranks() const { return columnCount / 2; }
};

// Values of Job::products; above 0 it is the addon's number of a library of BLAS.
constexpr int32_t kOurProducts = 0, kProductsOfAmx = -1, kProductsOfTf32 = -2;

struct Job {
  bool hasPolicy = false, hasReference = false, hasGradient = false, hasHeadGradient = false;
  bool hasLoss = false, hasUnpairedLoss = false, hasTokenLoss = false;  // one of the three at most
  Tokens tokens;
  Forward policy, reference;
  PreferenceLoss loss;
  UnpairedPreferenceLoss unpairedLoss;
  TokenLoss tokenLoss;
  GivenOnDevice given;  // the CUDA backend's
  Gradient gradient;
  HeadGradient headGradient;
  Exchange exchange;

  // The CUDA backend's; a device of -1 means that the job is the CPU's.
  int32_t device = -1;
  void* stream = nullptr;
  DeviceLabels labels;               // with data: they replace tokens.targets, and tokens.counts is an output
  int32_t* invalidLabels = nullptr;  // how many labels were out of range

  // The logits that the job is about; with a head, the sizes alone.
  const Rows& rows() const { return hasPolicy ? policy.logits : hasGradient ? gradient.logits : headGradient.logits; }

  int64_t threads = 1;
  int32_t instructionSet = -1;      // index into the instruction sets of the build; -1: the best this CPU has
  int32_t products = kOurProducts;  // which an output layer takes: ours, AMX's, TF32's, or those of a library

  // `cancelled` is set by another thread and has an effect until stage 4 begins. A job that may be cancelled finishes
  // stage 1 before it begins stage 4.
  bool cancellable = false;
  std::atomic<bool> cancelled{false};

  // Of the CPU's: called on the job's thread each time that more rows of headGradient.hidden are finished, with the row
  // before which all of them are; or empty.
  std::function<void(int64_t row)> onHiddenRows;
};

}  // namespace fpl
