#!/usr/bin/env python3
"""Writes tokens.jsonl: what PyTorch says, in float64, about per-token results and gradients through each of them.

    python3 test/golden/generate_tokens.py

As generate.py, whose inputs these are. Beside each derivative stands the sum of the magnitudes of its terms, as
docs/numerics.md states the bound in it.
"""

import itertools

import numpy as np
import torch

from generate import DTYPES, build, check_names, label_log_probs, load, sample, split, write

RESULTS = ['tokenLogProbs', 'logSumExp', 'tokenEntropies', 'tokenMeanLogits']


def tanh(u):
    """The autograd of torch.tanh computes 1 - tanh², of which nothing is left where the tanh is nearly 1."""
    large = torch.sign(u) * (1 - 2 / (torch.exp(2 * u.abs().clamp(max=300)) + 1))
    return torch.where(u.abs() > 0.5, large, torch.tanh(u))


def tokens_case(case, by, sequences):
    """`by`: the results whose gradients are given; `sequences`: whether those of the sequences are, too."""
    options = case['options']
    leaf = torch.tensor(load(case['logits']), requires_grad=True)
    temperature = options.get('temperature', 1)
    random = np.random.RandomState(case['logits']['seed'])
    rows, vocab = leaf.shape
    total, magnitudes = torch.zeros(()), torch.zeros(rows, vocab)
    results = {name: [] for name in RESULTS}
    gradients = {name: [] for name in by}
    if sequences:
        gradients['logProbs'] = []
    for part in split(case):
        active, labels = part['active'], part['labels']
        scale, cap = options.get('logitScale', 1), options.get('logitSoftcap')
        scaled = leaf[part['rows']] * scale
        logits = (scaled if cap is None else cap * tanh(scaled / cap)) / temperature
        slope = torch.full_like(logits, scale / temperature)
        if cap is not None:
            slope /= torch.cosh(scaled.detach() / cap) ** 2
        log_probs = logits.log_softmax(-1)
        of_row = {
            'tokenLogProbs': label_log_probs(logits, labels),
            'logSumExp': logits.logsumexp(-1),
            'tokenEntropies': -(log_probs.exp() * log_probs).sum(-1),
            'tokenMeanLogits': logits.mean(-1),
        }
        p = log_probs.detach().exp()
        # Of a logit of -inf, autograd would make NaN here.
        entropy = torch.special.entr(p).sum(-1)
        values = {**of_row, 'tokenEntropies': entropy}
        for name in RESULTS:
            results[name] += torch.where(active, values[name].detach(), 0.0).tolist()
        slopes = {name: torch.zeros(len(labels)) for name in of_row}
        if sequences:
            factor = round(random.uniform(-2, 2), 3)
            gradients['logProbs'].append(factor)
            count = int(active.sum()) if options.get('averageLogProb', False) else 1
            slopes['tokenLogProbs'] += factor / max(count, 1) * part['weights']
        for name in by:
            # What inactive tokens have is ignored.
            given = [round(random.uniform(-2, 2), 3) for _ in labels]
            gradients[name] += given
            slopes[name] += torch.tensor(given)
        for name, slope_of_row in slopes.items():
            if not (slope_of_row == 0).all():
                total = total + (torch.where(active, slope_of_row, 0.0) * of_row[name]).sum()
        if 'sequenceOffsets' in options and options.get('shift', True):
            for values in [*results.values(), *(gradients[name] for name in by)]:
                values.append(0.0)

        a, z, e, m = (slopes[name].abs()[:, None] for name in of_row)
        others = (slopes['logSumExp'] - slopes['tokenLogProbs']).abs()[:, None] * p
        is_label = torch.nn.functional.one_hot(labels, vocab) == 1
        size = torch.where(is_label, a * -torch.expm1(of_row['tokenLogProbs'].detach())[:, None] + z * p, others)
        size = size + e * (torch.special.entr(p) + p * (entropy[:, None] + 1)) + m / vocab
        magnitudes[part['rows']] = torch.where(active[:, None], slope.detach() * size, 0.0)
    total.backward()
    gradient = sample(leaf.grad, case)
    flat = magnitudes.reshape(-1)
    places = gradient.get('at', range(len(flat)))
    gradient['magnitudes'] = [float('%.3g' % (flat[i] * 1.005)) for i in places]
    case['gradients'] = gradients
    case['expected'] = {**results, 'gradient': gradient}
    return case


