#include "example.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace fpl {
namespace {

// Logits of one call: the oracle takes about 0.1 µs for each.
constexpr int64_t kMostLogits = 20'000;

uint32_t mixed(uint32_t x) {
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  return x ^ x >> 16;
}

// Uniform in [0, 1), the i-th of a seed.
double uniform(uint32_t seed, int64_t i) { return mixed(seed + uint32_t(i) * 0x9e3779b9u) / 4294967296.0; }

double gaussian(uint32_t seed, int64_t i) {
  double sum = 0;
  for (uint32_t k = 0; k < 4; ++k) sum += uniform(seed + 77 * k, i);
  return (sum - 2) * std::sqrt(3.0);
}

}  // namespace

void Elements::allocate(DType type, int64_t unused, int64_t count) {
  dtype = type;
  first = unused;
  bytes = (first + count) * elementSize(dtype);
  memory = std::make_unique<unsigned char[]>(bytes);
  for (int64_t i = 0; i < count; ++i) setBits(i, 0xffffffff);  // NaN: what is not to be read
}

float Elements::at(int64_t i) const {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<float*>(data())[i];
    case DType::kFloat16:
      return toFloat(static_cast<Float16*>(data())[i]);
    case DType::kBFloat16:
      break;
  }
  return toFloat(static_cast<BFloat16*>(data())[i]);
}

void Elements::set(int64_t i, float value) {
  switch (dtype) {
    case DType::kFloat32:
      return fromFloat(value, static_cast<float*>(data())[i]);
    case DType::kFloat16:
      return fromFloat(value, static_cast<Float16*>(data())[i]);
    case DType::kBFloat16:
      return fromFloat(value, static_cast<BFloat16*>(data())[i]);
  }
}

void Elements::setBits(int64_t i, uint32_t bits) {
  memcpy(static_cast<char*>(data()) + i * elementSize(dtype), &bits, elementSize(dtype));
}

void Elements::fill(int64_t start, int64_t count, int64_t style, uint32_t seed) {
  const double offset = (uniform(seed, -1) - 0.5) * 5000;
  const int64_t top = int64_t(uniform(seed, -2) * count);
  for (int64_t i = 0; i < count; ++i) {
    const double u = uniform(seed, i), g = gaussian(seed, i);
    switch (style) {
      case 0:
        set(start + i, float(3 * g));
        break;
      case 1:
        set(start + i, float((u - 0.5) * 400));
        break;
      case 2:
        set(start + i, float(1 + u / 64));
        break;
      case 3:
        set(start + i, float(i == top ? 8 + 25 * uniform(seed, -3) : g));
        break;
      case 4:
        set(start + i, float(u < 0.4 ? -INFINITY : 4 * g));
        break;
      case 5:
        set(start + i, float(double(i) / count * 300 + g));
        break;
      case 6:
        set(start + i, float(3 * g + offset));
        break;
      case 7: {  // any finite number
        uint32_t bits = mixed(seed + uint32_t(i));
        if (dtype == DType::kFloat32 && (bits & 0x7f800000u) == 0x7f800000u) bits ^= 0x40000000u;
        if (dtype == DType::kFloat16 && (bits & 0x7c00u) == 0x7c00u) bits ^= 0x4000u;
        if (dtype == DType::kBFloat16 && (bits & 0x7f80u) == 0x7f80u) bits ^= 0x4000u;
        setBits(start + i, bits);
        break;
      }
      default:  // any bits at all
        setBits(start + i, mixed(seed + uint32_t(i)));
    }
  }
}

void Example::layRows(Choices& choices, Rows& rows, Elements& elements, int64_t batch, int64_t time, int64_t vocab) {
  rows.batch = batch;
  rows.time = time;
  rows.vocab = vocab;
  rows.timeStride = vocab + choices.below(6);
  rows.batchStride = time * rows.timeStride + choices.below(10);
  const int64_t end = (batch - 1) * rows.batchStride + (time - 1) * rows.timeStride + vocab;
  elements.allocate(rows.dtype, choices.below(4), end);
  rows.data = elements.data();
}

void Example::fillRow(Choices& choices, const Rows& rows, Elements& elements, int64_t row) {
  const int64_t start = rows.offset(row), vocab = rows.vocab;
  const int64_t style = choices.below(9);
  elements.fill(start, vocab, style, choices.word());
  // A few elements of the fuzzer's own.
  for (int64_t left = choices.below(4); left > 0; --left) {
    const int64_t at = choices.below(vocab);
    elements.setBits(start + at, choices.word());
  }
}

