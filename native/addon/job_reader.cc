#include "job_reader.h"

namespace fpl {
namespace {

// What kind of thing an array is; k > 0 is one of k - 1 elements that is in its slot.
constexpr double kAbsent = 0, kAddress = -2;

// The arrays, one after the other; one that is absent is null.
class Arrays {
 public:
  Arrays(const Napi::CallbackInfo& info, size_t first, const double* kinds, char* arena, LentMemory* lent)
      : info_(info), index_(first), kinds_(kinds), arena_(arena), lent_(lent) {}

  template <typename T>
  T* next() {
    const size_t slot = slot_++;
    const double kind = kinds_[slot];
    length_ = 0;
    onDevice_ = kind == kAddress;
    if (kind == kAbsent) return nullptr;
    if (kind > 0) {
      length_ = size_t(kind) - 1;
      return reinterpret_cast<T*>(arena_ + slot * kArenaSlot);
    }
    void* data = nullptr;
    const Napi::Value value = info_[index_++];
    if (onDevice_) {
      bool lossless;
      data = reinterpret_cast<void*>(uintptr_t(value.As<Napi::BigInt>().Uint64Value(&lossless)));
    } else {
      napi_get_typedarray_info(info_.Env(), value, nullptr, &length_, &data, nullptr, nullptr);
    }
    return static_cast<T*>(data);
  }

  // The same for an array that may be one of the caller's; all others are lib's own.
  template <typename T>
  T* nextLent() {
    const size_t before = index_;
    T* const data = next<T>();
    if (lent_ && index_ > before && !onDevice_) lent_->hold(info_.Env(), info_[before]);
    return data;
  }

  // Elements of the array last read.
  int64_t length() const { return int64_t(length_); }

  // Whether it is on the GPU.
  bool onDevice() const { return onDevice_; }

  void next(Rows& rows) {
    rows.data = nextLent<void>();
    rows.onDevice = onDevice_;
  }

  void next(Head& head) {
    next(head.hidden);
    head.weight.data = nextLent<void>();
    head.weight.onDevice = onDevice_;
    head.bias.data = nextLent<void>();
  }

 private:
  const Napi::CallbackInfo& info_;
  size_t index_;
  const double* kinds_;
  char* arena_;
  LentMemory* lent_;
  size_t slot_ = 0;
  size_t length_ = 0;
  bool onDevice_ = false;
};

// The numbers, one after the other.
class Numbers {
 public:
  explicit Numbers(const double* values) : next_(values) {}

  operator double() { return *next_++; }
  int64_t integer() { return int64_t(*next_++); }

