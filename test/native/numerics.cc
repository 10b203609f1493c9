// The numbers behind docs/numerics.md.
//
//   numerics sets     the instruction sets of this CPU
//   numerics bits     one line for each element type and kind of logits, and one for losses: a hash of every bit the
//                     stages give
//   numerics ulps     the largest errors against the oracle, for each element type and result
//   numerics gradients  those of gradients through results of rows, for each soft-cap
//   numerics rounding   those of an output layer's gradients, without and with one rounding
//
// Of the best instruction set, or of that named last. The inputs are the same everywhere.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "../../native/cpu/stages.h"
#include "example.h"
#include "head_call.h"
#include "oracle.h"

namespace {

using namespace fpl;
using oracle::Real;

constexpr int64_t kVocabularies[] = {1, 7, 64, 65, 2049, 16385, 40000};
constexpr int64_t kHeads[][3] = {{1, 1, 1}, {3, 5, 7}, {97, 17, 203}, {9, 300, 65}, {5, 8, 1300}};
const char* const kStyles[] = {"model", "wide", "flat", "certain", "holes", "rising", "far", "any finite"};
const char* const kDTypes[] = {"float32", "float16", "bfloat16"};

uint64_t hash = 0;
void add(const void* data, size_t bytes) {
  const unsigned char* at = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ at[i]) * 0x100000001b3u;
}

// One sequence of three rows, with everything asked for.
struct Call {
  Call(DType dtype, int32_t style, int64_t vocab, double temperature, int32_t set) {
    job.instructionSet = set;
    job.threads = 1;
    job.hasPolicy = job.hasGradient = true;
    job.tokens.temperature = temperature;
    job.tokens.sequences = 1;
    job.tokens.targets = targets;
    job.tokens.offsets = offsets;
    job.tokens.counts = counts;
    logits.allocate(dtype, 0, 3 * vocab);
    out.allocate(dtype, 0, 3 * vocab);
    for (int64_t row = 0; row < 3; ++row) {
      logits.fill(row * vocab, vocab, style, uint32_t(1000 * style + 10 * row + vocab));
      targets[row] = int32_t((vocab / 3 + row) % vocab);
    }
    Forward& policy = job.policy;
    policy.logits = {logits.data(), dtype, 1, 3, vocab, 3 * vocab, vocab};
    policy.logProbs = &logProb;
    policy.states = states;
    policy.tokenLogProbs = tokenLogProbs;
    policy.tokenEntropies = entropies;
    policy.tokenArgmax = argmax;
    policy.logSumExp = logSumExp;
    policy.sumSquaredProbs = squares;
    job.gradient.logits = job.gradient.out = policy.logits;
    job.gradient.out.data = out.data();
    job.gradient.states = states;
    job.gradient.coefficients = &coefficient;
  }

  // Gives the gradient another element type.
  void giveGradient(DType dtype) {
    const int64_t vocab = job.policy.logits.vocab;
    out.allocate(dtype, 0, 3 * vocab);
    job.gradient.out.dtype = dtype;
    job.gradient.out.data = out.data();
  }

  // Gives the gradient derivatives of all results.
  void giveTokenGradients() {
    job.policy.entropies = unroundedEntropies;
    job.gradient.entropies = unroundedEntropies;
    job.gradient.tokenCoefficients = {ofLogProb, ofLogSumExp, ofEntropy, ofMeanLogit};
  }

  // Puts a smoothed cross-entropy, weighted or not, in the place of the coefficients.
  void giveTokenLoss(bool weighted) {
    const int64_t vocab = job.policy.logits.vocab;
    job.hasTokenLoss = true;
    job.tokenLoss.constants = {0.1, 0.01, true, 1};
    job.tokenLoss.losses = losses;
    job.tokenLoss.summary = &loss;
    coefficient = 0;
    if (!weighted) return;
    Real sum = 0;
    for (int64_t v = 0; v < vocab; ++v) {
      classWeights.push_back(float(v % 7) / 3);
      sum += classWeights[v];
    }
    job.tokenLoss.classWeights = classWeights.data();
    job.tokenLoss.constants.meanClassWeight = double(sum / vocab);
  }

  std::vector<float> rowOf(int64_t row) const {
    const int64_t vocab = job.policy.logits.vocab;
    std::vector<float> x(vocab);
    for (int64_t j = 0; j < vocab; ++j) x[j] = logits.at(row * vocab + j);
    return x;
  }

