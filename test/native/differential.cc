// The comparison of a job with the oracle, within the bounds that docs/numerics.md promises.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>

#include "example.h"
#include "oracle.h"

namespace fpl {
namespace {

using oracle::Real;

// The spacing of float32 numbers at x.
Real ulp(Real x) {
  int exponent;
  std::frexp(double(std::min<Real>(fabsl(x), 3e38L)), &exponent);
  return ldexpl(1, std::max(exponent - 24, -149));
}
Real unitToken(Real x) { return ulp(std::max<Real>(fabsl(x), 1)); }

bool near(Real got, Real wanted, Real bound) {
  if (std::isnan(wanted)) return std::isnan(got);
  return got == wanted || fabsl(got - wanted) <= bound;
}

class Report {
 public:
  void check(bool holds, const char* what, int64_t index, Real got, Real wanted) {
    if (holds || !text_.empty()) return;
    std::ostringstream out;
    out.precision(20);
    out << what << "[" << index << "] is " << got << ", wanted " << wanted;
    text_ = out.str();
  }
  void near(Real got, Real wanted, Real bound, const char* what, int64_t index) {
    check(fpl::near(got, wanted, bound), what, index, got, wanted);
  }
  // A result in float32, in which the largest numbers are infinite.
  void near32(float got, Real wanted, Real bound, const char* what, int64_t index) {
    near(got, fabsl(wanted) < 0x1.ffffffp127L ? wanted : Real(float(wanted)), bound, what, index);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

template <typename T>
float rounded(Real x) {
  T stored;
  fromFloat(float(x), stored);
  return toFloat(stored);
}

float roundedTo(DType dtype, Real x) { return dtype == DType::kFloat16 ? rounded<Float16>(x) : rounded<BFloat16>(x); }

// What the tanh of a capped logit may be off by, and what counts then.
Real offBy(const Tokens& tokens) { return tokens.capScale == 0 ? 0 : 4 * 0x1p-23L / tokens.temperature; }

// One row of a gradient through any results. `offSlope`: what the slope of its log-sum-exp may be off by.
void compareDerivatives(const Example& e, const Elements& elements, int64_t row, const std::vector<float>& logits,
                        const ResultSlopes& slopes, Real offSlope, Report& report) {
  const Tokens& tokens = e.job.tokens;
  const Rows& rows = e.job.gradient.out;
  const int64_t start = rows.offset(row);
  const bool ofMeanAlone = slopes.logProb == 0 && slopes.logSumExp == 0 && slopes.entropy == 0;
  // Beyond float32 there are infinities and NaN.
  const Real largest =
      std::max({fabs(slopes.logProb), fabs(slopes.logSumExp), fabs(slopes.entropy), fabs(slopes.meanLogit)});
  if (largest / tokens.temperature > 0x1p120L) return;
  // p · (|log p| + H + 1), which multiplies that of the entropy, is less than 20 for any vocabulary here.
  const Real sizeOfSlopes =
      fabsl(slopes.logProb) + fabsl(slopes.logSumExp) + 20 * fabsl(slopes.entropy) + fabsl(slopes.meanLogit);
  const float* const classWeights = e.job.hasTokenLoss ? e.job.tokenLoss.classWeights : nullptr;
  const auto wanted =
      oracle::derivatives(logits, tokens.targets[row], tokens.temperature, tokens.capScale, slopes, classWeights);
  const bool fused = strcmp(instructionSets().sets[e.job.instructionSet]->name, "baseline") != 0;
  const bool isDft = e.job.hasTokenLoss && e.job.tokenLoss.constants.dft;
  for (int64_t j = 0; j < rows.vocab; ++j) {
    auto [want, magnitude, ofLogSumExp] = wanted[j];
    if (slopes.none()) want = magnitude = ofLogSumExp = 0;
    // A mean's derivative is a constant, whatever the row's logits are.
    if (ofMeanAlone && std::isnan(want)) continue;
    Real bound =
        ((fused ? 4 : 5) + (isDft ? 2 : 0)) * ulp(magnitude) + 1e-36L * std::max<Real>(1, 1 / tokens.temperature);
    if (fabs(slopes.logProb) > 0x1p58) bound += ldexpl(fabs(slopes.logProb), -184);
    if (offSlope != 0) bound += offSlope * ofLogSumExp;
    if (tokens.capScale != 0 && magnitude != 0) {
      const Real caps = std::min<Real>(fabsl(logits[j] * Real(tokens.capScale)), 43);
      bound += magnitude * ((5 + (fused ? 0 : 2 * caps)) * 0x1p-23L + 4 * offBy(tokens));
      // The slope of the cap is exact to 1e-36 and no further, which multiplies all terms.
      bound += 1e-36L * tokens.capScale / tokens.temperature * sizeOfSlopes;
    }
    const float got = elements.at(start + j);
    if (rows.dtype == DType::kFloat32) {
      report.near32(got, want, bound, "derivative", start + j);
    } else if (std::isnan(want)) {
      report.check(std::isnan(got), "derivative", start + j, got, want);
    } else {
      const float low = roundedTo(rows.dtype, want - bound), high = roundedTo(rows.dtype, want + bound);
      report.check(got >= low && got <= high, "derivative", start + j, got, want);
    }
  }
}

// The derivatives of a row's cross-entropy.
ResultSlopes slopesOfTokenLoss(const Example& e, int64_t row, const oracle::Row& r) {
  const TokenLoss& loss = e.job.tokenLoss;
  const TokenLossConstants& k = loss.constants;
  const Real weight = e.job.tokens.weight(row), ofLabel = loss.labelWeight(e.job.tokens.targets[row]);
  ResultSlopes out;
  if (weight == 0) return out;
  if (std::isnan(r.logProb)) {
    out.logProb = NAN;
    return out;
  }
  const Real factor = weight / loss.divisor * loss.gradientScale, part = k.dft ? expl(r.logProb) : 1;
  out.logProb = double(-factor * part * (1 - Real(k.labelSmoothing)) * ofLabel);
  out.logSumExp = double(factor * (part * k.labelSmoothing * k.meanClassWeight + 2 * ofLabel * k.zLoss * r.logSumExp));
  if (k.zLoss == 0 && k.labelSmoothing == 0) out.logSumExp = 0;
  out.meanLogit = double(-factor * part * k.labelSmoothing);
  return out;
}

// What the z-loss makes of an error of the log-sum-exp.
Real offSlopeOfTotal(const Example& e, int64_t row, const oracle::Row& r) {
  const TokenLoss& loss = e.job.tokenLoss;
  if (!e.job.hasTokenLoss || loss.constants.zLoss == 0 || std::isnan(r.logProb)) return 0;
  const Real factor = e.job.tokens.weight(row) / loss.divisor * loss.gradientScale;
  const Real off = 2 * unitToken(r.logSumExp) + offBy(e.job.tokens);
  return fabsl(factor) * 2 * loss.labelWeight(e.job.tokens.targets[row]) * loss.constants.zLoss * off;
}

// One row of the gradient.
void compareGradient(const Example& e, const Rows& rows, const Elements& elements, int64_t row,
                     const oracle::Row& wanted, Real factor, Report& report) {
  const int64_t start = rows.offset(row);
  // Beyond float32 there are infinities, and what they make with the zeros among them.
  if (fabsl(factor) / e.job.tokens.temperature > 0x1p127L) return;
  for (int64_t j = 0; j < rows.vocab; ++j) {
    const Real want = factor == 0 ? 0 : factor * wanted.gradient[j];
    const float got = elements.at(start + j);
    Real bound = 4 * ulp(want) + 1e-38L;
    // Of a coefficient beyond 2^60, what is smaller by another 2^184 vanishes.
    if (fabsl(factor) > 0x1p58L) bound += ldexpl(fabsl(factor), -184);
    if (rows.dtype == DType::kFloat32) {
      report.near32(got, want, bound, "gradient", start + j);
    } else if (std::isnan(want)) {
      report.check(std::isnan(got), "gradient", start + j, got, want);
    } else {
      const float low = roundedTo(rows.dtype, want - bound), high = roundedTo(rows.dtype, want + bound);
      report.check(got >= low && got <= high, "gradient", start + j, got, want);
    }
  }
}

// A sequence's log-prob with the weights that sft takes.
Real plainLogProb(const Example& e, int64_t sequence) {
  const Tokens& tokens = e.job.tokens;
  if (tokens.counts[sequence] == 0) return tokens.emptyLogProb;
  Real sum = 0;
  for (int64_t row = tokens.offsets[sequence]; row < tokens.offsets[sequence + 1]; ++row) {
    if (tokens.targets[row] >= 0 && e.plainWeights[row] != 0) sum += e.plainWeights[row] * e.states[row].logProb;
  }
  return tokens.average ? sum / tokens.counts[sequence] : sum;
}

// The factor of a pair's loss in the sum's term.
Real weightOf(const Example& e, const LossTerm& term, int64_t i) {
  const PreferenceLoss& s = e.job.loss;
  Real weight = term.weight * (s.pairWeights ? s.pairWeights[i] : 1);
  if (!e.logWeights.empty()) weight *= expl(e.logWeights[s.pairs[2 * i]] + e.logWeights[s.pairs[2 * i + 1]]);
  return weight;
}

// What the loss's derivative with respect to that is, through all pairs.
std::vector<Real> plainCoefficients(const Example& e) {
  const Tokens& tokens = e.job.tokens;
  const PreferenceLoss& s = e.job.loss;
  std::vector<Real> out(tokens.sequences, 0);
  if (e.plainWeights.empty()) return out;
  for (const LossTerm& term : s.terms) {
    if (term.type != LossType::sft) continue;
    for (int64_t i = 0; i < s.pairCount; ++i) {
      const int32_t chosen = s.pairs[2 * i];
      const Real weight = weightOf(e, term, i);
      // runJob has put the batch's own numbers where none were given.
      const bool ofTokens = s.constants.sftNormalization == SftNormalization::kTokens;
      const Real divisor = ofTokens ? s.constants.tokenDivisor : s.constants.pairDivisor;
      if (weight == 0 || divisor == 0) continue;
      const Real length = tokens.counts[chosen] == 0 ? 1 : tokens.counts[chosen];
      const bool ofSequences = s.constants.sftNormalization == SftNormalization::kSequences;
      const Real slope = ofSequences ? (tokens.average ? 1 : 1 / length) : tokens.average ? tokens.counts[chosen] : 1;
      out[chosen] -= weight * slope / divisor * s.constants.gradientScale;
    }
  }
  return out;
}

// Loss and derivatives of stage 3, given what stages 1 and 2 found.
void compareLoss(const Example& e, Report& report) {
  const PreferenceLoss& s = e.job.loss;
  const int64_t size = s.pairCount;
  oracle::Pairs pairs;
  const auto copy = [&](const double* from, std::vector<Real>& to) { to.assign(from, from + size); };
  copy(s.chosen, pairs.chosen);
  copy(s.rejected, pairs.rejected);
  copy(s.referenceChosen, pairs.referenceChosen);
  copy(s.referenceRejected, pairs.referenceRejected);
  copy(s.chosenTokenCounts, pairs.chosenTokenCounts);
  copy(s.rejectedTokenCounts, pairs.rejectedTokenCounts);
  for (int64_t i = 0; i < size; ++i) pairs.weights.push_back(weightOf(e, {LossType::sigmoid, 1, 0}, i));
  pairs.constants = s.pairConstants;
  if (!e.plainWeights.empty()) {
    for (int64_t i = 0; i < size; ++i) pairs.plainChosen.push_back(plainLogProb(e, s.pairs[2 * i]));
  }
  // Beyond this the formulas lose digits, are capped or infinite; what they give then is for the tests of each loss.
  for (int64_t i = 0; i < size; ++i) {
    for (const Real x : {pairs.chosen[i], pairs.rejected[i], pairs.referenceChosen[i], pairs.referenceRejected[i]}) {
      if (!(x > -60) || !(x < -1e-3L)) return;
    }
    if (!(pairs.weights[i] < 1e6L)) return;
  }
  const auto loss = [&] { return oracle::loss(s.terms, s.constants, pairs); };
  const Real value = loss();
  if (!(fabsl(value) < 1e12L)) return;
  Real scale = 1;
  for (const Real w : pairs.weights) scale = std::max(scale, w);
  scale = std::max(scale, fabsl(value));
  report.near(s.summary[0], value, 1e-10L * scale, "loss", 0);

  // Where two pairs nearly have the same rank, a step of the difference exchanges them.
  for (const LossTerm& term : s.terms) {
    if (term.type != LossType::aot && term.type != LossType::aot_unpaired) continue;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        const Real c = pairs.chosen[i] - pairs.chosen[j], r = pairs.rejected[i] - pairs.rejected[j];
        const Real rc = pairs.referenceChosen[i] - pairs.referenceChosen[j];
        const Real rr = pairs.referenceRejected[i] - pairs.referenceRejected[j];
        for (const Real gap : {c - r, rc - rr, c - rc, r - rr}) {
          if (fabsl(gap) < 1e-4L) return;
        }
      }
    }
  }