Example::Example(const uint8_t* data, size_t size) {
  Choices choices(data, size);
  const DType dtype = DType(choices.below(3));
  job.instructionSet = int32_t(choices.below(instructionSets().count));
  job.threads = 1 + choices.below(3);
  job.cancellable = choices.flag();
  int64_t vocab = 1 + choices.below(200);
  if (choices.flag()) {
    const int64_t units[] = {16, 64, 2048, 16384};
    const int64_t unit = units[choices.below(4)];
    vocab = std::min<int64_t>(unit * (1 + choices.below(3)) + choices.below(3) - 1, kMostLogits);
  }
  // Now and then more than a call needs to be shared among threads.
  const bool large = choices.byte() == 255;
  const int64_t most = large ? 5 * kMostLogits : kMostLogits;
  const bool packed = choices.flag();
  const int64_t rowLimit = std::max<int64_t>(1, most / vocab);
  int64_t batch = std::min<int64_t>(1 + choices.below(6), rowLimit);
  int64_t time = std::min<int64_t>(1 + choices.below(large ? 200 : 8), std::max<int64_t>(1, rowLimit / batch));

  Tokens& tokens = job.tokens;
  offsets.push_back(0);
  if (packed) {
    time *= batch;
    batch = 1;
    while (offsets.back() < time) offsets.push_back(int32_t(std::min(time, offsets.back() + 1 + choices.below(8))));
  } else {
    for (int64_t b = 0; b < batch; ++b) offsets.push_back(int32_t((b + 1) * time));
  }
  const int64_t rowCount = batch * time, sequences = int64_t(offsets.size()) - 1;
  targets.assign(rowCount, -1);
  counts.assign(sequences, 0);
  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t row = offsets[s]; row < offsets[s + 1]; ++row) {
      if (choices.byte() % 4 == 3) continue;
      targets[row] = int32_t(choices.below(vocab));
      ++counts[s];
    }
  }
  if (choices.flag()) {
    for (int64_t row = 0; row < rowCount; ++row) weights.push_back(choices.between(-0.5, 1.5));
  }
  const double temperatures[] = {1, 1, 0.7, 1e-3, 1e3, 2, choices.between(0.1, 10)};
  tokens.temperature = temperatures[choices.below(7)];
  tokens.average = choices.flag();
  tokens.emptyLogProb = choices.flag() ? NAN : 0;
  tokens.sequences = sequences;
  tokens.targets = targets.data();
  tokens.weights = weights.empty() ? nullptr : weights.data();
  tokens.offsets = offsets.data();
  tokens.counts = counts.data();

  job.hasPolicy = true;
  Forward& policy = job.policy;
  policy.logits.dtype = dtype;
  layRows(choices, policy.logits, logits, batch, time, vocab);
  for (int64_t row = 0; row < rowCount; ++row) {
    if (targets[row] >= 0) fillRow(choices, policy.logits, logits, row);
  }
  logProbs.resize(sequences);
  policy.logProbs = logProbs.data();
  tokenLogProbs.resize(rowCount);
  policy.tokenLogProbs = tokenLogProbs.data();
  if (choices.flag()) {
    tokenEntropies.resize(rowCount);
    tokenArgmax.resize(rowCount, -1);
    logSumExp.resize(rowCount);
    sumSquaredProbs.resize(rowCount);
    policy.tokenEntropies = tokenEntropies.data();
    policy.tokenArgmax = tokenArgmax.data();
    policy.logSumExp = logSumExp.data();
    policy.sumSquaredProbs = sumSquaredProbs.data();
  }

  // Stage 3, where there are two sequences to hold against each other.
  job.hasLoss = sequences > 1 && choices.byte() % 4 != 0;
  if (job.hasLoss) {
    PreferenceLoss& loss = job.loss;
    const int64_t size = 1 + choices.below(4);
    for (int64_t i = 0; i < size; ++i) {
      const int64_t one = choices.below(sequences);
      pairs.push_back(int32_t(one));
      pairs.push_back(int32_t((one + 1 + choices.below(sequences - 1)) % sequences));
      chosenTokenCounts.push_back(counts[pairs[2 * i]]);
      rejectedTokenCounts.push_back(counts[pairs[2 * i + 1]]);
    }
    for (auto* list : {&chosen, &rejected, &referenceChosen, &referenceRejected, &losses, &chosenRewards,
                       &rejectedRewards, &gradChosen, &gradRejected}) {
      list->resize(size);
    }
    summary.resize(3);
    if (choices.flag()) {
      job.hasReference = true;
      job.reference.logits.dtype = DType(choices.below(3));
      layRows(choices, job.reference.logits, reference, batch, time, vocab);
      for (int64_t row = 0; row < rowCount; ++row) {
        if (targets[row] >= 0) fillRow(choices, job.reference.logits, reference, row);
      }
      referenceLogProbs.resize(sequences);
      job.reference.logProbs = referenceLogProbs.data();
    } else {
      for (int64_t i = 0; i < size; ++i) {
        referenceChosen[i] = choices.between(-60, 0);
        referenceRejected[i] = choices.between(-60, 0);
      }
    }
    if (choices.byte() % 4 == 0) {
      logWeights.resize(sequences);
      policy.logWeights = logWeights.data();
    }
    bool divergence = true;
    const double smoothing = choices.between(0.001, 0.499);
    for (int64_t left = 1 + choices.below(3); left > 0; --left) {
      LossTerm term;
      term.type = LossType(choices.below(kLossCount));
      term.weight = choices.between(0.1, 2);
      term.labelSmoothing = term.type != LossType::exo_pair && choices.flag() ? 0 : smoothing;
      loss.terms.list[loss.terms.count++] = term;
      divergence = divergence &&
                   (term.type == LossType::sigmoid || term.type == LossType::robust || term.type == LossType::hinge ||
                    term.type == LossType::ipo || term.type == LossType::exo_pair || term.type == LossType::discopop ||
                    term.type == LossType::sigmoid_norm || term.type == LossType::ipo_norm);
    }
    LossConstants& k = loss.constants;
    k.beta = choices.between(0.01, 2);
    k.gamma = choices.between(-2, 2);
    k.rewardShift = choices.between(-2, 2);
    k.discopopTau = choices.between(0.05, 2);
    k.alpha = choices.between(-2, 3);
    k.divergence = divergence ? Divergence(choices.below(4)) : Divergence::kReverseKl;
    k.average = tokens.average;
    loss.pairCount = size;
    loss.pairs = pairs.data();
    loss.chosen = chosen.data();
    loss.rejected = rejected.data();
    loss.referenceChosen = referenceChosen.data();
    loss.referenceRejected = referenceRejected.data();
    loss.chosenTokenCounts = chosenTokenCounts.data();
    loss.rejectedTokenCounts = rejectedTokenCounts.data();
    loss.losses = losses.data();
    loss.chosenRewards = chosenRewards.data();
    loss.rejectedRewards = rejectedRewards.data();
    loss.gradChosen = gradChosen.data();
    loss.gradRejected = gradRejected.data();
    loss.summary = summary.data();
  }

  job.hasGradient = choices.byte() % 4 != 0;
  if (job.hasGradient) {
    states.resize(rowCount);
    policy.states = states.data();
    coefficients.resize(sequences);
    for (double& c : coefficients) {
      if (choices.flag()) c = choices.between(-1, 1);
      c *= std::pow(10, choices.between(-3, 3));
    }
    Gradient& gradient = job.gradient;
    gradient.logits = gradient.out = policy.logits;
    gradient.states = policy.states;
    gradient.coefficients = coefficients.data();
    gradient.skipInactive = choices.flag();
    inPlace = choices.flag();
    if (!inPlace) {
      gradient.out.timeStride = vocab;
      gradient.out.batchStride = time * vocab;
      out.allocate(dtype, choices.below(4), rowCount * vocab);
      gradient.out.data = out.data();
    }
  }

  // Choices are added at the end, so that those before keep their bytes.
  if (choices.flag()) {
    weights.resize(rowCount, 1);
    for (double& weight : weights) {
      if (choices.byte() % 4 == 0) weight = 0;
    }
    tokens.weights = weights.data();
  }
  if (job.hasLoss && choices.flag()) {
    for (int64_t row = 0; row < rowCount; ++row) {
      plainWeights.push_back(choices.byte() % 4 == 0 ? 0 : choices.between(-0.5, 1.5));
    }
    tokens.plainWeights = plainWeights.data();
    states.resize(rowCount);
    policy.states = states.data();
  }
  if (job.hasLoss && choices.flag()) {
    job.loss.constants.pairDivisor = choices.between(0.5, 40);
    job.loss.constants.tokenDivisor = choices.between(0.5, 400);
  }
  if (job.hasLoss) {
    LossConstants& k = job.loss.constants;
    k.offset = choices.flag() ? choices.between(-2, 2) : 0;
    k.targetMargin = choices.between(-4, 4);
    k.dpopLambda = choices.between(0, 8);
    k.sftNormalization = SftNormalization(choices.below(3));
    // Of log-ratios it is not defined, and what a reference is goes for all losses of the sum.
    bool withoutReference = k.divergence == Divergence::kReverseKl;
    for (const LossTerm& term : job.loss.terms) {
      withoutReference = withoutReference && (term.type == LossType::simpo || term.type == LossType::cpo);
    }
    if (withoutReference && choices.flag()) k.rewardAlpha = choices.between(-1, 1);
    const auto forEach = [&](std::vector<double>& values, double low, double high) {
      if (choices.byte() % 4 != 0) return static_cast<const double*>(nullptr);
      for (int64_t i = 0; i < job.loss.pairCount; ++i) values.push_back(choices.between(low, high));
      return static_cast<const double*>(values.data());
    };
    job.loss.pairWeights = forEach(pairWeights, 0, 2);
    job.loss.pairConstants.beta = forEach(betas, 0.01, 2);
    job.loss.pairConstants.labelSmoothing = forEach(labelSmoothings, 0.001, 0.499);
    job.loss.pairConstants.offset = forEach(marginOffsets, -2, 2);
    job.loss.pairConstants.targetMargin = forEach(targetMargins, -4, 4);
  }
  if (choices.byte() % 4 == 1) {
    tokens.capScale = choices.between(0.01, 2);
    tokens.temperature = choices.between(0.02, 4);
  }
  if (job.hasLoss && choices.flag()) job.loss.constants.gradientScale = choices.between(-8, 8);
  const uint8_t kind = job.hasLoss ? 0 : choices.byte() % 4;
  if (kind == 1) chooseTokenLoss(choices);
  if (kind == 2) chooseUnpairedLoss(choices);
  if (job.hasGradient) chooseGradient(choices);
}