  Job job;
  Elements logits, out;
  int32_t targets[3], offsets[2] = {0, 3}, counts[1] = {3}, argmax[3];
  double logProb = 0, coefficient = 0.75, loss = 0;
  double ofLogProb[3] = {1, -0.25, 0}, ofLogSumExp[3] = {0.5, 0, -2}, ofEntropy[3] = {-0.3, 1.5, 1};
  double ofMeanLogit[3] = {0.7, -1, 3}, unroundedEntropies[3], losses[3];
  std::vector<float> classWeights;
  TokenState states[3];
  float tokenLogProbs[3], entropies[3], logSumExp[3], squares[3];
};

// Of float32.
Real ulp(Real x) {
  int exponent;
  std::frexp(double(fabsl(x)), &exponent);
  return ldexpl(1, std::max(exponent - 24, -149));
}

// Every loss, f-divergence and setting of lengths, on log-probs from nearly certain to very unlikely.
void lossBits(int32_t set, ThreadPool& pool) {
  constexpr int64_t kPairs = 64;
  std::vector<double> values[12];
  for (auto& list : values) list.resize(kPairs);
  double summary[3];
  uint32_t state = 5;
  const auto unit = [&] { return ((state = state * 1664525 + 1013904223) >> 8) / 16777216.0; };
  for (int32_t type = 0; type < kLossCount; ++type) {
    for (int32_t divergence = 0; divergence < 4; ++divergence) {
      for (const bool average : {false, true}) {
        for (int64_t i = 0; i < kPairs; ++i) {
          for (int k = 0; k < 4; ++k) values[k][i] = -(i % 3 == 0 ? 0.01 : i % 3 == 1 ? 4 : 300) * unit();
          for (int k = 4; k < 6; ++k) values[k][i] = 1 + double(state % 50);
          values[6][i] = unit();
        }
        Job job;
        job.instructionSet = set;
        job.hasLoss = true;
        PreferenceLoss& loss = job.loss;
        loss.terms.list[0] = {LossType(type), 1, 0.1};
        loss.terms.count = 1;
        loss.constants.beta = 0.3;
        loss.constants.offset = 0.1;
        loss.constants.gamma = 0.5;
        loss.constants.rewardShift = 0.2;
        loss.constants.targetMargin = 0.6;
        loss.constants.dpopLambda = 5;
        loss.constants.discopopTau = 0.05;
        loss.constants.alpha = 0.4;
        loss.constants.divergence = Divergence(divergence);
        loss.constants.average = average;
        loss.pairCount = kPairs;
        loss.chosen = values[0].data();
        loss.rejected = values[1].data();
        loss.referenceChosen = values[2].data();
        loss.referenceRejected = values[3].data();
        loss.chosenTokenCounts = values[4].data();
        loss.rejectedTokenCounts = values[5].data();
        loss.pairWeights = values[6].data();
        loss.losses = values[7].data();
        loss.chosenRewards = values[8].data();
        loss.rejectedRewards = values[9].data();
        loss.gradChosen = values[10].data();
        loss.gradRejected = values[11].data();
        loss.summary = summary;
        runJob(job, pool);
        for (int k = 7; k < 12; ++k) add(values[k].data(), kPairs * sizeof(double));
        add(summary, sizeof summary);
      }
    }
  }
}

// One line for the gradients that `prepare` asks for, over all kinds of logits.
template <typename Prepare>
void gradientBits(int32_t set, ThreadPool& pool, int32_t dtype, const char* name, const Prepare& prepare) {
  hash = 0xcbf29ce484222325u;
  for (int32_t style = 0; style < 8; ++style) {
    for (const int64_t vocab : kVocabularies) {
      Call call(DType(dtype), style, vocab, 0.7, set);
      prepare(call);
      runJob(call.job, pool);
      add(call.out.data(), call.out.bytes);
      if (call.job.hasTokenLoss) add(call.losses, sizeof call.losses);
    }
  }
  printf("%s\t%s\t%016llx\n", kDTypes[dtype], name, (unsigned long long)hash);
}