def tokens_cases():
    cases = []
    seeds = itertools.count(5001)

    def add(name, shape, by, options=None, sequences=False, **more):
        cases.append(tokens_case(build(name, shape, next(seeds), options, **more), by, sequences))

    everything = ['tokenLogProbs', 'logSumExp', 'tokenEntropies', 'tokenMeanLogits']
    for dtype in DTYPES:
        for name in everything:
            add(f'{name}, {dtype}', [2, 3, 33], [name], dtype=dtype)
        for vocab in (2, 7, 64, 65, 1025, 16385, 32000):
            add(f'all, vocab {vocab}, {dtype}', [2, 3, vocab], everything, sequences=True, dtype=dtype)
        for std in (0.1, 10.0, 30.0):
            add(f'all, std {std}, {dtype}', [2, 4, 130], everything, {'temperature': 0.7}, dtype=dtype, std=std)
        lift = [6.0, 12.0, 18.0, 40.0, 85.0]
        add(f'p of the label nearly 1, {dtype}', [2, 6, 300], everything, dtype=dtype, std=1.0, lift=lift)
        add(f'far logits, {dtype}', [2, 3, 65], everything, dtype=dtype, mean=900.0)
        padded = {'dtype': dtype, 'pad': (3, 5)}
        add(f'padded, averageLogProb, {dtype}', [2, 4, 61], everything, {'averageLogProb': True}, True, **padded)
        add(f'shift false, {dtype}', [2, 3, 20], everything, {'shift': False}, True, dtype=dtype)
        add(f'packed, {dtype}', [9, 20], everything, {'sequenceOffsets': [0, 4, 9]}, True, dtype=dtype)
    transforms = [
        {'logitScale': 0.0625},
        {'logitScale': 3.7, 'temperature': 0.9},
        {'logitSoftcap': 30.0},
        {'logitSoftcap': 5.0, 'temperature': 0.7},
        {'logitScale': 1.7, 'logitSoftcap': 50.0, 'temperature': 2.0},
    ]
    for dtype, options in itertools.product(DTYPES, transforms):
        named = ', '.join(f'{name} {value}' for name, value in options.items())
        add(f'{named}, {dtype}', [2, 4, 131], everything, options, True, dtype=dtype, std=6.0)
        add(f'{named}, vocab 5000, {dtype}', [2, 2, 5000], everything, options, dtype=dtype, std=3.0)
        for result in everything:
            add(f'{result}, {named}, {dtype}', [1, 2, 70], [result], options, dtype=dtype, std=15.0)
    for dtype in DTYPES:
        add(f'saturated, {dtype}', [2, 3, 65], everything, {'logitSoftcap': 2.0}, dtype=dtype, std=30.0)
        add(f'-inf logits under a cap, {dtype}', [2, 3, 20], everything, {'logitSoftcap': 8.0}, dtype=dtype, holes=4)
    weights = [0.0, 0.5, 1.0, 0.0, 1.5, -1.0, 1.0, 0.0]
    add('tokenWeights are of the sums alone', [2, 4, 9], everything, {'tokenWeights': weights}, True)
    add('-inf logits', [2, 4, 30], ['tokenLogProbs', 'logSumExp'], holes=3, lift=[0.0, -2.0])
    return cases


if __name__ == '__main__':
    write('tokens.jsonl', check_names(tokens_cases()))