void Example::chooseTokenLoss(Choices& choices) {
  TokenLoss& loss = job.tokenLoss;
  job.hasTokenLoss = true;
  loss.constants.labelSmoothing = choices.flag() ? choices.between(0, 1) : 0;
  loss.constants.zLoss = choices.flag() ? choices.between(0, 0.1) : 0;
  loss.constants.dft = choices.flag();
  loss.divisor = choices.between(0.5, 100);
  loss.gradientScale = choices.flag() ? choices.between(-8, 8) : 1;
  tokenLosses.resize(targets.size());
  loss.losses = tokenLosses.data();
  loss.summary = &tokenSummary;
  for (double& c : coefficients) c = 0;
  if (loss.constants.labelSmoothing == 0 || choices.flag()) return;
  double sum = 0;
  for (int64_t v = 0; v < job.policy.logits.vocab; ++v) {
    classWeights.push_back(choices.done() ? float(v % 4) / 2 : float(choices.byte() % 8) / 4);
    sum += classWeights.back();
  }
  loss.classWeights = classWeights.data();
  loss.constants.meanClassWeight = sum / double(classWeights.size());
}

void Example::chooseUnpairedLoss(Choices& choices) {
  UnpairedPreferenceLoss& loss = job.unpairedLoss;
  const int64_t sequences = job.tokens.sequences;
  job.hasUnpairedLoss = true;
  loss.type = UnpairedLossType(choices.below(kUnpairedLossCount));
  UnpairedLossConstants& k = loss.constants;
  k.beta = choices.between(0.01, 2);
  k.desirableWeight = choices.flag() ? choices.between(0, 2) : 1;
  k.undesirableWeight = choices.flag() ? choices.between(0, 2) : 0;
  k.kl = choices.between(0, 2);
  k.rewardShift = choices.between(-2, 2);
  k.divisor = choices.between(0.5, 40);
  if (choices.flag()) k.gradientScale = choices.between(-8, 8);
  for (int64_t s = 0; s < sequences; ++s) {
    desirable.push_back(choices.flag());
    unpairedReference.push_back(choices.between(-60, 0));
    unpairedTargets.push_back(choices.between(-4, 4));
    unpairedBetas.push_back(choices.between(0.01, 2));
    unpairedWeights.push_back(choices.between(0, 2));
  }
  if (loss.type == UnpairedLossType::regression) loss.targets = unpairedTargets.data();
  if (choices.byte() % 4 == 1) loss.betas = unpairedBetas.data();
  if (choices.byte() % 4 == 1) loss.weights = unpairedWeights.data();
  for (auto* list : {&unpairedLosses, &unpairedRewards, &unpairedGradient}) list->resize(sequences);
  loss.count = sequences;
  loss.desirable = desirable.data();
  loss.logProbs = logProbs.data();
  loss.referenceLogProbs = unpairedReference.data();
  loss.losses = unpairedLosses.data();
  loss.rewards = unpairedRewards.data();
  loss.gradient = unpairedGradient.data();
  loss.summary = unpairedSummary;
}

