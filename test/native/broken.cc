// Jobs and calls that lib would not let through: in a build with FPL_DEBUG each must end the process by an assert.
//
//   broken        how many there are
//   broken INDEX  runs that one
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "../../native/cpu/panels.h"
#include "head_call.h"

namespace {

using namespace fpl;

// A job on logits with everything in it: two sequences of three rows, one pair, a gradient.
struct Whole {
  static constexpr int64_t kRows = 6, kVocab = 70;

  Whole() {
    job.threads = 1;
    job.hasPolicy = job.hasLoss = job.hasGradient = true;
    job.tokens.targets = targets;
    job.tokens.offsets = offsets;
    job.tokens.counts = counts;
    job.tokens.sequences = 2;
    job.policy.logits = {logits.data(), DType::kFloat32, 2, 3, kVocab, 3 * kVocab, kVocab};
    job.policy.logProbs = values[0];
    PreferenceLoss& loss = job.loss;
    loss.terms.count = 1;
    loss.terms.list[0] = {LossType::sigmoid, 1, 0};
    loss.constants.beta = 1;
    loss.pairCount = 1;
    loss.pairs = pairs;
    loss.chosen = values[1];
    loss.rejected = values[2];
    loss.referenceChosen = values[3];
    loss.referenceRejected = values[4];
    loss.losses = values[5];
    loss.chosenRewards = values[6];
    loss.rejectedRewards = values[7];
    loss.gradChosen = values[8];
    loss.gradRejected = values[9];
    loss.summary = values[10];
    job.gradient.logits = job.gradient.out = job.policy.logits;
    job.gradient.out.data = out.data();
    job.gradient.coefficients = values[11];
  }

  Job job;
  std::vector<float> logits = std::vector<float>(kRows * kVocab, 0.5f), out = std::vector<float>(kRows * kVocab);
  int32_t targets[kRows] = {0, 1, -1, 3, -1, 69}, offsets[3] = {0, 3, 6}, counts[2] = {2, 2}, pairs[2] = {0, 1};
  double values[12][3] = {}, ofLogProb[kRows] = {}, rowScale[kRows] = {};
};

void job(const std::function<void(Whole&)>& damage) {
  Whole whole;
  damage(whole);
  ThreadPool pool;
  runJob(whole.job, pool);
}

void headJob(const std::function<void(HeadCall&)>& damage) {
  HeadCall call(DType::kFloat32, 5, 9, 70, true, 0, 1);
  damage(call);
  ThreadPool pool;
  runJob(call.job, pool);
}

const Kernels& kernels() { return *instructionSets().sets[0]; }

// Two panels of a matrix.
void pack(int64_t end, int64_t panel, bool across) {
  const std::vector<float> vector(200), panels(1000);
  const std::vector<const void*> begins(20, vector.data());
  const Vectors vectors{DType::kFloat32, begins.data()};
  float* const to = const_cast<float*>(panels.data());
  if (across) {
    Packing{kernels(), nullptr}.across(vectors, 0, 8, 20, 4, 0, end, to, panel);
  } else {
    Packing{kernels(), nullptr}.along(vectors, 8, 20, 4, 0, end, to, panel);
  }
}

void multiply(int64_t depth, int64_t panel, int64_t stride) {
  const std::vector<float> factor(4000), sums(1000);
  kernels().multiply(
      {factor.data(), factor.data(), panel, panel, 2, 4, depth, const_cast<float*>(sums.data()), stride, false});
}

const std::function<void()> kBroken[] = {
    [] { job([](Whole& w) { w.targets[1] = Whole::kVocab; }); },
    [] { job([](Whole& w) { w.targets[2] = -2; }); },
    [] { job([](Whole& w) { w.counts[1] = 3; }); },
    [] { job([](Whole& w) { w.offsets[2] = 7; }); },
    [] { job([](Whole& w) { w.offsets[1] = 7; }); },
    [] { job([](Whole& w) { w.job.policy.logits.timeStride = Whole::kVocab - 1; }); },
    [] { job([](Whole& w) { w.job.policy.logits.batchStride = 0; }); },
    [] { job([](Whole& w) { w.job.policy.logits.data = nullptr; }); },
    [] { job([](Whole& w) { w.job.policy.logits.data = reinterpret_cast<char*>(w.logits.data()) + 1; }); },
    [] { job([](Whole& w) { w.job.policy.logits.vocab = 0; }); },
    [] { job([](Whole& w) { w.job.policy.logProbs = nullptr; }); },
    [] { job([](Whole& w) { w.job.tokens.temperature = 0; }); },
    [] { job([](Whole& w) { w.job.instructionSet = 99; }); },
    [] { job([](Whole& w) { w.job.threads = -1; }); },
    [] { job([](Whole& w) { w.job.hasReference = true; }); },
    [] { job([](Whole& w) { w.pairs[1] = 2; }); },
    [] { job([](Whole& w) { w.job.loss.terms.count = 0; }); },
    [] { job([](Whole& w) { w.job.loss.summary = nullptr; }); },
    [] { job([](Whole& w) { w.job.gradient.out.batch = 1; }); },
    [] {
      job([](Whole& w) {
        w.job.gradient.out = w.job.gradient.logits;
        w.job.gradient.out.dtype = DType::kFloat16;
      });
    },
    [] { job([](Whole& w) { w.job.gradient.coefficients = nullptr; }); },
    [] {
      job([](Whole& w) {
        w.job.gradient.rowScale = w.rowScale;
        w.job.gradient.tokenCoefficients.logProb = w.ofLogProb;
      });
    },
    [] { headJob([](HeadCall& c) { c.job.policy.head.weight.rowStride = 8; }); },
    [] { headJob([](HeadCall& c) { c.job.policy.head.weight.columnStride = 2; }); },
    [] { headJob([](HeadCall& c) { c.job.headGradient.head.hidden.time = 4; }); },
    [] {
      headJob([](HeadCall& c) { c.job.headGradient.hidden = c.job.headGradient.weight = c.job.headGradient.bias = 0; });
    },
    [] { ThreadPool().run(3, 0, [](int64_t) {}); },
    [] {
      BufferPool buffers(1, 8);
      const BufferPool::Loan one(buffers), other(buffers);
    },
    [] { pack(3, 80, false); },
    [] { pack(2, 79, false); },
    [] { pack(3, 80, true); },
    [] { pack(2, 79, true); },
    [] { multiply(0, 1000, 4); },
    [] { multiply(500, 1000, 4); },
    [] { multiply(4, 1000, 3); },
    [] {
      RowState state;
      const std::vector<float> row(200);
      kernels().update[0](row.data(), 16, 100, -1, ExpConstants(1), state);
    },
    [] {
      std::vector<float> row(200);
      kernels().gradient[0][0](row.data(), row.data(), 0, 200, ExpConstants(1), {}, NAN);
    },
};
constexpr int kCount = int(sizeof kBroken / sizeof kBroken[0]);

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    printf("%d\n", kCount);
    return 0;
  }
  const int index = atoi(argv[1]);
  if (index < 0 || index >= kCount) return 2;
  // Nothing may be wrong with what is damaged here.
  job([](Whole&) {});
  headJob([](HeadCall&) {});
  kBroken[index]();
}
