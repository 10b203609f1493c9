// The losses of single sequences, each of which is desirable or is not: one entry a loss, its formula and its
// derivative side by side, float64, for the CPU and for CUDA.
//
// Letters: x = log π - log ρ of the sequence; y = 1 where it is desirable, -1 where not. Names are TRL's where TRL has
// the loss.
#pragma once

#include "losses.h"

namespace fpl {

struct UnpairedLossConstants {
  double beta, desirableWeight, undesirableWeight;
  double kl;                 // κ of kto
  double rewardShift;        // δ of bco
  double target;             // of regression
  double divisor;            // what the sum over sequences is divided by
  double gradientScale = 1;  // factor of the derivatives
};

// σ(-z) = 1 - σ(z), and its derivative.
FPL_HD inline Term shortfall(double z) {
  const double left = sigmoid(-z);
  return {left, -sigmoid(z) * left};
}

namespace unpaired_loss {

// KTO, Ethayarajh et al. 2024: the value of a gain or a loss of reward as people see it, against κ, which has no
// gradient.
FPL_HD inline Term kto(double x, double y, const UnpairedLossConstants& k) {
  const Term f = shortfall(y * k.beta * (x - k.kl));
  return {f.value, y * k.beta * f.slope};
}

// APO-zero of single sequences, D'Oosterlinck et al. 2024: the same against 0.
FPL_HD inline Term apo_zero_unpaired(double x, double y, const UnpairedLossConstants& k) {
  const Term f = shortfall(y * k.beta * x);
  return {f.value, y * k.beta * f.slope};
}

// BCO, Jung et al. 2024: a binary classifier whose logit is the reward, shifted by δ.
FPL_HD inline Term bco(double x, double y, const UnpairedLossConstants& k) {
  const Term f = logSigmoid(y * (k.beta * x - k.rewardShift));
  return {-f.value, -y * k.beta * f.slope};
}

// The reward is regressed to a target, whether the sequence is desirable or not: SPPO, Wu et al. 2024, and A*-PO,
// Brantley et al. 2025.
FPL_HD inline Term regression(double x, double, const UnpairedLossConstants& k) {
  const double gap = k.beta * x - k.target;
  return {gap * gap, 2 * k.beta * gap};
}

}  // namespace unpaired_loss

// Every loss once: this list makes the enumeration, the names and the dispatch.
#define FPL_UNPAIRED_LOSSES(X) \
  X(kto)                       \
  X(apo_zero_unpaired)         \
  X(bco)                       \
  X(regression)

enum class UnpairedLossType : int32_t {
#define FPL_ENTRY(name) name,
  FPL_UNPAIRED_LOSSES(FPL_ENTRY)
#undef FPL_ENTRY
};

constexpr const char* kUnpairedLossNames[] = {
#define FPL_ENTRY(name) #name,
    FPL_UNPAIRED_LOSSES(FPL_ENTRY)
#undef FPL_ENTRY
};
constexpr int32_t kUnpairedLossCount = int32_t(sizeof kUnpairedLossNames / sizeof kUnpairedLossNames[0]);

// The loss and its derivative with respect to x.
FPL_HD inline Term evaluate(UnpairedLossType type, double x, bool desirable, const UnpairedLossConstants& constants) {
  const double y = desirable ? 1 : -1;
  switch (type) {
#define FPL_ENTRY(name)        \
  case UnpairedLossType::name: \
    return unpaired_loss::name(x, y, constants);
    FPL_UNPAIRED_LOSSES(FPL_ENTRY)
#undef FPL_ENTRY
  }
  return {NAN, NAN};
}

}  // namespace fpl