// What the gradient is of besides the log-probs of sequences, and how it is written.
void Example::chooseGradient(Choices& choices) {
  Gradient& gradient = job.gradient;
  const int64_t rowCount = int64_t(targets.size());
  if (!job.hasTokenLoss && choices.flag()) {
    const auto derivatives = [&](std::vector<double>& list) -> const double* {
      if (choices.flag()) return nullptr;
      for (int64_t row = 0; row < rowCount; ++row) {
        list.push_back(choices.byte() % 4 == 0 ? 0 : choices.between(-2, 2));
      }
      return list.data();
    };
    gradient.tokenCoefficients = {derivatives(ofLogProb), derivatives(ofLogSumExp), derivatives(ofEntropy),
                                  derivatives(ofMeanLogit)};
    if (gradient.tokenCoefficients.entropy) {
      entropies.resize(rowCount);
      job.policy.entropies = entropies.data();
      gradient.entropies = entropies.data();
    }
  }
  if (choices.flag()) {
    const DType dtype = DType(choices.below(3));
    if (!inPlace) {
      out.allocate(dtype, choices.below(4), rowCount * gradient.out.vocab);
      gradient.out.data = out.data();
      gradient.out.dtype = dtype;
    } else if (elementSize(dtype) == elementSize(gradient.logits.dtype)) {
      gradient.out.dtype = dtype;
    }
  }
  const TokenCoefficients& own = gradient.tokenCoefficients;
  const TokenLossConstants& k = job.tokenLoss.constants;
  const bool besideLoss = own.logProb && (job.hasLoss || job.hasUnpairedLoss);
  const bool otherForm = own.logSumExp || own.entropy || own.meanLogit || k.labelSmoothing != 0 || k.zLoss != 0;
  if (!otherForm && !besideLoss && choices.byte() % 4 == 1) {
    rowScale.resize(rowCount);
    gradient.rowScale = rowScale.data();
  }
}