  const auto slope = [&](std::vector<Real>& list, const double* got, const char* what) {
    for (int64_t i = 0; i < size; ++i) {
      const Real x = list[i], h = 1e-6L;
      list[i] = x + h;
      const Real up = loss();
      list[i] = x - h;
      const Real down = loss();
      list[i] = x;
      const Real wanted = (up - down) / (2 * h), times = s.constants.gradientScale;
      // A kink, or an exchange of ranks, has no derivative.
      const Real bend = fabsl((up - value) - (value - down)) / h;
      if (bend > 1e-3L * (fabsl(wanted) + 1)) continue;
      report.near(got[i], times * wanted, 1e-7L * fabsl(times) * (fabsl(wanted) + scale), what, i);
    }
  };
  slope(pairs.chosen, s.gradChosen, "gradChosen");
  slope(pairs.rejected, s.gradRejected, "gradRejected");
}

// The loss of a row, within what an error of its log-prob and log-sum-exp makes of it.
void compareTokenLoss(const Example& e, int64_t row, const std::vector<float>& logits, const oracle::Row& r,
                      Report& report) {
  const Tokens& tokens = e.job.tokens;
  const TokenLoss& loss = e.job.tokenLoss;
  const Real weight = tokens.weight(row);
  const Real value = oracle::tokenLoss(loss.constants, loss.classWeights, logits, tokens.targets[row],
                                       tokens.temperature, tokens.capScale);
  const Real finite = std::isfinite(r.logProb) ? fabsl(r.logProb) : 0, total = fabsl(r.logSumExp);
  const Real p = loss.constants.dft ? expl(r.logProb) : 1;
  const Real step = ulp(std::max<Real>({finite, total, 1})) + offBy(tokens);
  const Real ofClass = std::max<Real>(1, loss.classWeights ? 2 : 1);
  const Real slope = ofClass * (p + 2 * loss.constants.zLoss * total) + (loss.constants.dft ? fabsl(value) : 0);
  // The mean of logits of either sign is as exact as they are.
  Real size = 0;
  for (const float x : logits) size += loss.wantsMeanLogit() && std::isfinite(x) ? fabsl(x) : 0;
  const Real ofMean = ldexpl(ofClass * size / tokens.temperature / Real(logits.size()), -48);
  report.near(e.tokenLosses[row], weight == 0 ? 0 : weight * value, fabsl(weight) * (2 * step * slope + ofMean),
              "tokenLosses", row);
}

// The losses of single sequences, and their derivatives as differences.
void compareUnpairedLoss(const Example& e, Report& report) {
  const UnpairedPreferenceLoss& s = e.job.unpairedLoss;
  const UnpairedLossConstants& k = s.constants;
  const auto sigma = [](Real z) { return 1 / (1 + expl(-z)); };
  for (int64_t i = 0; i < s.count; ++i) {
    const Real ratio = Real(e.logProbs[i]) - e.unpairedReference[i], y = e.desirable[i] ? 1 : -1;
    const Real kind = e.desirable[i] ? k.desirableWeight : k.undesirableWeight;
    const Real weight = kind * (s.weights ? s.weights[i] : 1), beta = s.betas ? s.betas[i] : k.beta;
    if (!std::isfinite(ratio) || fabsl(ratio) > 1000) continue;
    const auto loss = [&](Real x) -> Real {
      if (s.type == UnpairedLossType::regression) return powl(beta * x - s.targets[i], 2);
      if (s.type == UnpairedLossType::bco) return log1pl(expl(-y * (beta * x - k.rewardShift)));
      return 1 - sigma(y * beta * (x - (s.type == UnpairedLossType::kto ? k.kl : 0)));
    };
    report.near(e.unpairedRewards[i], beta * ratio, 1e-12L * fabsl(ratio), "rewards", i);
    const Real value = loss(ratio), bound = 1e-12L * (1 + fabsl(ratio)) * (1 + fabsl(value));
    report.near(e.unpairedLosses[i], weight * value, bound, "losses", i);
    const Real h = 1e-5L, slope = (loss(ratio + h) - loss(ratio - h)) / (2 * h);
    report.near(e.unpairedGradient[i], weight * slope / k.divisor * k.gradientScale, 1e-7L * (1 + fabsl(slope)),
                "gradient", i);
    if (e.job.hasGradient) report.near(e.coefficients[i], e.unpairedGradient[i], 0, "coefficients", i);
  }
}

}  // namespace

std::string differential(Example& e, ThreadPool& pool) {
  Job& job = e.job;
  const Rows rows = job.policy.logits;
  const Tokens& tokens = job.tokens;
  const std::vector<unsigned char> before(e.logits.memory.get(), e.logits.memory.get() + e.logits.bytes);
  // What the oracle needs of the logits, which the gradient may overwrite.
  std::vector<std::vector<float>> logits(rows.count());
  for (int64_t row = 0; row < rows.count(); ++row) {
    if (tokens.targets[row] < 0) continue;
    for (int64_t j = 0; j < rows.vocab; ++j) logits[row].push_back(e.logits.at(rows.offset(row) + j));
  }

  Report report;
  report.check(runJob(job, pool), "finished", 0, 0, 1);

  // A coefficient of a sequence is what it was told to be, or what the loss gave to each of its pairs.
  if (job.hasLoss && job.hasGradient) {
    std::vector<double> wanted(tokens.sequences, 0.0);
    for (int64_t i = 0; i < job.loss.pairCount; ++i) {
      wanted[e.pairs[2 * i]] += e.gradChosen[i];
      wanted[e.pairs[2 * i + 1]] += e.gradRejected[i];
    }
    for (int64_t s = 0; s < tokens.sequences; ++s) report.near(e.coefficients[s], wanted[s], 0, "coefficients", s);
  }

  const std::vector<Real> plain = plainCoefficients(e);
  const Rows& outRows = job.gradient.out;
  if (e.inPlace && job.hasGradient) e.logits.dtype = outRows.dtype;
  const Elements& out = e.inPlace ? e.logits : e.out;
  for (int64_t s = 0; s < tokens.sequences; ++s) {
    Real sum = 0, bound = 0;
    for (int64_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row) {
      const int32_t label = tokens.targets[row];
      if (label < 0) {
        if (!job.hasGradient) continue;
        const int64_t start = outRows.offset(row);
        for (int64_t j = 0; j < outRows.vocab; ++j) {
          const float got = out.at(start + j);
          const bool holds = job.gradient.skipInactive ? std::isnan(got) : got == 0 && !std::signbit(got);
          report.check(holds, "inactive gradient", start + j, got, 0);
        }
        continue;
      }
      const oracle::Row wanted = oracle::row(logits[row], label, tokens.temperature, tokens.capScale);
      const Real off = offBy(tokens), step = unitToken(wanted.logProb) + off;
      report.near32(e.tokenLogProbs[row], wanted.logProb, 2 * step, "tokenLogProbs", row);
      if (job.hasTokenLoss) compareTokenLoss(e, row, logits[row], wanted, report);
      if (!e.tokenEntropies.empty()) {
        const Real ofTotal = 2 * unitToken(wanted.logSumExp) + 2 * off;
        report.near32(e.logSumExp[row], wanted.logSumExp, ofTotal, "logSumExp", row);
        const Real ofEntropy = 4 * unitToken(wanted.entropy) + 2 * (wanted.entropy + 1) * off;
        report.near(e.tokenEntropies[row], wanted.entropy, ofEntropy, "tokenEntropies", row);
        // What docs/numerics.md promises; measured are 2.43 ULP.
        const Real ofSquares = (1e-6L + 4 * off) * wanted.sumSquaredProbs;
        report.near(e.sumSquaredProbs[row], wanted.sumSquaredProbs, ofSquares, "sumSquaredProbs", row);
        // Logits that a cap brings together may change places.
        const int64_t best = std::max_element(logits[row].begin(), logits[row].end()) - logits[row].begin();
        const bool inDoubt = tokens.capScale != 0 && !std::isnan(wanted.logProb);
        if (!inDoubt) report.near(e.tokenArgmax[row], std::isnan(wanted.logProb) ? -1 : best, 0, "tokenArgmax", row);
      }
      const Real weight = tokens.weight(row);
      if (weight != 0) sum += weight * wanted.logProb;
      bound += fabsl(weight) * 2 * step;
      if (job.hasGradient) {
        Real factor = weight == 0 ? 0 : weight * e.coefficients[s];
        if (!e.plainWeights.empty() && e.plainWeights[row] != 0) factor += e.plainWeights[row] * plain[s];
        factor /= tokens.average ? tokens.counts[s] : 1;
        const TokenCoefficients& own = job.gradient.tokenCoefficients;
        ResultSlopes slopes;
        if (job.hasTokenLoss)
          slopes = slopesOfTokenLoss(e, row, wanted);
        else if (own.logProb)
          slopes.logProb = own.logProb[row];
        factor += slopes.logProb;
        if (job.gradient.rowScale) {
          // Under dft it has the label's probability, which is as exact as its logarithm.
          const Real relative = 1e-12L + (job.tokenLoss.constants.dft ? 2 * step : 0);
          report.near(e.rowScale[row], factor, fabsl(factor) * relative + 1e-320L, "rowScale", row);
          const bool isPlain = !e.plainWeights.empty() && e.plainWeights[row] != 0;
          const bool isKnown = job.hasTokenLoss || own.logProb;
          factor = (isKnown ? e.rowScale[row] != 0 : weight != 0 || isPlain) ? 1 : 0;
        }
        const bool plain =
            tokens.capScale == 0 && !job.hasTokenLoss && !own.logSumExp && !own.entropy && !own.meanLogit;
        if (plain || factor != factor) {
          compareGradient(e, outRows, out, row, wanted, factor, report);
        } else {
          slopes.logProb = double(factor);
          if (own.logSumExp && !job.hasTokenLoss) slopes.logSumExp = own.logSumExp[row];
          if (own.entropy) slopes.entropy = own.entropy[row];
          if (own.meanLogit && !job.hasTokenLoss) slopes.meanLogit = own.meanLogit[row];
          compareDerivatives(e, out, row, logits[row], slopes, offSlopeOfTotal(e, row, wanted), report);
        }
      }
    }
    const int64_t count = tokens.counts[s];
    if (count == 0) sum = tokens.emptyLogProb;
    if (count > 0 && tokens.average) {
      sum /= count;
      bound /= count;
    }
    report.near(e.logProbs[s], sum, bound, "logProbs", s);
  }
  if (job.hasLoss) compareLoss(e, report);
  if (job.hasUnpairedLoss) compareUnpairedLoss(e, report);

  // Nothing else was written: all of the logits, or what lies between their rows.
  std::vector<unsigned char> after(e.logits.memory.get(), e.logits.memory.get() + e.logits.bytes);
  if (job.hasGradient && e.inPlace) {
    const int64_t size = elementSize(rows.dtype);
    for (int64_t row = 0; row < rows.count(); ++row) {
      const int64_t start = (e.logits.first + rows.offset(row)) * size;
      std::copy_n(before.begin() + start, rows.vocab * size, after.begin() + start);
    }
  }
  report.check(before == after, "padding", 0, 0, 0);
  return report.text();
}

}  // namespace fpl