 private:
  const double* next_;
};

void readRows(Numbers& numbers, Rows& rows) {
  rows.dtype = DType(numbers.integer());
  rows.batch = numbers.integer();
  rows.time = numbers.integer();
  rows.vocab = numbers.integer();
  rows.batchStride = numbers.integer();
  rows.timeStride = numbers.integer();
}

void readHead(Numbers& numbers, Head& head) {
  readRows(numbers, head.hidden);
  head.weight.dtype = DType(numbers.integer());
  head.weight.rowStride = numbers.integer();
  head.weight.columnStride = numbers.integer();
  head.bias.dtype = DType(numbers.integer());
}

}  // namespace

void readJob(const Napi::CallbackInfo& info, size_t first, char* arena, Job& job, LentMemory* lent) {
  void* values = nullptr;
  napi_get_typedarray_info(info.Env(), info[first], nullptr, nullptr, &values, nullptr, nullptr);
  const double* const kinds = static_cast<const double*>(values);
  Numbers numbers(kinds + kMostArrays);
  Arrays arrays(info, first + 1, kinds, arena, lent);

  job.device = int32_t(numbers.integer());
  job.labels.wide = numbers.integer() != 0;
  job.labels.ignoreIndex = numbers.integer();
  job.labels.shift = numbers.integer() != 0;
  job.threads = numbers.integer();
  job.instructionSet = int32_t(numbers.integer());
  job.cancellable = numbers.integer() != 0;
  job.gradient.skipInactive = job.headGradient.skipInactive = numbers.integer() != 0;
  Tokens& tokens = job.tokens;
  tokens.temperature = numbers;
  tokens.average = numbers.integer() != 0;
  tokens.emptyLogProb = numbers;
  readRows(numbers, job.policy.logits);
  readRows(numbers, job.reference.logits);
  readRows(numbers, job.gradient.out);

  Forward &policy = job.policy, &reference = job.reference;
  PreferenceLoss& loss = job.loss;
  // Arrays the job reads.
  tokens.targets = arrays.next<int32_t>();
  tokens.weights = arrays.next<double>();
  tokens.plainWeights = arrays.next<double>();
  tokens.offsets = arrays.next<int32_t>();
  tokens.counts = arrays.next<int32_t>();
  tokens.sequences = arrays.length();
  arrays.next(policy.logits);
  arrays.next(reference.logits);
  loss.pairs = arrays.next<int32_t>();
  loss.chosenLengths = arrays.next<double>();
  loss.rejectedLengths = arrays.next<double>();
  job.labels.data = arrays.next<void>();
  job.labels.mask = arrays.next<uint8_t>();
  job.stream = arrays.next<void>();
  // Arrays it writes.
  policy.states = arrays.next<TokenState>();
  policy.logProbs = arrays.next<double>();
  policy.logWeights = arrays.next<double>();
  policy.tokenLogProbs = arrays.next<float>();
  policy.tokenEntropies = arrays.next<float>();
  policy.tokenArgmax = arrays.next<int32_t>();
  policy.logSumExp = arrays.next<float>();
  policy.sumSquaredProbs = arrays.next<float>();
  reference.logProbs = arrays.next<double>();
  loss.chosen = arrays.next<double>();
  loss.pairCount = arrays.length();
  loss.rejected = arrays.next<double>();
  loss.referenceChosen = arrays.next<double>();
  loss.referenceRejected = arrays.next<double>();
  loss.pairWeights = arrays.next<double>();
  loss.losses = arrays.next<double>();
  loss.chosenRewards = arrays.next<double>();
  loss.rejectedRewards = arrays.next<double>();
  loss.gradChosen = arrays.next<double>();
  loss.gradRejected = arrays.next<double>();
  loss.summary = arrays.next<double>();
  arrays.next(job.gradient.out);
  job.gradient.coefficients = arrays.next<double>();
  job.invalidLabels = arrays.next<int32_t>();
  // Those of heads.
  HeadGradient& headGradient = job.headGradient;
  bool onDevice = false;
  for (float** out : {&headGradient.hidden, &headGradient.weight, &headGradient.bias}) {
    *out = arrays.nextLent<float>();
    onDevice = onDevice || arrays.onDevice();
  }
  headGradient.onDevice = onDevice;
  arrays.next(policy.head);
  arrays.next(reference.head);
  job.hasPolicy = policy.logProbs != nullptr;
  job.hasReference = reference.logProbs != nullptr;
  job.hasLoss = loss.summary != nullptr;

  if (job.hasLoss) {
    LossConstants& constants = loss.constants;
    constants.beta = numbers;
    constants.gamma = numbers;
    constants.rewardShift = numbers;
    constants.discopopTau = numbers;
    constants.alpha = numbers;
    constants.divergence = Divergence(numbers.integer());
    constants.average = numbers.integer() != 0;
    constants.pairDivisor = numbers;
    constants.tokenDivisor = numbers;
    for (int64_t left = numbers.integer(); left > 0; --left) {
      LossTerm& term = loss.terms.list[loss.terms.count++];
      term.type = LossType(numbers.integer());
      term.weight = numbers;
      term.labelSmoothing = numbers;
    }
  }

  const bool hasHead = policy.head.present();
  if (hasHead) {
    readHead(numbers, policy.head);
    readHead(numbers, reference.head);
    headGradient.accumulate = numbers.integer() != 0;
  }

  // The gradient is that of the policy's logits, from the states its forward has left or leaves.
  Gradient& gradient = job.gradient;
  gradient.logits = headGradient.logits = policy.logits;
  gradient.states = headGradient.states = policy.states;
  headGradient.head = policy.head;
  headGradient.coefficients = gradient.coefficients;
  job.hasHeadGradient = hasHead && gradient.coefficients;
  job.hasGradient = !hasHead && gradient.coefficients;
}

}  // namespace fpl
