#!/usr/bin/env python3
"""Writes the golden cases: what PyTorch says, in float64, about the losses and their gradients.

    python3 test/golden/generate.py

needs numpy and torch and writes the .jsonl files beside itself, one case a line (the first line of losses.jsonl holds
the inputs its cases share); golden.test.ts reads them. The oracle is the code everyone writes: log_softmax, gather,
mask, sum, the formula of the loss, backward(). No derivative is written down here. Logits are not stored:
`generate_bits` and its twin in inputs.ts make the same bits from a seed, and each case holds a checksum of them.
"""

import itertools
import json
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)

HERE = pathlib.Path(__file__).parent

# Bounds of single tokens, which golden.test.ts checks; here they are propagated to sums, losses and coefficients.
TOKEN_ULPS = 2
SUM_SQUARES_RELATIVE = 1e-6
STAGE3_RELATIVE = 1e-12
# The propagation is of first order; the bounds it starts from are about 1e-6.
HIGHER_ORDERS = 1.001

WHOLE_GRADIENT = 260
SAMPLED_GRADIENT = 64

# --- inputs: the twin of inputs.ts ---------------------------------------------------------------------------------


def mix(x):
    """Scrambles 32-bit words."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def generate_bits(spec):
    """The elements of a tensor as it is stored: float32, or the bits of a 16-bit type."""
    index = np.arange(spec['length'], dtype=np.uint32)
    key = mix(np.array([spec['seed']], dtype=np.uint32))
    first = mix(index * np.uint32(0x9E3779B9) + key)
    second = mix(first ^ np.uint32(0x85EBCA6B))
    low, high = np.uint32(0xFFFF), np.uint32(16)
    total = ((first & low) + (first >> high) + (second & low) + (second >> high)).astype(np.float64) - 131070
    # Four uniform numbers have the variance 4 / 12.
    values = spec['mean'] + total * (spec['std'] * (math.sqrt(3) / 65536))
    if 'holes' in spec:
        values[first % np.uint32(spec['holes']) == 0] = -np.inf
    for at, value in spec.get('set', []):
        values[at] = value
    return encode(values, spec['dtype'])


def encode(values, dtype):
    """Rounds to float32, then once more to a 16-bit type, whose bits it returns."""
    single = values.astype(np.float32)
    if dtype == 'float32':
        return single
    if dtype == 'float16':
        return single.astype(np.float16).view(np.uint16)
    bits = single.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def decode(stored, dtype):
    """The numbers that are stored, exactly."""
    if dtype == 'float32':
        return stored.astype(np.float64)
    if dtype == 'float16':
        return stored.view(np.float16).astype(np.float64)
    return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def checksum(stored):
    """A 32-bit word that depends on every bit and on its place."""
    words = stored.view(np.uint32) if stored.dtype == np.float32 else stored.astype(np.uint32)
    places = np.arange(len(words), dtype=np.uint32) * np.uint32(0x9E3779B9)
    return int(np.sum(mix(words + places), dtype=np.uint32))


def tensor_spec(dtype, shape, seed, std=2.5, mean=0.0, pad=(0, 0), **more):
    """Describes logits; `pad` adds elements after each row and after each sequence."""
    *outer, time, vocab = shape
    time_stride = vocab + pad[0]
    batch_stride = time * time_stride + pad[1]
    spec = {'dtype': dtype, 'shape': list(shape), 'seed': seed, 'std': std, 'mean': mean}
    if pad != (0, 0):
        spec['strides'] = ([batch_stride] if outer else []) + [time_stride, 1]
    spec['length'] = batch_stride * (outer[0] if outer else 1)
    spec.update(more)
    return spec


def row_start(spec, row):
    """Where a row starts in the storage; rows are counted over all sequences."""
    *outer, time, vocab = spec['shape']
    strides = spec.get('strides', [time * vocab, vocab, 1])
    return (row // time * strides[0] if outer else 0) + row % time * strides[-2]


def load(spec):
    """The logits as [rows, vocab] of float64; adds the checksum to the spec."""
    stored = generate_bits(spec)
    spec['checksum'] = checksum(stored)
    values = decode(stored, spec['dtype'])
    vocab = spec['shape'][-1]
    starts = [row_start(spec, row) for row in range(math.prod(spec['shape'][:-1]))]
    return np.stack([values[start : start + vocab] for start in starts])


# --- the oracle: tokens and sequences ------------------------------------------------------------------------------


def label_log_probs(logits, labels):
    """log p(label) of each row.

    Where p(label) is nearly 1, the autograd of log_softmax computes 1 - p and little is left even of float64; the same
    quantity as -log(1 + e^(logsumexp of the others - label's logit)) keeps all digits.
    """
    plain = F.log_softmax(logits, -1).gather(-1, labels[:, None])[:, 0]
    label = logits.gather(-1, labels[:, None])[:, 0]
    others = logits.scatter(-1, labels[:, None], -1e30).logsumexp(-1)
    return torch.where(plain > -0.01, -torch.logaddexp(torch.zeros(()), others - label), plain)


def pairs_of(options, sequences):
    """[P, 2] chosen and rejected sequence of each pair."""
    if 'pairs' in options:
        return np.array(options['pairs']).reshape(-1, 2)
    return np.stack([np.arange(sequences // 2), np.arange(sequences // 2, sequences)], 1)


def split(case):
    """For each sequence the rows of its logits, its labels, and which count with what weight, all per label."""
    shape, options = case['logits']['shape'], case['options']
    time = shape[-2]
    offsets = options.get('sequenceOffsets') or [time * b for b in range(shape[0] + 1)]
    labels = np.array(case['labels'])
    active = labels != options.get('ignoreIndex', -100)
    if 'mask' in options:
        active &= np.array(options['mask'], dtype=bool)
    weights = np.array(options.get('tokenWeights', np.ones(len(labels))), dtype=np.float64)
    shift = 1 if options.get('shift', True) else 0
    parts = []
    for first, end in zip(offsets, offsets[1:]):
        places = slice(first + shift, end)
        parts.append(
            {
                'rows': slice(first, end - shift),
                'end': end,
                'labels': torch.tensor(np.where(active[places], labels[places], 0)),
                'active': torch.tensor(active[places]),
                'weights': torch.tensor(weights[places]),
                'plainWeights': torch.tensor(weights[places]),
            }
        )
    alpha = options.get('ldAlpha', 1)
    if alpha != 1:
        for pair in pairs_of(options, len(parts)):
            both = [parts[s] for s in pair]
            shorter = min(int(part['active'].sum()) for part in both)
            for part in both:
                rank = part['active'].cumsum(0) - 1
                part['weights'] = torch.where(part['active'] & (rank >= shorter), alpha, 1.0) * part['weights']
    return parts


def forward(case, logits):
    """Log-prob of each sequence, and everything about its tokens. `logits` is [rows, vocab].

    Plain log-probs are those without ldAlpha, which TRL's sft knows nothing of.
    """
    options = case['options']
    average = options.get('averageLogProb', False)
    empty = math.nan if options.get('emptySequence') == 'nan' else 0.0
    sums, plain_sums, counts, bounds, plain_bounds, log_weights, log_weight_bounds, tokens = ([] for _ in range(8))
    for part in split(case):
        active, weights, plain_weights = part['active'], part['weights'], part['plainWeights']
        scaled = logits[part['rows']] / options.get('temperature', 1)
        log_probs = torch.where(active, label_log_probs(scaled, part['labels']), 0.0)
        count = int(active.sum())
        for into, factors in ((sums, weights), (plain_sums, plain_weights)):
            total = (factors * log_probs).sum()
            into.append(torch.tensor(empty) if count == 0 else total / count if average else total)
        counts.append(count)

        # Everything from here is about values and how far they may be off, not about gradients.
        scaled, log_probs = scaled.detach(), log_probs.detach()
        token_bounds = torch.where(active, TOKEN_ULPS * ulp(log_probs.abs().clamp(min=1)), 0.0)
        for into, factors in ((bounds, weights), (plain_bounds, plain_weights)):
            bound = (factors.abs() * token_bounds).sum().item()
            into.append(bound / count if average and count else bound)
        probs = F.softmax(scaled, -1)
        squares = (probs**2).sum(-1)
        log_squares = torch.where(active, squares.log(), 0.0)
        log_weights.append(((log_probs - log_squares).sum() / max(count, 1)).item())
        log_weight_bounds.append((token_bounds.sum().item() + count * SUM_SQUARES_RELATIVE) / max(count, 1))
        results = {
            'tokenLogProbs': log_probs,
            'tokenEntropies': torch.special.entr(probs).sum(-1),
            'logSumExp': scaled.logsumexp(-1),
            'sumSquaredProbs': squares,
        }
        results = {name: torch.where(active, value, 0.0).tolist() for name, value in results.items()}
        # numpy's argmax, unlike torch's, is the first among equals.
        results['tokenArgmax'] = np.where(active.numpy(), scaled.numpy().argmax(-1), -1).tolist()
        if 'sequenceOffsets' in options and options.get('shift', True):
            for name, values in results.items():
                values.append(-1 if name == 'tokenArgmax' else 0.0)
        tokens.append(results)
    return {
        'logProbs': torch.stack(sums),
        'tokenCounts': counts,
        'plainLogProbs': torch.stack(plain_sums),
        'bounds': bounds,
        'plainBounds': plain_bounds,
        'logWeights': log_weights,
        'logWeightBounds': log_weight_bounds,
        'tokens': {name: sum((part[name] for part in tokens), []) for name in tokens[0]},
    }


def ulp(x):
    """Spacing of the float32 numbers at x."""
    return torch.tensor(np.spacing(np.abs(x.numpy()).astype(np.float32)).astype(np.float64))


# --- the oracle: losses --------------------------------------------------------------------------------------------

WITH_DIVERGENCE = ['sigmoid', 'sigmoid_norm', 'hinge', 'ipo', 'exo_pair', 'robust', 'discopop', 'ipo_norm']
WITHOUT_REFERENCE = ['simpo', 'cpo', 'orpo', 'sft']
LOSS_TYPES = (
    'sigmoid robust hinge ipo ipo_reward exo_pair nca_pair bco_pair sppo_hard apo_zero apo_down aot aot_unpaired '
    'discopop sigmoid_norm simpo cpo orpo sft ipo_norm'
).split()

# Added later, and so drawn later.
AIMED = ['rpo_sq', 'rpo_bwd_kl', 'rpo_fwd_kl']
LATER_LOSS_TYPES = ['dpop', *AIMED]
SMOOTHED = ['sigmoid', 'robust', 'exo_pair', 'aot', 'aot_unpaired', 'simpo', 'cpo']
WITH_OFFSET = [*SMOOTHED, 'hinge', 'discopop', 'sigmoid_norm', 'dpop']
WITH_REWARD_ALPHA = ['hinge', 'ipo', 'ipo_norm', 'simpo', 'cpo']

ls = F.logsigmoid


def sigma(x):
    """The sigmoid, such that autograd keeps the digits where it is nearly 1."""
    return ls(x).exp()


def log1mexp(x):
    return torch.log(-torch.expm1(x))


def smoothed(z, epsilon):
    return -(1 - epsilon) * ls(z) - epsilon * ls(-z)


def divided_score(x, n, options):
    """TRL's: the score of a sequence's log-ratio over its length. Means are made sums first."""
    return score(x * n if options.get('averageLogProb', False) else x, options) / n


def mean_log_odds(log_prob, n, no_token):
    """log p / (1 - p) of a mean log-prob; where there is nothing to be the mean of, the odds are even."""
    mean = torch.where(no_token, -math.log(2), log_prob / n)
    return mean - log1mexp(mean)


def divisors(loss_type, options):
    """What sums over pairs and sums over tokens are divided by; None for the batch's own numbers."""
    normalizer = options.get('normalizer', 'mean')
    if normalizer == 'mean':
        return None, None
    if normalizer == 'sum':
        return 1, 1
    if isinstance(normalizer, dict):
        return normalizer.get('pairs'), normalizer.get('tokens')
    of_tokens = loss_type == 'sft' and options.get('sftNormalization', 'tokens') == 'tokens'
    return (None, normalizer) if of_tokens else (normalizer, None)


def per_pair(value):
    """A number for all pairs, or a tensor of one for each."""
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value


def powered(x, options):
    """AlphaPO's reward of a log-prob, (1 - p^-α) / α."""
    alpha = options.get('rewardAlpha', 0)
    return x if alpha == 0 else (1 - torch.exp(x) ** -alpha) / alpha


def entropy_term(log_p, log_q):
    """p log(p / q)"""
    return log_p.exp() * (log_p - log_q)


def score(x, options):
    divergence = options.get('fDivergence', 'reverse_kl')
    alpha = options.get('alpha', 0.5)
    if divergence == 'forward_kl':
        return -torch.exp(-x)
    if divergence == 'js':
        return ls(x)
    if divergence == 'alpha' and alpha != 1:
        return torch.exp((alpha - 1) * x) / (alpha - 1)
    return x


def one_loss(loss_type, policy, reference, lengths, options):
    """[P] losses. policy and reference are (chosen, rejected) log-probs, lengths their numbers of active tokens."""
    beta = per_pair(options.get('beta', 0.1))
    epsilon = per_pair(options.get('labelSmoothing', 1e-3 if loss_type == 'exo_pair' else 0))
    offset = per_pair(options.get('offset', 0))
    average = options.get('averageLogProb', False)
    (pi_w, pi_l), (rho_w, rho_l) = policy, reference
    c, r = pi_w - rho_w, pi_l - rho_l
    n_w, n_l = (1, 1) if average or lengths is None else lengths
    whole = [n.clamp(min=1) for n in lengths] if lengths is not None else (1, 1)
    z = beta * (score(c, options) - score(r, options)) - offset
    if options.get('rewardAlpha', 0) != 0:
        z = beta * (powered(pi_w, options) - powered(pi_l, options)) - offset

    if loss_type == 'sigmoid':
        return smoothed(z, epsilon)
    if loss_type == 'robust':
        # [-(1 - ε) ls(z) + ε ls(-z)] / (1 - 2 ε), with ls(-z) = ls(z) - z: of that, little would be left near 1/2.
        return -ls(z) - epsilon / (1 - 2 * epsilon) * z
    if loss_type == 'hinge':
        away_from(z, 1)
        return torch.relu(1 - z)
    if loss_type in ('ipo', 'ipo_norm') and options.get('rewardAlpha', 0) != 0:
        n_w, n_l = whole if loss_type == 'ipo_norm' and not average else (1, 1)
        return (powered(pi_w / n_w, options) - powered(pi_l / n_l, options) - 1 / (2 * beta)) ** 2
    if loss_type == 'ipo_norm' or (loss_type == 'ipo' and average):
        return (divided_score(c, whole[0], options) - divided_score(r, whole[1], options) - 1 / (2 * beta)) ** 2
    if loss_type == 'ipo':
        return (score(c, options) - score(r, options) - 1 / (2 * beta)) ** 2
    if loss_type == 'ipo_reward':
        return (beta * (c - r) - 1 / beta) ** 2
    if loss_type == 'exo_pair':
        label = torch.as_tensor(epsilon)
        return sigma(z) * (ls(z) - torch.log1p(-label)) + sigma(-z) * (ls(-z) - torch.log(label))
    if loss_type == 'nca_pair':
        return -ls(beta * c) - 0.5 * ls(-beta * c) - 0.5 * ls(-beta * r)
    if loss_type == 'bco_pair':
        delta = options.get('rewardShift', 0)
        return -ls(beta * c - delta) - ls(-(beta * r - delta))
    if loss_type == 'sppo_hard':
        return (c - 1 / (2 * beta)) ** 2 + (r + 1 / (2 * beta)) ** 2
    if loss_type == 'apo_zero':
        return sigma(-beta * c) + sigma(beta * r)
    if loss_type == 'apo_down':
        return sigma(beta * c) + sigma(-beta * (c - r))
    if loss_type in ('aot', 'aot_unpaired'):
        upper, lower = (pi_w - pi_l, rho_w - rho_l) if loss_type == 'aot' else (c, r)
        away_from(upper[:, None] - upper + 1e9 * torch.eye(len(upper)), 0)
        upper, pair = upper.sort()
        # Constants are those of the pair of the upper value.
        beta, offset, epsilon = (x[pair] if torch.is_tensor(x) else x for x in (beta, offset, epsilon))
        losses = smoothed(beta * (upper - lower.sort()[0]) - offset, epsilon)
        return torch.zeros(len(losses)).scatter(0, pair, losses)
    if loss_type == 'discopop':
        tau = options.get('discopopTau', 0.05)
        # e^-z m as one exponential: m may be 0 where e^-z overflows.
        return -ls(z) * sigma(-z / tau) + torch.exp(-z + ls(z / tau))
    if loss_type == 'sigmoid_norm':
        return -ls(beta * (divided_score(c, whole[0], options) - divided_score(r, whole[1], options)) - offset)
    if loss_type == 'dpop':
        away_from(c, 0)
        return -ls(beta * (c - r - options.get('dpopLambda', 50) * torch.relu(-c)) - offset)
    if loss_type in AIMED:
        z, target = beta * (c - r), torch.as_tensor(per_pair(options['targetMargin']), dtype=torch.float64)
        if loss_type == 'rpo_sq':
            return (z - target) ** 2
        p, q = (z, target) if loss_type == 'rpo_fwd_kl' else (target, z)
        return entropy_term(ls(p), ls(q)) + entropy_term(ls(-p), ls(-q))
    if loss_type == 'simpo':
        difference = powered(pi_w / n_w, options) - powered(pi_l / n_l, options)
        return smoothed(beta * difference - options.get('gamma', 0.5) - offset, epsilon)
    if loss_type == 'cpo':
        return smoothed(beta * (powered(pi_w, options) - powered(pi_l, options)) - offset, epsilon)
    if loss_type == 'orpo':
        # The sums' own divisors, with 1 for 0.
        n_w, n_l = (1, 1) if average else whole
        none = [n == 0 for n in lengths] if lengths is not None else [torch.zeros(len(pi_w), dtype=torch.bool)] * 2
        return -beta * ls(mean_log_odds(pi_w, n_w, none[0]) - mean_log_odds(pi_l, n_l, none[1]))
    if loss_type == 'sft':
        normalization = options.get('sftNormalization', 'tokens')
        if normalization == 'sequences':
            return -(pi_w if average else pi_w / whole[0])
        tokens = lengths[0] if lengths is not None else None
        if normalization == 'sum':
            return -(pi_w * tokens if average else pi_w)
        pairs, given = divisors(loss_type, options)
        scale = (pairs or len(pi_w)) / (given or tokens.sum())
        return -(pi_w * tokens if average else pi_w) * scale
    raise ValueError(loss_type)


def away_from(values, kink):
    """Refuses data at which rounding of the inputs decides the result."""
    if values.numel() and (values.detach() - kink).abs().min() < 1e-3:
        raise ValueError('too near to a kink')


def rewards_of(loss_type, policy, reference, lengths, options):
    """Rewards of the chosen and the rejected: β times what the loss compares."""
    beta, average = per_pair(options.get('beta', 0.1)), options.get('averageLogProb', False)
    n = (1, 1) if average or lengths is None else [x.clamp(min=1) for x in lengths]
    whole = (1, 1) if lengths is None else [x.clamp(min=1) for x in lengths]
    compared = []
    for i in range(2):
        of_policy, ratio = policy[i], policy[i] - reference[i]
        if loss_type in ('sigmoid_norm', 'ipo_norm') or (loss_type == 'ipo' and average):
            plain = options.get('fDivergence', 'reverse_kl') == 'reverse_kl'
            compared.append(powered(ratio / n[i], options) if plain else divided_score(ratio, whole[i], options))
        elif loss_type in ('hinge', 'ipo'):
            compared.append(powered(ratio, options))
        elif loss_type == 'cpo':
            compared.append(powered(of_policy, options))
        elif loss_type == 'simpo':
            compared.append(powered(of_policy / n[i], options))
        elif loss_type == 'orpo':
            none = lengths[i] == 0 if lengths is not None else torch.tensor(False)
            compared.append(torch.where(none, -math.log(2), of_policy / n[i]))
        else:
            compared.append(ratio)
    return [beta * x for x in compared]


def preference_loss(policy, reference, lengths, pair_weights, options, plain_chosen=None):
    """Stage 3. Every result is a tensor that knows its graph. `plain_chosen`: what sft has for the chosen log-probs."""
    loss_type = options.get('lossType', 'sigmoid')
    terms = loss_type if isinstance(loss_type, list) else [{'lossType': loss_type}]
    zeros = torch.zeros(len(policy[0]))
    if reference is None or options.get('referenceFree', False):
        reference = (zeros, zeros)
    losses = zeros
    for term in terms:
        of = (plain_chosen, policy[1]) if term['lossType'] == 'sft' and plain_chosen is not None else policy
        losses = losses + term.get('weight', 1) * one_loss(term['lossType'], of, reference, lengths, options)
    if pair_weights is not None:
        losses = losses * pair_weights
    rewards = rewards_of(terms[0]['lossType'], policy, reference, lengths, options)
    pairs, _ = divisors(loss_type, options)
    return {
        'loss': losses.sum() / (pairs or len(losses)),
        'losses': losses,
        'chosenRewards': rewards[0],
        'rejectedRewards': rewards[1],
        'accuracy': (rewards[0] > rewards[1]).double().mean(),
        'margin': (rewards[0] - rewards[1]).mean(),
    }


def both_ends(z):
    """The sigmoid, of which autograd keeps the digits where it is nearly 0 or 1, in second derivatives too."""
    return torch.where(z < 0, torch.sigmoid(z), 1 - torch.sigmoid(-z))


def unpaired_losses(logits, desirable, kl, options):
    """[S] losses of single sequences without their weights. `logits` are log π - log ρ."""
    loss_type, beta = options.get('lossType', 'kto'), per_pair(options.get('beta', 0.1))
    if loss_type == 'kto':
        # 1 - σ(z) is σ(-z).
        return torch.where(desirable, both_ends(-beta * (logits - kl)), both_ends(-beta * (kl - logits)))
    if loss_type == 'apo_zero_unpaired':
        return torch.where(desirable, both_ends(-beta * logits), both_ends(beta * logits))
    if loss_type == 'bco':
        delta = options.get('rewardShift', 0)
        # -log σ(z) is log(e^0 + e^-z).
        z = torch.where(desirable, beta * logits - delta, delta - beta * logits)
        return torch.logaddexp(torch.zeros(()), -z)
    if loss_type == 'regression':
        return (beta * logits - torch.tensor(options['targets'], dtype=torch.float64)) ** 2
    raise ValueError(loss_type)


def kl_of(options):
    """κ of kto: the batch mean of mismatched log-ratios, clamped."""
    if options.get('lossType', 'kto') != 'kto':
        return torch.tensor(0.0)
    if 'kl' in options:
        return torch.tensor(float(options['kl'])).clamp(min=0)
    policy = torch.tensor(options['klLogProbs'], dtype=torch.float64)
    reference = torch.tensor(options.get('referenceKlLogProbs', [0.0] * len(policy)), dtype=torch.float64)
    if options.get('referenceFree', False):
        reference = torch.zeros_like(reference)
    return (policy - reference).mean().clamp(min=0)


def unpaired_preference_loss(log_probs, reference, options):
    """Stage 3 of single sequences. Every result is a tensor that knows its graph."""
    desirable = torch.tensor([bool(x) for x in options['desirable']])
    if reference is None or options.get('referenceFree', False):
        reference = torch.zeros(len(log_probs))
    weights = torch.where(desirable, float(options.get('desirableWeight', 1)), float(options.get('undesirableWeight', 1)))
    kl = kl_of(options)
    weights = weights * per_pair(options.get('sequenceWeights', 1))
    losses = weights * unpaired_losses(log_probs - reference, desirable, kl, options)
    rewards = per_pair(options.get('beta', 0.1)) * (log_probs - reference)
    normalizer = options.get('normalizer', 'mean')
    if isinstance(normalizer, dict):
        normalizer = normalizer['sequences']
    divisor = {'mean': len(losses), 'sum': 1}.get(normalizer, normalizer)
    result = {'loss': losses.sum() / divisor, 'losses': losses, 'rewards': rewards, 'kl': kl}
    for kind, those in (('desirable', desirable), ('undesirable', ~desirable)):
        if those.any():
            result[f'meanRewards.{kind}'] = rewards[those].mean()
            result[f'meanLogProbs.{kind}'] = log_probs[those].mean()
    if desirable.any() and (~desirable).any():
        result['margin'] = result['meanRewards.desirable'] - result['meanRewards.undesirable']
    return result


# --- cases of each public function ---------------------------------------------------------------------------------


def loss_case(name, pairs, options, inputs):
    """preferenceLoss: inputs are exact, and so are the results but for rounding in float64."""
    lists = {key: torch.tensor(value, dtype=torch.float64) for key, value in inputs.items()}
    policy = [lists[key].requires_grad_() for key in ('chosen', 'rejected')]
    reference = [lists[key] for key in ('referenceChosen', 'referenceRejected')] if 'referenceChosen' in lists else None
    lengths = [lists[key] for key in ('chosenTokenCounts', 'rejectedTokenCounts')] if 'chosenTokenCounts' in lists else None
    result = preference_loss(policy, reference, lengths, per_pair(options.get('pairWeights')), options)
    result['loss'].backward()
    expected = {key: value.tolist() for key, value in result.items()}
    gradients = [(torch.zeros_like(x) if x.grad is None else x.grad).tolist() for x in policy]
    expected['gradient'] = {'chosen': gradients[0], 'rejected': gradients[1]}
    return {'name': name, 'pairs': pairs, 'options': options, 'expected': expected}


def unpaired_case(name, sequences, options, inputs):
    """unpairedPreferenceLoss: inputs are exact, and so are the results but for rounding in float64."""
    log_probs = torch.tensor(inputs['logProbs'], requires_grad=True)
    reference = torch.tensor(inputs['referenceLogProbs']) if 'referenceLogProbs' in inputs else None
    result = unpaired_preference_loss(log_probs, reference, options)
    result['loss'].backward()
    expected = {key: value.tolist() for key, value in result.items()}
    expected['gradient'] = log_probs.grad.tolist()
    return {'name': name, 'sequences': sequences, 'options': options, 'expected': expected}


def fused_unpaired_case(case):
    """fusedUnpairedPreferenceLoss, and how far each result may be off when every token is off by its bound."""
    options = case['options']
    logits = torch.tensor(load(case['logits']), requires_grad=True)
    policy = forward(case, logits)
    sequences = len(policy['tokenCounts'])
    reference, reference_bounds = None, torch.zeros(sequences)
    given = case.get('reference')
    if given is not None and 'logits' in given:
        result = forward(case, torch.tensor(load(given['logits'])))
        reference, reference_bounds = result['logProbs'], torch.tensor(result['bounds'])
    elif given is not None:
        # Near the policy, as a reference is, and not more digits than needed.
        drift = torch.tensor(np.random.RandomState(case['logits']['seed']).uniform(-1, 1, sequences))
        scale = 1 if options.get('averageLogProb', False) else 4
        given['logProbs'] = [min(round(x, 3), -0.001) for x in (policy['logProbs'].detach() + scale * drift).tolist()]
        reference = torch.tensor(given['logProbs'])
    unpaired_preference_loss(policy['logProbs'], reference, options)['loss'].backward()

    # Once more from the sequences' sums, for the sensitivity of every result to each of them.
    leaves = [
        policy['logProbs'].detach().requires_grad_(),
        (torch.zeros(sequences) if reference is None else reference.detach()).requires_grad_(),
    ]
    errors = [torch.tensor(policy['bounds']), reference_bounds]
    again = unpaired_preference_loss(leaves[0], leaves[1], options)
    (coefficients,) = torch.autograd.grad(again['loss'], leaves[:1], create_graph=True)
    again['gradient'], again['logProbs'] = coefficients, leaves[0] * 1

    def bound(value):
        if not value.requires_grad:
            return STAGE3_RELATIVE * float(value.abs())
        slopes = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        propagated = sum((s.abs() * e).sum() for s, e in zip(slopes, errors) if s is not None)
        return float(HIGHER_ORDERS * propagated + STAGE3_RELATIVE * value.abs())

    case['expected'] = {
        **{name: value.tolist() for name, value in again.items()},
        'tokenCounts': policy['tokenCounts'],
        'bounds': {
            name: [short(bound(x)) for x in value] if value.dim() else short(bound(value))
            for name, value in again.items()
        },
        'gradLogits': sample(logits.grad, case),
    }
    assert all(map(math.isfinite, coefficients.tolist())), case['name']
    for name in options.get('outputs', []):
        case['expected'][name] = policy['tokens'][name]
    return case


def sequence_case(case, coefficients=None):
    """sequenceLogProbs, and backward() with given coefficients."""
    logits = torch.tensor(load(case['logits']), requires_grad=True)
    result = forward(case, logits)
    sequences = len(result['tokenCounts'])
    if coefficients is None:
        coefficients = [(1.0, -0.37, 2.5e-3, -41.0, 0.6, -1.3)[i % 6] for i in range(sequences)]
    case['coefficients'] = coefficients
    torch.stack([k * x for k, x in zip(coefficients, result['logProbs'])]).sum().backward()
    case['expected'] = {
        'logProbs': result['logProbs'].tolist(),
        'logProbBounds': result['bounds'],
        'tokenCounts': result['tokenCounts'],
        **result['tokens'],
        'gradient': sample(logits.grad, case),
    }
    return case


# Bounds of the leaves of fused_case; the reference's are another forward's.
BOUNDS = ['bounds', None, 'logWeightBounds', 'plainBounds']


def fused_case(case):
    """fusedPreferenceLoss, and how far each result may be off when every token is off by its bound."""
    options = case['options']
    logits = torch.tensor(load(case['logits']), requires_grad=True)
    policy = forward(case, logits)
    sequences = len(policy['tokenCounts'])
    chosen, rejected = torch.tensor(pairs_of(options, sequences)).T
    counts = torch.tensor(policy['tokenCounts'], dtype=torch.float64)
    reference_bounds = torch.zeros(sequences)
    given = case.get('reference')
    if given is None:
        reference = None
    elif 'logits' in given:
        result = forward(case, torch.tensor(load(given['logits'])))
        reference = result['logProbs']
        reference_bounds = torch.tensor(result['bounds'])
    else:
        # Near the policy, as a reference is, and not more digits than needed.
        drift = np.random.RandomState(case['logits']['seed']).uniform(-1, 1, (2, len(chosen)))
        scale = 1 if options.get('averageLogProb', False) else 4
        ends = [(policy['logProbs'][s].detach() + scale * torch.tensor(d)) for s, d in zip((chosen, rejected), drift)]
        given['chosen'], given['rejected'] = [[round(x, 3) for x in end.tolist()] for end in ends]
        reference = None

    def evaluate(policy_sums, reference_sums, log_weights, plain_sums):
        if given is None:
            both = None
        elif 'logits' in given:
            both = (reference_sums[chosen], reference_sums[rejected])
        else:
            both = (torch.tensor(given['chosen']), torch.tensor(given['rejected']))
        weights = per_pair(options.get('pairWeights'))
        if options.get('weighting') == 'wpo':
            of_policy = torch.exp(log_weights[chosen] + log_weights[rejected])
            weights = of_policy if weights is None else weights * of_policy
        lengths = (counts[chosen], counts[rejected])
        # Without ldAlpha they are the policy's own, also to the sensitivities.
        plain = plain_sums[chosen] if 'ldAlpha' in options else None
        sums = (policy_sums[chosen], policy_sums[rejected])
        return preference_loss(sums, both, lengths, weights, options, plain)

    log_weights = torch.tensor(policy['logWeights'])
    result = evaluate(policy['logProbs'], reference, log_weights, policy['plainLogProbs'])
    result['loss'].backward()

    # Once more from the sequences' sums, for the sensitivity of every result to each of them.
    leaves = [
        policy['logProbs'].detach().requires_grad_(),
        (torch.zeros(sequences) if reference is None else reference).requires_grad_(),
        log_weights.requires_grad_(),
        policy['plainLogProbs'].detach().requires_grad_(),
    ]
    errors = [reference_bounds if i == 1 else torch.tensor(policy[name]) for i, name in enumerate(BOUNDS)]
    again = evaluate(*leaves)
    # What is left of a loss that knows nothing of ldAlpha has no derivative with respect to the sums that do.
    (coefficients,) = torch.autograd.grad(again['loss'], leaves[:1], create_graph=True, allow_unused=True)
    again['coefficients'] = torch.zeros(sequences) if coefficients is None else coefficients
    again['chosenLogProbs'], again['rejectedLogProbs'] = leaves[0][chosen], leaves[0][rejected]
    if not (policy['logProbs'][chosen] == policy['logProbs'][rejected]).any() and given != {'logits': case['logits']}:
        away_from(again['chosenRewards'] - again['rejectedRewards'], 0)
    del again['accuracy']

    def bound(value):
        if not value.requires_grad:
            return STAGE3_RELATIVE * float(value.abs())
        slopes = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        propagated = sum((s.abs() * e).sum() for s, e in zip(slopes, errors) if s is not None)
        return float(HIGHER_ORDERS * propagated + STAGE3_RELATIVE * value.abs())

    coefficients = again['coefficients'].tolist()
    case['expected'] = {
        **{name: value.tolist() for name, value in again.items()},
        'accuracy': result['accuracy'].item(),
        'tokenCounts': policy['tokenCounts'],
        'bounds': {
            name: [short(bound(x)) for x in value] if value.dim() else short(bound(value))
            for name, value in again.items()
        },
        'gradient': sample(logits.grad, case),
    }
    assert all(map(math.isfinite, coefficients)), case['name']
    for name in options.get('outputs', []):
        case['expected'][name] = policy['tokens'][name]
    return case


def short(x):
    """A bound needs three digits, rounded up."""
    return float('%.3g' % (x * 1.005))


def sample(gradient, case):
    """All of a small gradient; of a large one the places of the labels, the largest entries and some others."""
    flat = gradient.reshape(-1).numpy()
    if len(flat) <= WHOLE_GRADIENT:
        return {'values': flat.tolist()}
    vocab = gradient.shape[1]
    labels = []
    for part in split(case):
        rows = np.arange(part['rows'].start, part['rows'].stop)[part['active'].numpy()]
        labels += (rows * vocab + part['labels'].numpy()[part['active'].numpy()]).tolist()
    random = np.random.RandomState(case['logits']['seed'])
    if len(labels) > 24:
        labels = random.choice(labels, 24, replace=False).tolist()
    largest = np.argpartition(-np.abs(flat), 24)[:24].tolist()
    places = set(labels) | set(largest) | {0, len(flat) - 1}
    while len(places) < SAMPLED_GRADIENT:
        places.add(int(random.randint(len(flat))))
    places = sorted(places)
    return {'at': places, 'values': flat[places].tolist()}


# --- the list of cases ---------------------------------------------------------------------------------------------


def draw_labels(seed, lengths, vocab, ignore=-100):
    """Random labels; a prompt of random length and some single tokens are ignored, but never all of a sequence."""
    random = np.random.RandomState(seed)
    labels = []
    for length in lengths:
        sequence = random.randint(0, vocab, length)
        sequence = np.where(random.rand(length) < 0.1, ignore, sequence)
        if length > 3:
            sequence[: random.randint(0, length - 2)] = ignore
        sequence[-1] = random.randint(vocab)
        labels += sequence.tolist()
    return labels


def build(name, shape, seed, options=None, dtype='float32', ignore=-100, labels=None, lift=None, **more):
    """A case; `lift` sets the logits of labels above all others by these amounts, None leaving one as it is."""
    options = dict(options or {})
    reference = more.pop('reference', None)
    int64 = more.pop('int64', False)
    spec = tensor_spec(dtype, shape, seed, **more)
    if 'sequenceOffsets' in options:
        lengths = np.diff(options['sequenceOffsets']).tolist()
    else:
        lengths = [shape[1]] * shape[0]
    case = {
        'name': name,
        'logits': spec,
        'labels': labels if labels is not None else draw_labels(seed, lengths, shape[-1], ignore),
        'options': options,
    }
    if int64:
        case['int64'] = True
    if lift is not None:
        amounts = itertools.cycle(lift)
        top = spec['mean'] + 3.5 * spec['std']
        spec['set'] = []
        for part in split(case):
            for row, label, active in zip(range(part['rows'].start, part['rows'].stop), part['labels'], part['active']):
                amount = next(amounts) if active else None
                if amount is not None:
                    spec['set'].append([row_start(spec, row) + int(label), top + amount])
    if reference is not None:
        case['reference'] = reference
    return case


# The first sequence and the last of four have no token: each pair one.
EMPTY_LABELS = [-100] * 5 + draw_labels(97, [5] * 2, 9) + [-100] * 5

VOCABULARIES = [
    *(1, 2, 3, 7, 16, 17, 31, 63, 64, 65, 127, 128, 129, 255, 1000, 1023, 1024, 1025, 4097),
    *(16384, 16385, 32000, 50257, 128256, 151936),
]
DTYPES = ['float32', 'float16', 'bfloat16']
SCALES = [0.5, 2.5, 10.0, 30.0]
MEANS = {
    'float32': [0.0, 50.0, -300.0, 1e4],
    'float16': [0.0, 50.0, -300.0, 1000.0],
    'bfloat16': [0.0, 50.0, -300.0, 1000.0],
}


def sequence_cases():
    cases = []
    seeds = itertools.count(1)

    def add(name, shape, options=None, coefficients=None, **more):
        cases.append(sequence_case(build(name, shape, next(seeds), options, **more), coefficients))

    for (i, vocab), (j, dtype) in itertools.product(enumerate(VOCABULARIES), enumerate(DTYPES)):
        time = 3 if vocab > 100000 else 5
        std = SCALES[(i + j) % 4]
        lift = [None, None, 2.0] if vocab > 1 else None
        add(f'vocab {vocab}, {dtype}, std {std}', [2, time, vocab], dtype=dtype, std=std, lift=lift)

    for dtype, std, k in itertools.product(DTYPES, SCALES, range(4)):
        mean = MEANS[dtype][k]
        vocab = [300, 1025, 2049, 4097][k]
        name = f'mean {mean}, std {std}, {dtype}, vocab {vocab}'
        add(name, [2, 5, vocab], dtype=dtype, std=std, mean=mean, lift=[None, 1.0, None])

    for dtype, vocab, std in itertools.product(DTYPES, [2, 17, 1000, 32000], [0.5, 2.5]):
        lift = [6.0, 10.0, 14.0, 18.0, 25.0, 40.0, 60.0, 85.0]
        name = f'p of the label nearly 1, {dtype}, vocab {vocab}, std {std}'
        add(name, [2, 6, vocab], {'shift': False}, dtype=dtype, std=std, lift=lift)
    for dtype in DTYPES:
        options = {'temperature': 0.7}
        add(f'p nearly 1, temperature 0.7, {dtype}', [2, 6, 500], options, dtype=dtype, std=1.0, lift=[4.0, 9.0, 20.0])

    for dtype, vocab in itertools.product(DTYPES, [9, 1500]):
        add(f'logits of -inf, {dtype}, vocab {vocab}', [2, 5, vocab], dtype=dtype, holes=3, lift=[0.0, -2.0])
        more = {'dtype': dtype, 'holes': 1, 'lift': [0.0, 7.0], 'labels': [3, 1, 8, 0, 2, 2]}
        add(f'all but the label -inf, {dtype}, vocab {vocab}', [2, 3, vocab], {'shift': False}, **more)

    for temperature, std, dtype in itertools.product([0.7, 1.3, 2], [2.5, 10.0, 30.0], DTYPES):
        name = f'temperature {temperature}, std {std}, {dtype}'
        add(name, [2, 4, 1000], {'temperature': temperature}, dtype=dtype, std=std, lift=[None, 1.0])

    random = np.random.RandomState(7)
    mask = [int(x) for x in random.rand(4 * 6) < 0.7]
    weights = (random.randint(-64, 192, 4 * 6) / 64).tolist()
    shape = [4, 6, 10]
    for shift in (True, False):
        where = f'shift {str(shift).lower()}'
        base = {'shift': shift}
        add(f'{where}', shape, base)
        add(f'{where}, averageLogProb', shape, {**base, 'averageLogProb': True})
        add(f'{where}, ignoreIndex 3', shape, {**base, 'ignoreIndex': 3}, ignore=3)
        add(f'{where}, ignoreIndex -1', shape, {**base, 'ignoreIndex': -1}, ignore=-1)
        add(f'{where}, mask', shape, {**base, 'mask': mask})
        add(f'{where}, mask of booleans', shape, {**base, 'mask': [bool(x) for x in mask]})
        add(f'{where}, tokenWeights', shape, {**base, 'tokenWeights': weights})
        everything = {**base, 'tokenWeights': weights, 'mask': mask, 'averageLogProb': True, 'temperature': 1.3}
        add(f'{where}, tokenWeights, mask, averageLogProb, temperature', shape, everything)
        add(f'{where}, ldAlpha 0.3', shape, {**base, 'ldAlpha': 0.3})
        add(f'{where}, ldAlpha 0, averageLogProb', shape, {**base, 'ldAlpha': 0, 'averageLogProb': True})
        options = {**base, 'ldAlpha': 0.5, 'pairs': [3, 0, 1, 2], 'tokenWeights': weights}
        add(f'{where}, ldAlpha 0.5, pairs, tokenWeights', shape, options)
        add(f'{where}, labels of 64 bits', shape, base, int64=True)
        packed = {**base, 'sequenceOffsets': [0, 3, 10, 12, 20]}
        add(f'{where}, packed', [20, 10], packed)
        add(f'{where}, packed, averageLogProb', [20, 10], {**packed, 'averageLogProb': True})
        add(f'{where}, packed, padded rows', [20, 10], packed, pad=(6, 0))
        add(f'{where}, packed, ldAlpha 0.4', [20, 10], {**packed, 'ldAlpha': 0.4})
        add(f'{where}, packed, one token', [4, 10], {**base, 'sequenceOffsets': [0, 1, 4]})
    for dtype in DTYPES:
        add(f'padded rows, {dtype}', [3, 4, 61], dtype=dtype, pad=(3, 0))
        add(f'padded rows and sequences, {dtype}', [3, 4, 61], dtype=dtype, pad=(67, 5))
        add(f'padded rows of a large vocabulary, {dtype}', [2, 3, 50257], dtype=dtype, pad=(47, 0))
        add(f'many tokens, {dtype}', [4, 32, 1000], dtype=dtype)
    empty = draw_labels(99, [5], 10) + [-100] * 5
    for extra in ({}, {'averageLogProb': True}, {'emptySequence': 'zero'}, {'emptySequence': 'nan'}):
        add(f'a sequence without tokens, {json.dumps(extra)}', [2, 5, 10], extra, labels=empty)
    add('coefficients of 0 and of many sizes', [6, 5, 8], None, [0.0, 1e-9, -1e6, -0.0, 3e-5, 0.1])
    coefficients = [0.0, 1e-3, -1e3, -0.0, 3e-5, 0.1]
    add('coefficients of 0 and of many sizes, float16', [6, 5, 8], None, coefficients, dtype='float16')
    return cases


RPO = [{'lossType': 'sigmoid', 'weight': 1}, {'lossType': 'sft', 'weight': 0.1}]
CPO = [{'lossType': 'cpo'}, {'lossType': 'sft', 'weight': 0.7}]
ORPO = [{'lossType': 'orpo'}, {'lossType': 'sft'}]
THREE = [
    {'lossType': 'ipo', 'weight': 0.2},
    {'lossType': 'bco_pair', 'weight': -0.5},
    {'lossType': 'simpo', 'weight': 3},
]
AOT = [{'lossType': 'aot_unpaired', 'weight': 0.4}, {'lossType': 'apo_zero'}]
NORM = [{'lossType': 'sigmoid_norm'}, {'lossType': 'sigmoid', 'weight': 0.5}]
# Pairs whose chosen, rejected, or both sequences have no token.
EMPTY = {'chosen': [1, 3], 'rejected': [2, 3], 'chosenTokenCounts': [1, 3], 'rejectedTokenCounts': [2, 3]}
LISTS = {'RPO': RPO, 'CPO + sft': CPO, 'ORPO + sft': ORPO, 'three losses': THREE, 'aot_unpaired + apo_zero': AOT}


def fused_cases():
    cases = []
    seeds = itertools.count(5001)

    def add(name, options, shape=(4, 5, 9), reference='logits', dtype='float32', **more):
        seed = next(seeds)
        case = build(name, list(shape), seed, options, dtype=dtype, **more)
        if reference == 'logits':
            case['reference'] = {'logits': {**case['logits'], 'seed': seed + 100000}}
        elif reference == 'same':
            case['reference'] = {'logits': case['logits']}
        elif reference == 'sums':
            case['reference'] = {}
        for attempt in range(20):
            try:
                cases.append(fused_case(case))
                return
            except ValueError:
                case['logits']['seed'] += 10000
        raise ValueError(name)

    # Cases are added at the end: each takes the next seed.
    for i, loss in enumerate(LOSS_TYPES[:-1]):
        shape = (8, 4, 7) if loss.startswith('aot') else (4, 5, 9)
        reference = None if loss in WITHOUT_REFERENCE else ['logits', 'sums'][i % 2]
        other = None if loss in WITHOUT_REFERENCE else ['sums', 'logits'][i % 2]
        add(loss, {'lossType': loss}, shape, reference)
        add(f'{loss}, averageLogProb, beta 2', {'lossType': loss, 'averageLogProb': True, 'beta': 2}, shape, other)
        add(f'{loss}, bfloat16', {'lossType': loss, 'beta': 0.3}, (4, 4, 333), other, 'bfloat16')
    for loss in ('sigmoid', 'robust', 'exo_pair', 'aot', 'aot_unpaired', 'simpo', 'cpo'):
        reference = None if loss in WITHOUT_REFERENCE else 'logits'
        add(f'{loss}, labelSmoothing 0.1', {'lossType': loss, 'labelSmoothing': 0.1}, (6, 4, 6), reference)
    for divergence, loss in itertools.product(('forward_kl', 'js', 'alpha'), WITH_DIVERGENCE[:-1]):
        options = {'lossType': loss, 'fDivergence': divergence, 'averageLogProb': True}
        if divergence == 'alpha':
            options['alpha'] = 0.3
        add(f'{loss}, {divergence}', options, (4, 4, 6), 'sums')
    for alpha in (2, 1):
        add(f'sigmoid, alpha {alpha}', {'fDivergence': 'alpha', 'alpha': alpha}, (4, 4, 6), 'sums')
    for name, terms in LISTS.items():
        reference = None if 'sft' in name and name != 'RPO' else 'sums'
        add(name, {'lossType': terms}, (4, 5, 8), reference)
        add(f'{name}, averageLogProb', {'lossType': terms, 'averageLogProb': True}, (4, 5, 8), reference)
    for loss in ('sigmoid', 'ipo', 'nca_pair', 'simpo', 'sft'):
        reference = None if loss in WITHOUT_REFERENCE else 'logits'
        add(f'wpo, {loss}', {'lossType': loss, 'weighting': 'wpo'}, (4, 5, 8), reference)
    add('wpo, RPO, averageLogProb', {'lossType': RPO, 'weighting': 'wpo', 'averageLogProb': True}, (4, 5, 8))
    add('wpo, aot', {'lossType': 'aot', 'weighting': 'wpo'}, (6, 5, 7), 'sums')
    for dtype in DTYPES:
        lift = [2.0, None, 5.0]
        add(f'wpo, {dtype}, vocab 1025', {'weighting': 'wpo'}, (4, 6, 1025), dtype=dtype, std=4.0, lift=lift)
    weights = (np.random.RandomState(3).randint(1, 200, 20) / 64).tolist()
    add('wpo, tokenWeights', {'weighting': 'wpo', 'tokenWeights': weights})
    for alpha in (0, 0.3):
        add(f'ldAlpha {alpha}', {'ldAlpha': alpha}, (4, 6, 7))
        options = {'ldAlpha': alpha, 'averageLogProb': True, 'pairs': [2, 1, 0, 3]}
        add(f'ldAlpha {alpha}, averageLogProb, pairs', options, (4, 6, 7))
    add('one chosen against three rejected', {'pairs': [0, 1, 0, 2, 0, 3]}, (4, 5, 8))
    add('one chosen against three rejected, wpo', {'pairs': [0, 1, 0, 2, 0, 3], 'weighting': 'wpo'}, (4, 5, 8))
    options = {'pairs': [3, 1, 3, 2, 3, 0], 'lossType': 'bco_pair'}
    add('one chosen against three rejected, bco_pair', options, (4, 5, 8), 'sums')
    options = {'pairs': [1, 0, 1, 2], 'lossType': 'simpo', 'beta': 2}
    add('one chosen against two rejected, simpo', options, (3, 5, 8), None)
    add('pairs of both roles, and one sequence in none', {'pairs': [0, 1, 1, 2], 'lossType': 'orpo'}, (4, 5, 8), None)
    for gamma in (0, 1.4):
        add(f'simpo, gamma {gamma}, beta 2.5', {'lossType': 'simpo', 'gamma': gamma, 'beta': 2.5}, reference=None)
    for shift in (-0.7, 1.3):
        add(f'bco_pair, rewardShift {shift}', {'lossType': 'bco_pair', 'rewardShift': shift})
    add('discopop, discopopTau 0.5', {'lossType': 'discopop', 'discopopTau': 0.5})
    for loss in ('sigmoid', 'hinge', 'sppo_hard', 'apo_down'):
        add(f'{loss}, referenceFree', {'lossType': loss, 'referenceFree': True}, reference=None)
    add('referenceFree ignores a reference', {'referenceFree': True}, reference='sums')
    for beta in (0.01, 0.5, 5):
        add(f'sigmoid, beta {beta}', {'beta': beta})
    mask = [int(x) for x in np.random.RandomState(4).rand(20) < 0.8]
    add('shift false', {'shift': False})
    add('ignoreIndex 0', {'ignoreIndex': 0}, ignore=0)
    add('mask', {'mask': mask})
    add('tokenWeights, averageLogProb', {'tokenWeights': weights, 'averageLogProb': True})
    for temperature in (0.7, 1.3, 2):
        add(f'temperature {temperature}', {'temperature': temperature})
    add('labels of 64 bits', {}, int64=True)
    packed = {'sequenceOffsets': [0, 4, 11, 14, 20]}
    add('packed', packed, (20, 9))
    add('packed, shift false, padded rows', {**packed, 'shift': False}, (20, 9), pad=(7, 0))
    add('packed, averageLogProb, pairs', {**packed, 'averageLogProb': True, 'pairs': [3, 0, 2, 1]}, (20, 9), 'sums')
    add('padded rows', {}, pad=(7, 0))
    add('padded rows and sequences', {}, pad=(7, 3))
    add('equal logits', {}, reference='same')
    empty = draw_labels(98, [5] * 3, 9) + [-100] * 5
    add('a sequence without tokens', {}, labels=empty)
    add('a sequence without tokens, averageLogProb', {'averageLogProb': True, 'lossType': RPO}, labels=empty)
    outputs = ['tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'logSumExp', 'sumSquaredProbs']
    add('outputs', {'outputs': outputs})
    add('outputs, packed', {**packed, 'outputs': outputs}, (20, 9))
    add('outputs, wpo', {'weighting': 'wpo', 'outputs': outputs})
    for dtype, (vocab, std) in itertools.product(DTYPES, [(1025, 10.0), (16385, 2.5), (50257, 4.0), (151936, 3.0)]):
        name = f'{dtype}, vocab {vocab}, std {std}'
        add(name, {}, (2, 4, vocab), dtype=dtype, std=std, lift=[3.0, None, 8.0])
    for dtype in DTYPES:
        options = {'lossType': ORPO, 'temperature': 1.3}
        add(f'ORPO, p nearly 1, {dtype}', options, (2, 5, 2000), None, dtype, std=1.0, lift=[4.0, 9.0, 14.0])
        add(f'mean 50, std 10, {dtype}', {}, (4, 4, 1024), dtype=dtype, mean=50.0, std=10.0, lift=[None, 1.0])
        options = {'lossType': 'ipo', 'averageLogProb': True}
        add(f'padded vocabulary, {dtype}', options, (4, 4, 1000), dtype=dtype, pad=(24, 0))

    # Options that meet in one formula.
    for average in (False, True):
        where = 'averageLogProb' if average else 'sums'
        base = {'averageLogProb': average}
        add(f'ipo_norm, {where}', {**base, 'lossType': 'ipo_norm'}, (4, 5, 9), 'logits')
        for divergence, loss in itertools.product(('forward_kl', 'js', 'alpha'), ('sigmoid_norm', 'ipo_norm', 'ipo')):
            options = {**base, 'lossType': loss, 'fDivergence': divergence}
            add(f'{loss} over lengths, {divergence}, {where}', options, (4, 4, 6), 'sums')
        alpha = 0.3 if average else 0
        ld = {**base, 'ldAlpha': alpha}
        for name, loss in {'sft': 'sft', 'RPO': RPO, 'CPO + sft': CPO, 'ORPO + sft': ORPO}.items():
            add(f'ldAlpha {alpha}, {name}, {where}', {**ld, 'lossType': loss}, (4, 5, 7), 'sums')
        for loss in ('simpo', 'orpo', 'sigmoid_norm', 'ipo_norm', 'ipo'):
            add(f'ldAlpha {alpha}, {loss}, {where}', {**ld, 'lossType': loss}, (4, 5, 7), 'logits')
        add(f'ldAlpha {alpha}, js, RPO, {where}', {**ld, 'lossType': RPO, 'fDivergence': 'js'}, (4, 5, 7), 'sums')
        for loss in ('simpo', 'orpo', 'sigmoid_norm', 'ipo_norm', 'sft'):
            add(f'tokenWeights, {loss}, {where}', {**base, 'lossType': loss, 'tokenWeights': weights}, (4, 5, 9), 'sums')
        options = {**base, 'ldAlpha': 0.3, 'tokenWeights': weights, 'lossType': RPO}
        add(f'ldAlpha 0.3, tokenWeights, RPO, {where}', options, (4, 5, 9), 'logits')
        options = {**base, 'ldAlpha': 0.3, 'weighting': 'wpo', 'lossType': RPO}
        add(f'ldAlpha 0.3, wpo, RPO, {where}', options, (4, 6, 7), 'logits')
        add(f'wpo, ORPO + sft, {where}', {**base, 'weighting': 'wpo', 'lossType': ORPO}, (4, 5, 8), None)
    add('ldAlpha 0.3, aot', {'ldAlpha': 0.3, 'lossType': 'aot'}, (6, 6, 7), 'sums')
    add('ldAlpha 0.3, referenceFree', {'ldAlpha': 0.3, 'referenceFree': True}, (4, 6, 7), None)
    options = {'referenceFree': True, 'lossType': 'sigmoid_norm', 'fDivergence': 'alpha', 'beta': 2}
    add('referenceFree, sigmoid_norm, alpha', options, (4, 5, 9), None)
    add('wpo, aot_unpaired', {'lossType': 'aot_unpaired', 'weighting': 'wpo'}, (6, 5, 7), 'sums')
    options = {**packed, 'ldAlpha': 0.3, 'lossType': RPO, 'pairs': [2, 1, 3, 0]}
    add('packed, ldAlpha 0.3, RPO, pairs', options, (20, 9), 'sums')
    add('ldAlpha 0.3, RPO, bfloat16', {'ldAlpha': 0.3, 'lossType': RPO}, (4, 6, 333), 'sums', 'bfloat16')
    add('orpo, sequences without tokens', {'lossType': 'orpo'}, (4, 5, 9), None, labels=EMPTY_LABELS)
    options = {'lossType': ORPO, 'averageLogProb': True}
    add('ORPO + sft, sequences without tokens, averageLogProb', options, (4, 5, 9), None, labels=EMPTY_LABELS)
    for normalizer in ('sum', {'pairs': 10, 'tokens': 100}):
        options = {'lossType': RPO, 'normalizer': normalizer}
        add(f'RPO, normalizer {json.dumps(normalizer)}', options, (4, 5, 9), 'sums')
        add(f'RPO, ldAlpha 0.3, normalizer {json.dumps(normalizer)}', {**options, 'ldAlpha': 0.3}, (4, 6, 9), 'sums')
    add('sigmoid, normalizer 10', {'normalizer': 10}, (4, 5, 9), 'logits')

    for loss, dtype in itertools.product(LATER_LOSS_TYPES, DTYPES):
        base = {'lossType': loss, **({'targetMargin': [0.8, -0.3]} if loss in AIMED else {})}
        add(f'{loss}, {dtype}', base, (4, 5, 9), 'logits', dtype)
        options = {**base, 'averageLogProb': True, 'beta': 2}
        add(f'{loss}, averageLogProb, beta 2, {dtype}', options, (4, 5, 9), 'sums', dtype)
        add(f'{loss}, vocab 333, {dtype}', {**base, 'beta': 0.3}, (4, 4, 333), 'sums', dtype)
    add('dpop, dpopLambda 2, offset 0.5', {'lossType': 'dpop', 'dpopLambda': 2, 'offset': 0.5}, (4, 5, 9), 'logits')
    for loss, dtype in itertools.product(WITH_REWARD_ALPHA, DTYPES):
        free = {} if loss in WITHOUT_REFERENCE else {'referenceFree': True}
        for alpha in (0.25, -0.5):
            options = {'lossType': loss, 'rewardAlpha': alpha, 'beta': 2, 'averageLogProb': loss != 'simpo', **free}
            add(f'{loss}, rewardAlpha {alpha}, {dtype}', options, (4, 5, 9), None, dtype)
    for normalization, dtype in itertools.product(('sequences', 'sum'), DTYPES):
        options = {'lossType': RPO, 'sftNormalization': normalization}
        add(f'RPO, {normalization}, {dtype}', options, (4, 5, 9), 'sums', dtype)
        options = {'lossType': 'sft', 'sftNormalization': normalization, 'averageLogProb': True}
        add(f'sft, {normalization}, averageLogProb, {dtype}', options, (4, 5, 9), None, dtype)
        options = {'lossType': CPO, 'sftNormalization': normalization, 'ldAlpha': 0.3}
        add(f'CPO + sft, {normalization}, ldAlpha 0.3, {dtype}', options, (4, 5, 9), None, dtype)
    own = {'beta': [0.1, 0.6, 1.2], 'pairWeights': [0.5, 2, 1.25]}
    for loss, dtype in itertools.product((*LOSS_TYPES, *LATER_LOSS_TYPES), DTYPES):
        options = {'lossType': loss, **own}
        if loss in SMOOTHED:
            options['labelSmoothing'] = [0.1, 0.3, 0.02]
        if loss in WITH_OFFSET:
            options['offset'] = [0.4, -0.7, 0]
        if loss in AIMED:
            options['targetMargin'] = [0.8, -0.3, 2]
        reference = None if loss in WITHOUT_REFERENCE else 'sums'
        add(f'{loss}, values of each pair, {dtype}', options, (6, 5, 9), reference, dtype)
    options = {**own, 'weighting': 'wpo', 'labelSmoothing': [0.1, 0.3, 0.02]}
    add('wpo, values of each pair', options, (6, 5, 9), 'logits')
    options = {**own, 'pairs': [0, 1, 0, 2, 3, 1], 'lossType': RPO, 'offset': [0.4, -0.7, 0]}
    add('values of each pair, one chosen in two pairs', options, (4, 5, 9), 'sums')
    return cases


def loss_cases():
    """Log-probs are multiples of 2^-20, so that their differences are exact in any order."""
    random = np.random.RandomState(11)

    def grid(values):
        return (np.round(np.asarray(values) * 2**20) / 2**20).tolist()

    def near(values, spread):
        return grid(np.minimum(np.array(values) + random.uniform(-spread, spread, len(values)), -1e-5))

    sums = {'chosen': grid(random.uniform(-150, -10, 7)), 'rejected': grid(random.uniform(-150, -10, 7))}
    sums['referenceChosen'], sums['referenceRejected'] = near(sums['chosen'], 8), near(sums['rejected'], 8)
    sums['chosenTokenCounts'] = random.randint(8, 90, 7).tolist()
    sums['rejectedTokenCounts'] = random.randint(8, 90, 7).tolist()
    means = {'chosen': grid(random.uniform(-4, -0.05, 7)), 'rejected': grid(random.uniform(-4, -0.05, 7))}
    means['referenceChosen'], means['referenceRejected'] = near(means['chosen'], 0.8), near(means['rejected'], 0.8)
    means['chosenTokenCounts'], means['rejectedTokenCounts'] = sums['chosenTokenCounts'], sums['rejectedTokenCounts']
    far = {
        'chosen': grid([-1000, -5000, -700, -60, -1e-5, -35, -3000, -0.5, -90]),
        'rejected': grid([-4000, -1000, -700.5, -1e-4, -80, -36, -2e-6, -0.25, -92]),
        'referenceChosen': grid([-900, -20, -650, -75, -3, -34, -2000, -0.5, -5]),
        'referenceRejected': grid([-20, -900, -750, -2, -100, -37.25, -1e-6, -0.5, -600]),
        'chosenTokenCounts': [90, 200, 50, 10, 4, 1, 300, 2, 11],
        'rejectedTokenCounts': [200, 90, 50, 3, 11, 1, 1, 2, 9],
    }
    one = {key: value[:1] for key, value in sums.items()}
    inputs = {'sums': sums, 'means': means, 'far': far, 'one': one, 'weighted': sums}
    without = {key: [0.0 if i in gone else x for i, x in enumerate(sums[key][:4])] for key, gone in EMPTY.items()}
    everywhere = tuple(inputs)
    inputs['without tokens'] = without
    cases = []

    def add(name, options, *sets):
        for key in sets:
            given = {'averageLogProb': True, **options} if key == 'means' else options
            if key == 'weighted':
                given = {**given, 'pairWeights': [1, 0.25, 0, 3.5, 0.125, 1, 0.7]}
            cases.append(loss_case(f'{name}, {key}', key, given, inputs[key]))

    smooth = {
        'robust': [0.1, 0.4, 0.499999999],
        'exo_pair': [0.1, 1e-5],
        **{key: [0.1, 0.5] for key in ('sigmoid', 'aot', 'aot_unpaired', 'simpo', 'cpo')},
    }
    for loss in LOSS_TYPES:
        base = {'lossType': loss}
        if loss == 'apo_down':
            # Elsewhere the two terms of its derivative are nearly equal, and float64 is no oracle for their difference.
            add(loss, base, 'sums', 'one', 'weighted')
            add(f'{loss}, beta 0.5', {**base, 'beta': 0.5}, 'sums')
        else:
            add(loss, base, *everywhere)
            add(f'{loss}, beta 0.01', {**base, 'beta': 0.01}, 'sums')
            add(f'{loss}, beta 0.5', {**base, 'beta': 0.5}, 'sums', 'far')
        add(f'{loss}, beta 2.5', {**base, 'beta': 2.5}, 'means')
        if loss in ('sigmoid', 'simpo'):
            add(f'{loss}, labelSmoothing 1', {**base, 'labelSmoothing': 1}, 'sums')
        for epsilon in smooth.get(loss, []):
            options = {**base, 'labelSmoothing': epsilon}
            add(f'{loss}, labelSmoothing {epsilon}', options, 'sums', 'means', 'weighted')
        if loss in WITH_DIVERGENCE:
            add(f'{loss}, js', {**base, 'fDivergence': 'js'}, 'sums', 'means', 'far')
            add(f'{loss}, forward_kl', {**base, 'fDivergence': 'forward_kl'}, 'sums', 'means', 'weighted')
            for alpha in (0.3, 2, 1, -1):
                options = {**base, 'fDivergence': 'alpha', 'alpha': alpha}
                add(f'{loss}, alpha {alpha}', options, 'sums', 'means')
            add(f'{loss}, alpha by default', {**base, 'fDivergence': 'alpha'}, 'means')
        if loss not in WITHOUT_REFERENCE:
            add(f'{loss}, referenceFree', {**base, 'referenceFree': True}, 'sums', 'means')
    for gamma in (0, 1.4, -0.5):
        add(f'simpo, gamma {gamma}', {'lossType': 'simpo', 'gamma': gamma, 'beta': 2}, 'sums', 'means')
    for shift in (-0.7, 1.3):
        add(f'bco_pair, rewardShift {shift}', {'lossType': 'bco_pair', 'rewardShift': shift}, 'sums', 'means')
    for tau in (0.5, 2):
        add(f'discopop, discopopTau {tau}', {'lossType': 'discopop', 'discopopTau': tau}, 'sums', 'means', 'far')
    for name, terms in LISTS.items():
        add(name, {'lossType': terms}, 'sums', 'means', 'weighted')
    add('RPO, labelSmoothing 0.1, js', {'lossType': RPO[:1], 'labelSmoothing': 0.1, 'fDivergence': 'js'}, 'sums')
    for divergence in ('js', 'forward_kl'):
        add(f'RPO and its sft, {divergence}', {'lossType': RPO, 'fDivergence': divergence}, 'sums', 'means', 'weighted')
    add('sigmoid_norm and sigmoid, js', {'lossType': NORM, 'fDivergence': 'js'}, 'sums', 'means')
    add('orpo, without tokens', {'lossType': 'orpo', 'beta': 0.5}, 'without tokens')
    add('ORPO + sft, without tokens', {'lossType': ORPO}, 'without tokens')
    for normalizer in ('sum', 5, 12.5):
        for loss in ('sigmoid', 'ipo_norm', 'orpo', 'sft'):
            add(f'{loss}, normalizer {normalizer}', {'lossType': loss, 'normalizer': normalizer}, 'sums', 'weighted')
    for name in ('RPO', 'CPO + sft', 'ORPO + sft'):
        options = {'lossType': LISTS[name], 'normalizer': {'pairs': 16, 'tokens': 1000}}
        add(f'{name}, normalizer of pairs and tokens', options, 'sums', 'means', 'weighted')
        add(f'{name}, normalizer sum', {'lossType': LISTS[name], 'normalizer': 'sum'}, 'sums', 'means')
    add('sft, normalizer of tokens', {'lossType': 'sft', 'normalizer': {'tokens': 1000}}, 'sums', 'means')

    aims = [0.7, -0.4, 2.5, 0, 1.3, -2.2, 5]
    for loss in LATER_LOSS_TYPES:
        base = {'lossType': loss, **({'targetMargin': 0.9} if loss in AIMED else {})}
        add(loss, base, 'sums', 'means', 'one', 'weighted', *(['far'] if loss in AIMED else []))
        for beta in (0.01, 0.5, 2.5):
            add(f'{loss}, beta {beta}', {**base, 'beta': beta}, 'sums', 'means')
        add(f'{loss}, referenceFree', {**base, 'referenceFree': True}, 'sums', 'means')
        if loss in AIMED:
            for aim in (0, -3.25, 40):
                add(f'{loss}, targetMargin {aim}', {**base, 'targetMargin': aim}, 'sums', 'means')
    for factor in (0, 0.5, 3):
        options = {'lossType': 'dpop', 'dpopLambda': factor, 'beta': 0.3}
        add(f'dpop, dpopLambda {factor}', options, 'sums', 'means', 'weighted')
    for loss in WITH_REWARD_ALPHA:
        base = {'lossType': loss}
        if loss not in WITHOUT_REFERENCE:
            base['referenceFree'] = True
        for alpha in (0.25, -0.5, 1e-3, 2):
            beta = 1.5 if alpha < 1 else 0.05
            add(f'{loss}, rewardAlpha {alpha}', {**base, 'rewardAlpha': alpha, 'beta': beta}, 'means')
        add(f'{loss}, rewardAlpha 0.01', {**base, 'rewardAlpha': 0.01, 'beta': 0.3}, 'sums', 'weighted')
    options = {'lossType': 'simpo', 'rewardAlpha': 0.25, 'gamma': 0.1, 'beta': 2.5, 'labelSmoothing': 0.1}
    add('simpo, rewardAlpha 0.25, gamma, labelSmoothing', options, 'sums', 'means')
    for normalization in ('sequences', 'sum'):
        base = {'lossType': 'sft', 'sftNormalization': normalization}
        add(f'sft, {normalization}', base, 'sums', 'means', 'weighted')
        for normalizer in ('sum', 12.5):
            add(f'sft, {normalization}, normalizer {normalizer}', {**base, 'normalizer': normalizer}, 'sums', 'means')
        for name in ('RPO', 'ORPO + sft'):
            add(f'{name}, {normalization}', {**base, 'lossType': LISTS[name]}, 'sums', 'means', 'weighted')
        add(f'sft, {normalization}, without tokens', base, 'without tokens')

    # A value for each pair.
    own = {
        'beta': [0.1, 0.5, 0.02, 1.5, 0.3, 0.07, 0.9],
        'labelSmoothing': [0.1, 0.4, 0.01, 0.25, 0.3, 0.05, 0.2],
        'offset': [0.5, -0.3, 0, 2, 1.25, -1, 0.125],
        'pairWeights': [1, 0.25, 0, 3.5, 0.125, 1, 0.7],
    }
    for loss in (*LOSS_TYPES, *LATER_LOSS_TYPES):
        sets = ('sums',) if loss == 'apo_down' else ('sums', 'means')
        taken = {'beta': own['beta'], 'pairWeights': own['pairWeights']}
        if loss in SMOOTHED:
            taken['labelSmoothing'] = own['labelSmoothing']
        if loss in WITH_OFFSET:
            taken['offset'] = own['offset']
            add(f'{loss}, offset 0.75', {'lossType': loss, 'offset': 0.75}, 'sums', 'means')
        if loss in AIMED:
            taken['targetMargin'] = aims
        for name, values in taken.items():
            options = {'lossType': loss, name: values}
            if loss in AIMED:
                options['targetMargin'] = aims
            add(f'{loss}, {name} of each', options, *sets)
        add(f'{loss}, all values of each', {'lossType': loss, **taken}, *sets)
    add('sigmoid, pairWeights 0.3', {'pairWeights': 0.3}, 'sums')
    options = {'lossType': [*CPO, {'lossType': 'exo_pair', 'weight': 0.3}], **own}
    add('a list, all values of each', options, 'sums', 'means')
    for divergence in ('js', 'forward_kl', 'alpha'):
        for loss in ('sigmoid', 'sigmoid_norm', 'ipo_norm'):
            options = {'lossType': loss, 'fDivergence': divergence, 'beta': own['beta']}
            if loss != 'ipo_norm':
                options['offset'] = own['offset']
            add(f'{loss}, {divergence}, values of each', options, 'sums', 'means')
    return inputs, cases


UNPAIRED_LOSS_TYPES = ['kto', 'apo_zero_unpaired', 'bco']
# Log-probs of mismatched completions, whose κ is above 0, and the other way round below it.
KL = {'klLogProbs': [-31.25, -22.5, -52.75, -25.5], 'referenceKlLogProbs': [-24.75, -36.875, -65.25, -29.625]}
NEGATIVE_KL = {'klLogProbs': KL['referenceKlLogProbs'], 'referenceKlLogProbs': KL['klLogProbs']}


def with_kl(options):
    """kto needs κ."""
    wants = options.get('lossType', 'kto') == 'kto' and 'kl' not in options and 'klLogProbs' not in options
    return {**options, **KL} if wants else options


def unpaired_cases():
    """Log-probs are multiples of 2^-20, as in loss_cases."""
    random = np.random.RandomState(12)

    def grid(values):
        return (np.round(np.asarray(values) * 2**20) / 2**20).tolist()

    sums = {'logProbs': grid(random.uniform(-150, -10, 7))}
    sums['referenceLogProbs'] = grid(np.minimum(sums['logProbs'] + random.uniform(-9, 9, 7), -1e-5))
    far = {
        'logProbs': grid([-1000, -5000, -700, -60, -1e-5, -35, -3000, -0.5, -90, -20]),
        'referenceLogProbs': grid([-900, -20, -650, -75, -3, -34, -2000, -0.5, -5, -4000]),
    }
    one = {key: value[:1] for key, value in sums.items()}
    inputs = {'sums': sums, 'far': far, 'one': one}
    flags = {'sums': [1, 0, 0, 1, 1, 0, 1], 'far': [1, 0, 1, 0, 1, 0, 0, 1, 1, 0], 'one': [True]}
    cases = []

    def add(name, options, *sets):
        for key in sets:
            given = with_kl({'desirable': flags[key], **options})
            cases.append(unpaired_case(f'{name}, {key}', key, given, inputs[key]))

    for loss in UNPAIRED_LOSS_TYPES:
        base = {'lossType': loss}
        add(loss, base, 'sums', 'far', 'one')
        for beta in (0.01, 0.5, 2.5):
            add(f'{loss}, beta {beta}', {**base, 'beta': beta}, 'sums', 'far')
        add(f'{loss}, all desirable', {**base, 'desirable': [True] * 7}, 'sums')
        add(f'{loss}, none desirable', {**base, 'desirable': [False] * 7}, 'sums')
        add(f'{loss}, weights', {**base, 'desirableWeight': 1.3, 'undesirableWeight': 0.7}, 'sums', 'far')
        add(f'{loss}, desirableWeight 0', {**base, 'desirableWeight': 0}, 'sums')
        add(f'{loss}, undesirableWeight 0', {**base, 'undesirableWeight': 0}, 'sums')
        add(f'{loss}, referenceFree', {**base, 'referenceFree': True}, 'sums')
        for normalizer in ('sum', 12.5, {'sequences': 16}):
            options = {**base, 'normalizer': normalizer, 'undesirableWeight': 2}
            add(f'{loss}, normalizer {json.dumps(normalizer)}', options, 'sums')
    add('kto by default', {}, 'sums')
    add('kto, κ below 0', {'lossType': 'kto', **NEGATIVE_KL}, 'sums')
    for kl in (0, 2.5, -1, 700):
        add(f'kto, kl {kl}', {'lossType': 'kto', 'kl': kl, 'beta': 0.5}, 'sums', 'far')
    for shift in (-0.7, 1.3, 60):
        add(f'bco, rewardShift {shift}', {'lossType': 'bco', 'rewardShift': shift}, 'sums', 'far')

    targets = [0.5, -1.25, 0, 3, -0.125, 2, 0.75]
    own = {'beta': [0.1, 0.5, 0.02, 1.5, 0.3, 0.07, 0.9], 'sequenceWeights': [1, 0.25, 0, 3.5, 0.125, 1, 0.7]}
    base = {'lossType': 'regression', 'targets': targets}
    add('regression', base, 'sums')
    add('regression, far', {**base, 'targets': [*targets, 4, -30, 60], 'beta': 2.5}, 'far')
    add('regression, one', {**base, 'targets': [2.5]}, 'one')
    add('regression, weights', {**base, 'desirableWeight': 1.3, 'undesirableWeight': 0.7, 'beta': 0.5}, 'sums')
    add('regression, referenceFree', {**base, 'referenceFree': True}, 'sums')
    for normalizer in ('sum', 12.5, {'sequences': 16}):
        add(f'regression, normalizer {json.dumps(normalizer)}', {**base, 'normalizer': normalizer}, 'sums')
    for loss in (*UNPAIRED_LOSS_TYPES, 'regression'):
        options = {'lossType': loss, **({'targets': targets} if loss == 'regression' else {})}
        for name, values in own.items():
            add(f'{loss}, {name} of each', {**options, name: values}, 'sums')
        add(f'{loss}, sequenceWeights 0.3', {**options, 'sequenceWeights': 0.3}, 'sums')
        both = {**own, 'desirableWeight': 1.3, 'normalizer': 12.5}
        add(f'{loss}, values of each, weights, normalizer', {**options, **both}, 'sums')
    return inputs, cases


def fused_unpaired_cases():
    cases = []
    seeds = itertools.count(9001)

    def add(name, options, shape=(4, 5, 9), reference='logits', dtype='float32', **more):
        seed = next(seeds)
        sequences = len(options['sequenceOffsets']) - 1 if 'sequenceOffsets' in options else shape[0]
        given = with_kl({'desirable': [(s * s + s) % 3 == 0 for s in range(sequences)], **options})
        case = build(name, list(shape), seed, given, dtype=dtype, **more)
        if reference == 'logits':
            case['reference'] = {'logits': {**case['logits'], 'seed': seed + 100000}}
        elif reference == 'sums':
            case['reference'] = {}
        cases.append(fused_unpaired_case(case))

    for loss, dtype in itertools.product(UNPAIRED_LOSS_TYPES, DTYPES):
        base = {'lossType': loss}
        add(f'{loss}, {dtype}', base, dtype=dtype)
        add(f'{loss}, averageLogProb, beta 2, {dtype}', {**base, 'averageLogProb': True, 'beta': 2}, dtype=dtype)
        options = {**base, 'desirableWeight': 1.3, 'undesirableWeight': 0.7, 'normalizer': {'sequences': 6}}
        add(f'{loss}, weights, normalizer, {dtype}', options, (5, 4, 17), 'sums', dtype)
        add(f'{loss}, vocab 1025, {dtype}', {**base, 'beta': 0.5}, (3, 4, 1025), 'sums', dtype, lift=[4.0, None, 9.0])
    for loss in UNPAIRED_LOSS_TYPES:
        base = {'lossType': loss}
        packed = {**base, 'sequenceOffsets': [0, 4, 11, 14, 20]}
        weights = (np.random.RandomState(3).randint(1, 200, 20) / 64).tolist()
        mask = [int(x) for x in np.random.RandomState(4).rand(20) < 0.8]
        add(f'{loss}, packed', packed, (20, 9))
        add(f'{loss}, packed, shift false, padded rows', {**packed, 'shift': False}, (20, 9), 'sums', pad=(7, 0))
        add(f'{loss}, all desirable', {**base, 'desirable': [1, 1, 1, 1]})
        add(f'{loss}, none desirable', {**base, 'desirable': [0, 0, 0, 0]}, reference='sums')
        add(f'{loss}, undesirableWeight 0', {**base, 'undesirableWeight': 0})
        add(f'{loss}, desirableWeight 0, normalizer sum', {**base, 'desirableWeight': 0, 'normalizer': 'sum'})
        add(f'{loss}, referenceFree', {**base, 'referenceFree': True}, reference=None)
        add(f'{loss}, mask, temperature 1.3', {**base, 'mask': mask, 'temperature': 1.3})
        add(f'{loss}, tokenWeights, averageLogProb', {**base, 'tokenWeights': weights, 'averageLogProb': True})
        add(f'{loss}, ignoreIndex 0, labels of 64 bits', {**base, 'ignoreIndex': 0}, ignore=0, int64=True)
        empty = draw_labels(98, [5] * 3, 9) + [-100] * 5
        add(f'{loss}, a sequence without tokens', base, reference='sums', labels=empty)
        add(f'{loss}, one sequence', base, (1, 5, 9))
    outputs = ['tokenLogProbs', 'tokenEntropies', 'tokenArgmax', 'logSumExp', 'sumSquaredProbs']
    add('kto, outputs', {'outputs': outputs})
    add('kto, kl 0.75, beta 5', {'kl': 0.75, 'beta': 5})
    add('kto, κ below 0', NEGATIVE_KL)
    add('bco, rewardShift -0.4', {'lossType': 'bco', 'rewardShift': -0.4})

    own = {'beta': [0.1, 0.6, 1.2, 0.3], 'sequenceWeights': [0.5, 2, 0, 1.25]}
    for loss, dtype in itertools.product((*UNPAIRED_LOSS_TYPES, 'regression'), DTYPES):
        base = {'lossType': loss, **({'targets': [0.5, -1.25, 3, 0.125]} if loss == 'regression' else {})}
        if loss == 'regression':
            add(f'{loss}, {dtype}', base, dtype=dtype)
            add(f'{loss}, averageLogProb, {dtype}', {**base, 'averageLogProb': True}, reference='sums', dtype=dtype)
        add(f'{loss}, values of each, {dtype}', {**base, **own}, reference='sums', dtype=dtype)
    return cases


# --- writing -------------------------------------------------------------------------------------------------------


def plain(value):
    """JSON has no infinities and no NaN; they become strings. Whole floats lose their point."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, float):
        if math.isnan(value):
            return 'NaN'
        if math.isinf(value):
            return 'Infinity' if value > 0 else '-Infinity'
        if value == int(value) and abs(value) < 1e15:
            return int(value)
    return value


def write(name, lines):
    text = ''.join(json.dumps(plain(line), separators=(',', ':')) + '\n' for line in lines)
    (HERE / name).write_text(text)
    print(f'{name}: {len(lines)} lines, {len(text) // 1000} kB')


def check_names(cases):
    names = [case['name'] for case in cases]
    assert len(set(names)) == len(names), [name for name in names if names.count(name) > 1]
    return cases


if __name__ == '__main__':
    inputs, cases = loss_cases()
    write('losses.jsonl', [inputs] + check_names(cases))
    write('sequences.jsonl', check_names(sequence_cases()))
    write('fused.jsonl', check_names(fused_cases()))
    inputs, cases = unpaired_cases()
    write('unpaired.jsonl', [inputs] + check_names(cases))
    write('fused-unpaired.jsonl', check_names(fused_unpaired_cases()))