std::string Example::text() const {
  std::ostringstream out;
  const Rows& rows = job.policy.logits;
  out << "dtype " << int(rows.dtype) << ", batch " << rows.batch << ", time " << rows.time << ", vocab " << rows.vocab
      << ", instruction set " << instructionSets().sets[job.instructionSet]->name << ", threads " << job.threads
      << ", temperature " << job.tokens.temperature << ", sequences " << job.tokens.sequences;
  for (const LossTerm& term : job.loss.terms) out << ", " << kLossNames[int(term.type)];
  if (job.hasGradient) {
    const TokenCoefficients& own = job.gradient.tokenCoefficients;
    out << (inPlace ? ", in place" : ", gradient") << " of dtype " << int(job.gradient.out.dtype);
    out << (job.gradient.rowScale ? ", deferred" : "") << (own.logProb ? ", logProb" : "");
    out << (own.logSumExp ? ", logSumExp" : "") << (own.entropy ? ", entropy" : "");
    out << (own.meanLogit ? ", meanLogit" : "");
  }
  if (job.tokens.capScale != 0) out << ", capScale " << job.tokens.capScale;
  if (job.hasTokenLoss) out << ", cross-entropy" << (job.tokenLoss.classWeights ? " of weighted classes" : "");
  if (job.hasUnpairedLoss) out << ", " << kUnpairedLossNames[int(job.unpairedLoss.type)];
  return out.str();
}

}  // namespace fpl