void bits(int32_t set, ThreadPool& pool) {
  for (int32_t dtype = 0; dtype < 3; ++dtype) {
    for (int32_t style = 0; style < 8; ++style) {
      hash = 0xcbf29ce484222325u;
      for (const int64_t vocab : kVocabularies) {
        for (const double temperature : {1.0, 0.7, 30.0}) {
          Call call(DType(dtype), style, vocab, temperature, set);
          runJob(call.job, pool);
          add(&call.logProb, sizeof call.logProb);
          add(call.states, sizeof call.states);
          for (const void* list : {(void*)call.tokenLogProbs, (void*)call.entropies, (void*)call.argmax,
                                   (void*)call.logSumExp, (void*)call.squares}) {
            add(list, 12);
          }
          add(call.out.data(), call.out.bytes);
          // Without by-products the kernels are others.
          Forward& policy = call.job.policy;
          policy.tokenEntropies = policy.logSumExp = policy.sumSquaredProbs = nullptr;
          policy.tokenArgmax = nullptr;
          runJob(call.job, pool);
          add(call.states, sizeof call.states);
        }
      }
      printf("%s\t%s\t%016llx\n", kDTypes[dtype], kStyles[style], (unsigned long long)hash);
    }
    gradientBits(set, pool, dtype, "token gradients", [](Call& call) { call.giveTokenGradients(); });
    gradientBits(set, pool, dtype, "entropy gradients", [](Call& call) {
      call.giveTokenGradients();
      call.coefficient = 0;
      call.job.gradient.tokenCoefficients = {nullptr, nullptr, call.ofEntropy, nullptr};
    });
    gradientBits(set, pool, dtype, "soft-cap", [](Call& call) {
      call.giveTokenGradients();
      call.job.tokens.capScale = 0.125;
    });
    gradientBits(set, pool, dtype, "cross-entropy", [](Call& call) { call.giveTokenLoss(false); });
    gradientBits(set, pool, dtype, "weighted classes", [](Call& call) { call.giveTokenLoss(true); });
    for (int32_t other = 0; other < 3; ++other) {
      if (other == dtype) continue;
      const std::string name = std::string("gradient in ") + kDTypes[other];
      gradientBits(set, pool, dtype, name.c_str(), [&](Call& call) {
        call.giveGradient(DType(other));
        if (call.job.policy.logits.vocab % 2) call.giveTokenGradients();
      });
    }
    hash = 0xcbf29ce484222325u;
    for (const bool byWord : {true, false}) {
      for (const auto& [rows, width, vocab] : kHeads) {
        HeadCall call(DType(dtype), rows, width, vocab, byWord, set, 1);
        // No longer exact: the order of its sums shows in a logit's bits.
        for (int64_t i = 0; i < rows * width; ++i) call.hidden.set(i, call.hidden.at(i) * 0.7f);
        runJob(call.job, pool);
        add(&call.logProb, sizeof call.logProb);
        add(call.states.data(), call.states.size() * sizeof(TokenState));
        for (const auto* list : {&call.gradHidden, &call.gradWeight, &call.gradBias}) {
          add(list->data(), list->size() * sizeof(float));
        }
      }
    }
    printf("%s\t%s\t%016llx\n", kDTypes[dtype], "output layer", (unsigned long long)hash);
    hash = 0xcbf29ce484222325u;
    for (const auto& [rows, width, vocab] : kHeads) {
      HeadCall call(DType(dtype), rows, width, vocab, rows % 2 == 1, set, 1);
      std::vector<uint16_t> halves[3];
      halves[0].resize(call.gradHidden.size());
      halves[1].resize(call.gradWeight.size());
      halves[2].resize(call.gradBias.size());
      HeadGradient& g = call.job.headGradient;
      g.dtype = DType::kBFloat16;
      g.hidden = halves[0].data();
      g.weight = halves[1].data();
      g.bias = halves[2].data();
      runJob(call.job, pool);
      for (const auto& list : halves) add(list.data(), list.size() * sizeof(uint16_t));
    }
    printf("%s\t%s\t%016llx\n", kDTypes[dtype], "output layer, gradients in bfloat16", (unsigned long long)hash);
    if (DType(dtype) != DType::kBFloat16) continue;
    hash = 0xcbf29ce484222325u;
    for (const bool byWord : {true, false}) {
      for (const DType out : {DType::kFloat32, DType::kBFloat16}) {
        // With the smaller, rounded gradients are subnormal.
        for (const double coefficient : {0.75, 1e-36}) {
          for (const auto& [rows, width, vocab] : kHeads) {
            HeadCall call(DType::kBFloat16, rows, width, vocab, byWord, set, 1);
            for (int64_t i = 0; i < rows * width; ++i) call.hidden.set(i, call.hidden.at(i) * 0.7f);
            call.coefficient = coefficient;
            call.job.headGradient.precision = DType::kBFloat16;
            call.job.headGradient.dtype = out;
            runJob(call.job, pool);
            for (const auto* list : {&call.gradHidden, &call.gradWeight, &call.gradBias}) {
              add(list->data(), list->size() * sizeof(float));
            }
          }
        }
      }
    }
    printf("%s\t%s\t%016llx\n", kDTypes[dtype], "output layer, one rounding", (unsigned long long)hash);
  }
  hash = 0xcbf29ce484222325u;
  lossBits(set, pool);
  printf("float64\tlosses\t%016llx\n", (unsigned long long)hash);
}

