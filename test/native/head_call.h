// A job with a head: sequences of one group of rows or several, all gradients asked for, the same values everywhere. In
// hidden states and weights they are sixteenths, so that logits are exact in float32 and can be had otherwise too.
#pragma once

#include <vector>

#include "example.h"

namespace fpl {

struct HeadCall {
  HeadCall(DType dtype, int64_t rows, int64_t width, int64_t vocab, bool byWord, int32_t set, int64_t threads)
      : rowCount(rows),
        width(width),
        vocab(vocab),
        byWord(byWord),
        targets(rows),
        counts(1),
        offsets{0, int32_t(rows)} {
    hidden.allocate(dtype, 1, rows * width);
    weight.allocate(dtype, 2, vocab * width);
    bias.allocate(dtype, 0, vocab);
    uint32_t state = uint32_t(rows * 31 + width * 7 + vocab);
    const auto next = [&] { return (state = state * 1664525 + 1013904223) >> 16; };
    for (int64_t i = 0; i < rows * width; ++i) hidden.set(i, float(int32_t(next() % 33) - 16) / 16);
    for (int64_t i = 0; i < vocab * width; ++i) weight.set(i, float(int32_t(next() % 33) - 16) / 16);
    for (int64_t v = 0; v < vocab; ++v) bias.set(v, float(int32_t(next() % 17) - 8) / 4);
    for (int64_t row = 0; row < rows; ++row) {
      targets[row] = next() % 5 == 0 ? -1 : int32_t(next() % vocab);
      counts[0] += targets[row] >= 0;
    }
    states.resize(rows);
    tokenLogProbs.resize(rows);
    tokenArgmax.resize(rows, -1);
    gradHidden.resize(rows * width, 5);
    gradWeight.resize(vocab * width, 5);
    gradBias.resize(vocab, 5);

    job.instructionSet = set;
    job.threads = threads;
    job.hasPolicy = job.hasHeadGradient = true;
    job.tokens.targets = targets.data();
    job.tokens.offsets = offsets.data();
    job.tokens.counts = counts.data();
    job.tokens.sequences = 1;
    Forward& policy = job.policy;
    policy.logits = {nullptr, DType::kFloat32, 1, rows, vocab, rows * vocab, vocab};
    policy.head.hidden = {hidden.data(), dtype, 1, rows, width, rows * width, width};
    policy.head.weight = {weight.data(), dtype, byWord ? width : 1, byWord ? 1 : vocab, false};
    policy.head.bias = {bias.data(), dtype};
    policy.logProbs = &logProb;
    policy.states = states.data();
    policy.tokenLogProbs = tokenLogProbs.data();
    policy.tokenArgmax = tokenArgmax.data();
    HeadGradient& g = job.headGradient;
    g.head = policy.head;
    g.logits = policy.logits;
    g.states = states.data();
    g.coefficients = &coefficient;
    g.hidden = gradHidden.data();
    g.weight = gradWeight.data();
    g.bias = gradBias.data();
  }
  HeadCall(const HeadCall&) = delete;

  double weightAt(int64_t v, int64_t d) const { return weight.at(byWord ? v * width + d : d * vocab + v); }

  Job job;
  int64_t rowCount, width, vocab;
  bool byWord;
  Elements hidden, weight, bias;
  std::vector<int32_t> targets, counts, offsets, tokenArgmax;
  std::vector<TokenState> states;
  std::vector<float> tokenLogProbs, gradHidden, gradWeight, gradBias;
  double logProb = 0, coefficient = 0.75;
};

}  // namespace fpl
