// The fields of a job, in the order in which lib passes them: the one place in C++ where that order stands.
//
// visitFields calls its visitor once for each field. The visitors of addon/job_reader.cc and wasm/job_reader.h fill the
// fields with what lib has passed. That of field_list.h writes their names and types into a text, which the addon and
// the WebAssembly module export. lib has a visitFields of its own in job-fields.ts and makes such a text, too. It
// refuses a binary whose text differs, so a field that is missing, misplaced or of another type is found when the
// binary is loaded.
//
// A field's name is its path in Job. To add a field, add a line here and one in the same place there. A field whose
// meaning changes needs another name.
#pragma once

#include "job.h"

namespace fpl {

// A field's name, and the field.
#define FPL_FIELD(path) #path, job.path

// The methods of a visitor:
//   in(name, pointer, length), out(name, pointer, length)   an array of lib's own, which the job reads or writes;
//                                                           `length` takes its number of elements and may be left out
//   lentIn(name, pointer, onDevice), lentOut(...)           an array of the caller's, or memory on the GPU, in which
//                                                           case `onDevice` becomes true; it may be null
//   address(name, pointer)                                  memory on the GPU, or a stream
//   number(name, value)                                     a number, a truth value or an enumerator
//   number(owner, name, value)                              the same, whose name is `owner`.`name`
template <typename Visitor>
void visitRows(Visitor& visit, const char* owner, Rows& rows) {
  visit.number(owner, "dtype", rows.dtype);
  visit.number(owner, "batch", rows.batch);
  visit.number(owner, "time", rows.time);
  visit.number(owner, "vocab", rows.vocab);
  visit.number(owner, "batchStride", rows.batchStride);
  visit.number(owner, "timeStride", rows.timeStride);
}

template <typename Visitor>
void visitWeight(Visitor& visit, const char* owner, Head& head) {
  visit.number(owner, "weight.dtype", head.weight.dtype);
  visit.number(owner, "weight.rowStride", head.weight.rowStride);
  visit.number(owner, "weight.columnStride", head.weight.columnStride);
  visit.number(owner, "bias.dtype", head.bias.dtype);
}

template <typename Visitor>
void visitFields(Visitor& visit, Job& job) {
  // Settings.
  visit.number(FPL_FIELD(device));
  visit.address(FPL_FIELD(stream));
  visit.number(FPL_FIELD(threads));
  visit.number(FPL_FIELD(instructionSet));
  visit.number(FPL_FIELD(products));
  visit.number(FPL_FIELD(cancellable));

  visit.in(FPL_FIELD(tokens.targets));
  visit.number(FPL_FIELD(tokens.shard.vocab));
  visit.number(FPL_FIELD(tokens.shard.start));
  visit.in(FPL_FIELD(tokens.weights));
  visit.in(FPL_FIELD(tokens.plainWeights));
  visit.in(FPL_FIELD(tokens.offsets));
  visit.in(FPL_FIELD(tokens.counts), &job.tokens.sequences);
  visit.number(FPL_FIELD(tokens.temperature));
  visit.number(FPL_FIELD(tokens.capScale));
  visit.number(FPL_FIELD(tokens.average));
  visit.number(FPL_FIELD(tokens.emptyLogProb));
  visit.address(FPL_FIELD(labels.data));
  visit.address(FPL_FIELD(labels.mask));
  visit.number(FPL_FIELD(labels.wide));
  visit.number(FPL_FIELD(labels.ignoreIndex));
  visit.number(FPL_FIELD(labels.shift));
  visit.in(FPL_FIELD(labels.partners));
  visit.number(FPL_FIELD(labels.ldAlpha));
  visit.out(FPL_FIELD(invalidLabels));
  visit.address(FPL_FIELD(exchange.communicator));
  visit.in(FPL_FIELD(exchange.columns), &job.exchange.columnCount);
  visit.number(FPL_FIELD(exchange.merges));

  // Stages 1 and 2. Stage 4 takes logits, head and states of the policy's forward.
  visit.lentIn(FPL_FIELD(policy.logits.data), &job.policy.logits.onDevice);
  visitRows(visit, FPL_FIELD(policy.logits));
  visit.out(FPL_FIELD(policy.states));
  visit.out(FPL_FIELD(policy.entropies));
  visit.number(FPL_FIELD(policy.swept));
  visit.out(FPL_FIELD(policy.logProbs));
  visit.out(FPL_FIELD(policy.logWeights));
  visit.out(FPL_FIELD(policy.tokenLogProbs));
  visit.out(FPL_FIELD(policy.tokenEntropies));
  visit.out(FPL_FIELD(policy.tokenArgmax));
  visit.out(FPL_FIELD(policy.logSumExp));
  visit.out(FPL_FIELD(policy.sumSquaredProbs));
  visit.out(FPL_FIELD(policy.tokenMeanLogits));
  visit.in(FPL_FIELD(policy.segments.bounds), &job.policy.segments.boundCount);
  visit.number(FPL_FIELD(policy.segments.count));
  visit.out(FPL_FIELD(policy.segments.states));
  visit.out(FPL_FIELD(policy.segments.labelLogits));
  visit.out(FPL_FIELD(policy.segments.keptLogits), &job.policy.segments.keptWords);
  visit.lentIn(FPL_FIELD(policy.head.hidden.data), &job.policy.head.hidden.onDevice);
  visitRows(visit, FPL_FIELD(policy.head.hidden));
  visit.lentIn(FPL_FIELD(policy.head.weight.data), &job.policy.head.weight.onDevice);
  visit.lentIn(FPL_FIELD(policy.head.bias.data), nullptr);
  visitWeight(visit, FPL_FIELD(policy.head));
  visit.lentIn(FPL_FIELD(reference.logits.data), &job.reference.logits.onDevice);
  visitRows(visit, FPL_FIELD(reference.logits));
  visit.out(FPL_FIELD(reference.states));
  visit.number(FPL_FIELD(reference.swept));
  visit.out(FPL_FIELD(reference.logProbs));
  visit.in(FPL_FIELD(reference.segments.bounds), &job.reference.segments.boundCount);
  visit.number(FPL_FIELD(reference.segments.count));
  visit.out(FPL_FIELD(reference.segments.states));
  visit.out(FPL_FIELD(reference.segments.labelLogits));
  visit.lentIn(FPL_FIELD(reference.head.hidden.data), &job.reference.head.hidden.onDevice);
  visitRows(visit, FPL_FIELD(reference.head.hidden));
  visit.lentIn(FPL_FIELD(reference.head.weight.data), &job.reference.head.weight.onDevice);
  visit.lentIn(FPL_FIELD(reference.head.bias.data), nullptr);
  visitWeight(visit, FPL_FIELD(reference.head));

  // Stage 3.
  visit.in(FPL_FIELD(loss.pairs));
  visit.in(FPL_FIELD(loss.chosenTokenCounts));
  visit.in(FPL_FIELD(loss.rejectedTokenCounts));
  visit.out(FPL_FIELD(loss.chosen), &job.loss.pairCount);
  visit.out(FPL_FIELD(loss.rejected));
  visit.out(FPL_FIELD(loss.referenceChosen));
  visit.out(FPL_FIELD(loss.referenceRejected));
  visit.in(FPL_FIELD(loss.pairWeights));
  visit.out(FPL_FIELD(loss.losses));
  visit.out(FPL_FIELD(loss.chosenRewards));
  visit.out(FPL_FIELD(loss.rejectedRewards));
  visit.out(FPL_FIELD(loss.gradChosen));
  visit.out(FPL_FIELD(loss.gradRejected));
  visit.out(FPL_FIELD(loss.summary));
  visit.number(FPL_FIELD(loss.constants.beta));
  visit.number(FPL_FIELD(loss.constants.offset));
  visit.number(FPL_FIELD(loss.constants.gamma));
  visit.number(FPL_FIELD(loss.constants.rewardShift));
  visit.number(FPL_FIELD(loss.constants.targetMargin));
  visit.number(FPL_FIELD(loss.constants.dpopLambda));
  visit.number(FPL_FIELD(loss.constants.discopopTau));
  visit.number(FPL_FIELD(loss.constants.alpha));
  visit.number(FPL_FIELD(loss.constants.rewardAlpha));
  visit.number(FPL_FIELD(loss.constants.sftNormalization));
  visit.number(FPL_FIELD(loss.constants.divergence));
  visit.number(FPL_FIELD(loss.constants.average));
  visit.number(FPL_FIELD(loss.constants.pairDivisor));
  visit.number(FPL_FIELD(loss.constants.tokenDivisor));
  visit.number(FPL_FIELD(loss.constants.gradientScale));
  visit.in(FPL_FIELD(loss.pairConstants.beta));
  visit.in(FPL_FIELD(loss.pairConstants.labelSmoothing));
  visit.in(FPL_FIELD(loss.pairConstants.offset));
  visit.in(FPL_FIELD(loss.pairConstants.targetMargin));
  // Or that of single sequences.
  visit.number(FPL_FIELD(unpairedLoss.type));
  visit.in(FPL_FIELD(unpairedLoss.desirable), &job.unpairedLoss.count);
  visit.in(FPL_FIELD(unpairedLoss.weights));
  visit.in(FPL_FIELD(unpairedLoss.betas));
  visit.in(FPL_FIELD(unpairedLoss.targets));
  visit.in(FPL_FIELD(unpairedLoss.logProbs));
  visit.in(FPL_FIELD(unpairedLoss.referenceLogProbs));
  visit.out(FPL_FIELD(unpairedLoss.losses));
  visit.out(FPL_FIELD(unpairedLoss.rewards));
  visit.out(FPL_FIELD(unpairedLoss.gradient));
  visit.out(FPL_FIELD(unpairedLoss.summary));
  visit.number(FPL_FIELD(unpairedLoss.constants.beta));
  visit.number(FPL_FIELD(unpairedLoss.constants.desirableWeight));
  visit.number(FPL_FIELD(unpairedLoss.constants.undesirableWeight));
  visit.number(FPL_FIELD(unpairedLoss.constants.kl));
  visit.number(FPL_FIELD(unpairedLoss.constants.rewardShift));
  visit.number(FPL_FIELD(unpairedLoss.constants.divisor));
  visit.number(FPL_FIELD(unpairedLoss.constants.gradientScale));
  // Of either, log-probs that are on the device.
  visit.address(FPL_FIELD(given.chosen.data));
  visit.number(FPL_FIELD(given.chosen.wide));
  visit.address(FPL_FIELD(given.rejected.data));
  visit.number(FPL_FIELD(given.rejected.wide));
  visit.address(FPL_FIELD(given.referenceChosen.data));
  visit.number(FPL_FIELD(given.referenceChosen.wide));
  visit.address(FPL_FIELD(given.referenceRejected.data));
  visit.number(FPL_FIELD(given.referenceRejected.wide));
  visit.address(FPL_FIELD(given.logProbs.data));
  visit.number(FPL_FIELD(given.logProbs.wide));
  visit.address(FPL_FIELD(given.referenceLogProbs.data));
  visit.number(FPL_FIELD(given.referenceLogProbs.wide));

  // Stage 3 of single tokens.
  visit.in(FPL_FIELD(tokenLoss.weightsOfLabels));
  visit.out(FPL_FIELD(tokenLoss.losses));
  visit.out(FPL_FIELD(tokenLoss.summary));
  visit.number(FPL_FIELD(tokenLoss.constants.labelSmoothing));
  visit.number(FPL_FIELD(tokenLoss.constants.zLoss));
  visit.number(FPL_FIELD(tokenLoss.constants.dft));
  visit.in(FPL_FIELD(tokenLoss.classWeights));
  visit.number(FPL_FIELD(tokenLoss.constants.meanClassWeight));
  visit.number(FPL_FIELD(tokenLoss.divisor));
  visit.number(FPL_FIELD(tokenLoss.gradientScale));

  // Stage 4.
  visit.out(FPL_FIELD(gradient.coefficients));
  visit.out(FPL_FIELD(gradient.plainCoefficients));
  visit.number(FPL_FIELD(gradient.skipInactive));
  visit.in(FPL_FIELD(gradient.tokenCoefficients.logProb));
  visit.in(FPL_FIELD(gradient.tokenCoefficients.logSumExp));
  visit.in(FPL_FIELD(gradient.tokenCoefficients.entropy));
  visit.in(FPL_FIELD(gradient.tokenCoefficients.meanLogit));
  visit.lentOut(FPL_FIELD(gradient.out.data), &job.gradient.out.onDevice);
  visitRows(visit, FPL_FIELD(gradient.out));
  visit.out(FPL_FIELD(gradient.rowScale));
  visit.lentOut(FPL_FIELD(headGradient.hidden), &job.headGradient.onDevice);
  visit.lentOut(FPL_FIELD(headGradient.weight), &job.headGradient.onDevice);
  visit.lentOut(FPL_FIELD(headGradient.bias), &job.headGradient.onDevice);
  visit.number(FPL_FIELD(headGradient.dtype));
  visit.number(FPL_FIELD(headGradient.precision));
  visit.number(FPL_FIELD(headGradient.accumulate));
  visit.number(FPL_FIELD(headGradient.logitsBudget));
  visit.number(FPL_FIELD(headGradient.sharesHidden));

  // The terms of the loss come last, as their number varies.
  visit.number(FPL_FIELD(loss.terms.count));
  for (int32_t i = 0; i < job.loss.terms.count; ++i) {
    LossTerm& term = job.loss.terms.list[i];
    visit.number("loss.terms", "type", term.type);
    visit.number("loss.terms", "weight", term.weight);
    visit.number("loss.terms", "labelSmoothing", term.labelSmoothing);
  }
}

#undef FPL_FIELD

// What follows from the fields: which stages the job has, and what one stage takes from another.
inline void connectStages(Job& job) {
  const Forward& policy = job.policy;
  job.hasPolicy = policy.logProbs != nullptr;
  job.hasReference = job.reference.logProbs != nullptr;
  job.hasLoss = job.loss.summary != nullptr;
  job.hasTokenLoss = job.tokenLoss.summary != nullptr;
  job.hasUnpairedLoss = job.unpairedLoss.summary != nullptr;
  // Of sequences whose log-probs are computed here, it is about these.
  if (job.hasPolicy) job.unpairedLoss.logProbs = policy.logProbs;
  if (job.hasReference) job.unpairedLoss.referenceLogProbs = job.reference.logProbs;

  // The gradient is that of the policy's logits, from the states its forward has left or leaves.
  Gradient& gradient = job.gradient;
  HeadGradient& headGradient = job.headGradient;
  gradient.logits = headGradient.logits = policy.logits;
  gradient.states = headGradient.states = policy.states;
  headGradient.head = policy.head;
  gradient.entropies = headGradient.entropies = policy.entropies;
  headGradient.coefficients = gradient.coefficients;
  headGradient.plainCoefficients = gradient.plainCoefficients;
  headGradient.tokenCoefficients = gradient.tokenCoefficients;
  headGradient.skipInactive = gradient.skipInactive;
  job.hasHeadGradient = policy.head.present() && gradient.coefficients;
  job.hasGradient = !policy.head.present() && gradient.coefficients;
}

}  // namespace fpl