void ulps(int32_t set, ThreadPool& pool) {
  for (int32_t dtype = 0; dtype < 3; ++dtype) {
    Real logProb = 0, logSumExp = 0, entropy = 0, squares = 0, gradient = 0;
    int64_t rows = 0;
    for (int32_t style = 0; style < 8; ++style) {
      for (const int64_t vocab : kVocabularies) {
        for (const double temperature : {1.0, 0.7, 30.0}) {
          Call call(DType(dtype), style, vocab, temperature, set);
          runJob(call.job, pool);
          for (int64_t row = 0; row < 3; ++row, ++rows) {
            std::vector<float> x(vocab);
            for (int64_t j = 0; j < vocab; ++j) x[j] = call.logits.at(row * vocab + j);
            const oracle::Row wanted = oracle::row(x, call.targets[row], temperature);
            const auto error = [](Real& worst, Real got, Real want, Real unit) {
              if (std::isfinite(got) && std::isfinite(want)) worst = std::max(worst, fabsl(got - want) / unit);
            };
            const auto token = [&](Real& worst, Real got, Real want) {
              error(worst, got, want, ulp(std::max<Real>(fabsl(want), 1)));
            };
            token(logProb, call.tokenLogProbs[row], wanted.logProb);
            token(logSumExp, call.logSumExp[row], wanted.logSumExp);
            token(entropy, call.entropies[row], wanted.entropy);
            error(squares, call.squares[row], wanted.sumSquaredProbs, ulp(wanted.sumSquaredProbs));
            for (int64_t j = 0; j < vocab; ++j) {
              const Real want = 0.75L * wanted.gradient[j];
              // Spacings of the stored type, in its normal range.
              const Real unit = ulp(want) * (dtype == 0 ? 1 : dtype == 1 ? 8192 : 65536);
              const Real normal = dtype == 1 ? 0x1p-14L : 1e-37L;
              if (fabsl(want) >= normal) error(gradient, call.out.at(row * vocab + j), want, unit);
            }
          }
        }
      }
    }
    printf("%s\t%lld\t%.3Lf\t%.3Lf\t%.3Lf\t%.3Lf\t%.3Lf\n", kDTypes[dtype], (long long)rows, logProb, logSumExp,
           entropy, squares, gradient);
  }
}

// The largest errors of gradients through all results of rows, and through the entropy alone, without and with a
// soft-cap: in units of the last place of the sum of the magnitudes of a derivative's terms.
void gradients(int32_t set, ThreadPool& pool) {
  // All results, or the entropy alone.
  for (const bool all : {false, true}) {
    for (const double cap : {0.0, 5.0, 30.0}) {
      Real worst = 0;
      int64_t rows = 0;
      for (int32_t style = 0; style < 8; ++style) {
        for (const int64_t vocab : kVocabularies) {
          for (const double temperature : {1.0, 0.7, 30.0}) {
            // Capped logits count as cap · tanh(x / cap) / temperature.
            const double divisor = cap == 0 ? temperature : temperature / cap;
            Call call(DType::kFloat32, style, vocab, divisor, set);
            call.job.tokens.capScale = cap == 0 ? 0 : 1 / cap;
            call.giveTokenGradients();
            TokenCoefficients& own = call.job.gradient.tokenCoefficients;
            if (!all) own.logProb = own.logSumExp = own.meanLogit = nullptr, call.coefficient = 0;
            runJob(call.job, pool);
            for (int64_t row = 0; row < 3; ++row, ++rows) {
              ResultSlopes slopes;
              slopes.entropy = call.ofEntropy[row];
              if (all) {
                slopes = {call.ofLogProb[row] + 0.75, call.ofLogSumExp[row], slopes.entropy, call.ofMeanLogit[row]};
              }
              const auto wanted =
                  oracle::derivatives(call.rowOf(row), call.targets[row], divisor, call.job.tokens.capScale, slopes);
              for (int64_t j = 0; j < vocab; ++j) {
                const Real value = wanted[j].value, magnitude = wanted[j].magnitude;
                const Real got = call.out.at(row * vocab + j);
                if (!std::isfinite(value) || !(magnitude > 1e-30L)) continue;
                worst = std::max(worst, fabsl(got - value) / ulp(magnitude));
              }
            }
          }
        }
      }
      printf("%s\t%s\t%.3Lf\t%lld\n", all ? "all results" : "entropy",
             cap == 0 ? "none" : std::to_string(int(cap)).c_str(), worst, (long long)rows);
    }
  }
}

// The distance of two gradients, relative: of their norms, and of their largest elements.
std::string errorsOf(const std::vector<float>& got, const std::vector<double>& wanted) {
  double error = 0, norm = 0, largestError = 0, largest = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double difference = double(got[i]) - wanted[i];
    error += difference * difference;
    norm += wanted[i] * wanted[i];
    largestError = std::max(largestError, std::fabs(difference));
    largest = std::max(largest, std::fabs(wanted[i]));
  }
  char text[64];
  snprintf(text, sizeof text, "%.1e / %.1e", std::sqrt(error / norm), largestError / largest);
  return text;
}

// Hidden states point to the weights of their labels, the more so the likelier these are to be.
void rounding(int32_t set, ThreadPool& pool) {
  constexpr int64_t kRows = 128, kWidth = 64, kVocab = 8192;
  for (const int pull : {0, 4, 8, 12}) {
    HeadCall call(DType::kBFloat16, kRows, kWidth, kVocab, true, set, 1);
    uint32_t state = 3;
    const auto unit = [&] { return (((state = state * 1664525 + 1013904223) >> 8) + 0.5) / 16777216; };
    const auto normal = [&] { return std::sqrt(-2 * std::log(unit())) * std::cos(6.283185307179586 * unit()); };
    for (int64_t i = 0; i < kVocab * kWidth; ++i) call.weight.set(i, float(0.2 * normal()));
    for (int64_t v = 0; v < kVocab; ++v) call.bias.set(v, 0);
    for (int64_t row = 0; row < kRows; ++row) {
      const int64_t label = call.targets[row] = int32_t(double(kVocab) * unit());
      for (int64_t d = 0; d < kWidth; ++d) {
        call.hidden.set(row * kWidth + d, float(normal() + pull * call.weightAt(label, d)));
      }
    }
    call.counts[0] = kRows;

    std::vector<double> ofHidden(kRows * kWidth), ofWeight(kVocab * kWidth), exps(kVocab);
    double labels = 0;
    for (int64_t row = 0; row < kRows; ++row) {
      const int64_t label = call.targets[row];
      double total = 0, others = 0;
      for (int64_t v = 0; v < kVocab; ++v) {
        double logit = 0;
        for (int64_t d = 0; d < kWidth; ++d) logit += double(call.hidden.at(row * kWidth + d)) * call.weightAt(v, d);
        exps[v] = std::exp(logit);
        total += exps[v];
        if (v != label) others += exps[v];
      }
      labels += exps[label] / total / kRows;
      for (int64_t v = 0; v < kVocab; ++v) {
        const double gradient = call.coefficient * (v == label ? others : -exps[v]) / total;
        for (int64_t d = 0; d < kWidth; ++d) {
          ofHidden[row * kWidth + d] += gradient * call.weightAt(v, d);
          ofWeight[v * kWidth + d] += gradient * call.hidden.at(row * kWidth + d);
        }
      }
    }
    printf("%d\t%.3f", pull, labels);
    for (const DType precision : {DType::kFloat32, DType::kBFloat16}) {
      call.job.headGradient.precision = precision;
      runJob(call.job, pool);
      printf("\t%s\t%s", errorsOf(call.gradHidden, ofHidden).c_str(), errorsOf(call.gradWeight, ofWeight).c_str());
    }
    printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const InstructionSets& found = instructionSets();
  if (what == "sets") {
    for (int32_t i = 0; i < found.count; ++i) printf("%s\n", found.sets[i]->name);
    return 0;
  }
  int32_t set = 0;
  while (argc > 2 && set < found.count && strcmp(found.sets[set]->name, argv[2]) != 0) ++set;
  const bool known = what == "bits" || what == "ulps" || what == "gradients" || what == "rounding";
  if (set == found.count || !known) {
    fprintf(stderr, "usage: numerics sets|bits|ulps|gradients|rounding [instruction set]\n");
    return 2;
  }
  ThreadPool pool;
  (what == "bits" ? bits : what == "ulps" ? ulps : what == "gradients" ? gradients : rounding)(set, pool);
}
