#!/usr/bin/env python3
"""Writes head.jsonl: what PyTorch says, in float64, of gradients through an output layer.

    python3 test/golden/generate_head.py

As generate.py, whose inputs these are: hidden, weight and bias are made from seeds. There are the results of single
tokens, with derivatives with respect to each, and the cross-entropy with its options. Beside each derivative stands the
sum of the magnitudes of its terms: those of the logits' derivatives, times the other factor of each product.
"""

import itertools

import numpy as np
import torch

from generate import DTYPES, check_names, draw_labels, label_log_probs, load, split, tensor_spec, write
from generate_tokens import RESULTS, tanh

MOST = 64


def one_hot(labels, vocab):
    return torch.nn.functional.one_hot(labels, vocab) == 1


def magnitudes_of(p, labels, entropy, slopes, classes):
    """Of the derivatives with respect to what the softmax is of, given those with respect to a row's results."""
    a, z, e, m = (slope[:, None] for slope in slopes)
    vocab = p.shape[1]
    # 1 - p of the label loses nothing that counts at these sizes.
    size = torch.where(one_hot(labels, vocab), a.abs() * (1 - p) + z.abs() * p, (z - a).abs() * p)
    return size + e.abs() * (torch.special.entr(p) + p * (entropy[:, None] + 1)) + m.abs() * classes / vocab


def some(gradient, magnitudes, seed):
    """All of a small gradient; of a large one the largest entries and some others."""
    flat, sizes = gradient.reshape(-1), magnitudes.reshape(-1)
    places = np.arange(len(flat))
    if len(flat) > MOST:
        largest = torch.topk(flat.abs(), MOST // 2).indices.tolist()
        others = np.random.RandomState(seed).randint(len(flat), size=MOST // 2).tolist()
        places = sorted({*largest, *others})
    out = {'values': [flat[i].item() for i in places], 'magnitudes': [float('%.3g' % (sizes[i] * 1.005)) for i in places]}
    return {'at': places, **out} if len(flat) > MOST else out


def head_case(name, shape, width, seed, options, by=None, bias=True, dtype='float32', std=1.0):
    """`by`: the results whose derivatives are given; without it the case is one of the cross-entropy."""
    batch, time, vocab = shape
    case = {
        'name': name,
        'hidden': tensor_spec(dtype, [batch, time, width], seed, std=std),
        'weight': tensor_spec(dtype, [vocab, width], seed + 1, std=2 / width**0.5),
        'labels': draw_labels(seed, [time] * batch, vocab),
        'options': options,
    }
    if bias:
        case['bias'] = tensor_spec('float32', [1, vocab], seed + 2, std=0.7)
    leaves = {of: torch.tensor(load(case[of]), requires_grad=True) for of in ('hidden', 'weight', 'bias') if of in case}
    logits = leaves['hidden'] @ leaves['weight'].T + (leaves['bias'] if bias else 0)
    parts = split({**case, 'logits': {'shape': shape}})
    rows = torch.cat([torch.arange(part['rows'].start, part['rows'].stop) for part in parts])
    labels, active = (torch.cat([part[of] for part in parts]) for of in ('labels', 'active'))

    scale, cap, temperature = options.get('logitScale', 1), options.get('logitSoftcap'), options.get('temperature', 1)
    scaled = logits[rows] * scale
    counted = (scaled if cap is None else cap * tanh(scaled / cap)) / temperature
    slope = torch.full_like(counted, scale / temperature)
    if cap is not None:
        slope /= torch.cosh(scaled.detach() / cap) ** 2
    p = counted.detach().softmax(-1)
    results = {
        'tokenLogProbs': label_log_probs(counted, labels),
        'logSumExp': counted.logsumexp(-1),
        'tokenEntropies': -(counted.softmax(-1) * counted.log_softmax(-1)).sum(-1),
        'tokenMeanLogits': counted.mean(-1),
    }
    zeros, classes = torch.zeros(len(labels)), torch.ones(vocab)
    expected = {}
    if by is not None:
        random = np.random.RandomState(seed)
        given = {of: [round(random.uniform(-2, 2), 3) for _ in labels] for of in by}
        case['gradients'] = given
        slopes = [torch.where(active, torch.tensor(given[of]), 0.0) if of in given else zeros for of in RESULTS]
        total = sum((slope_of * results[of]).sum() for slope_of, of in zip(slopes, RESULTS))
        for of in RESULTS:
            expected[of] = torch.where(active, results[of].detach(), 0.0).tolist()
    else:
        epsilon, z_loss = options.get('labelSmoothing', 0), options.get('zLoss', 0)
        weights = torch.cat([part['weights'] for part in parts])
        of_label = torch.ones(len(labels))
        if 'classWeights' in options:
            of_label = torch.tensor(options['classWeights'])[labels]
            classes = torch.tensor(options['classWeights'])
        factor = results['tokenLogProbs'].detach().exp() if options.get('dft', False) else torch.ones(len(labels))
        losses = torch.nn.functional.cross_entropy(
            counted, labels, weight=classes, label_smoothing=epsilon, reduction='none'
        )
        losses = factor * losses + of_label * z_loss * results['logSumExp'] ** 2
        losses = torch.where(active, weights * losses, 0.0)
        divisor = of_label[active].sum()
        total = losses.sum() / divisor * options.get('gradientScale', 1)
        expected = {'loss': (losses.sum() / divisor).item(), 'losses': losses.tolist()}
        each = torch.where(active, weights, 0.0) / divisor * options.get('gradientScale', 1)
        slopes = [
            -each * factor * (1 - epsilon) * of_label,
            each * (factor * epsilon * classes.mean() + 2 * of_label * z_loss * results['logSumExp'].detach()),
            zeros,
            -each * factor * epsilon,
        ]
    total.backward()
    sizes = torch.zeros_like(logits)
    sizes[rows] = slope.detach() * magnitudes_of(p, labels, results['tokenEntropies'].detach(), slopes, classes)
    hidden, weight = leaves['hidden'].detach().abs(), leaves['weight'].detach().abs()
    expected['gradHidden'] = some(leaves['hidden'].grad, sizes @ weight, seed)
    expected['gradWeight'] = some(leaves['weight'].grad, sizes.T @ hidden, seed)
    if bias:
        expected['gradBias'] = some(leaves['bias'].grad, sizes.sum(0), seed)
    case['expected'] = expected
    return case


def head_cases():
    cases = []
    seeds = itertools.count(9001, 3)

    def add(name, shape, width, options, **more):
        cases.append(head_case(name, shape, width, next(seeds), options, **more))

    transforms = [
        {},
        {'logitScale': 0.5, 'temperature': 0.7},
        {'logitSoftcap': 3.0},
        {'logitScale': 1.7, 'logitSoftcap': 5.0, 'temperature': 1.3},
    ]
    for dtype, options in itertools.product(DTYPES, transforms):
        named = ', '.join(['tokens', *(f'{of} {value}' for of, value in options.items()), dtype])
        for bias in (True, False):
            ending = '' if bias else ', no bias'
            add(f'all, {named}{ending}', [2, 5, 130], 24, options, by=RESULTS, bias=bias, dtype=dtype)
        for of in RESULTS:
            add(f'{of}, {named}', [2, 4, 37], 9, options, by=[of], dtype=dtype)
    for dtype in DTYPES:
        add(f'all, vocab 5000, {dtype}', [1, 4, 5000], 40, transforms[3], by=RESULTS, dtype=dtype)

    random = np.random.RandomState(9)
    classes = (random.randint(1, 64, 130) / 16).tolist()
    weights = [0.0, 0.5, 1.0, 0.0, 1.5, -1.0, 1.0, 0.25, 2.0, 1.0]
    losses = [
        {},
        {'labelSmoothing': 0.1},
        {'zLoss': 0.01},
        {'dft': True},
        {'classWeights': classes},
        {'labelSmoothing': 0.1, 'classWeights': classes},
        {'labelSmoothing': 0.1, 'zLoss': 0.01, 'dft': True, 'classWeights': classes, 'tokenWeights': weights},
    ]
    for dtype, options in itertools.product(DTYPES, losses):
        named = ', '.join(['cross-entropy', *options, dtype])
        add(named, [2, 5, 130], 24, {**options, 'gradientScale': 8}, dtype=dtype)
        add(f'{named}, under a cap', [2, 5, 130], 24, {**options, **transforms[3]}, dtype=dtype, bias=False)
    for dtype, gradient in itertools.product(DTYPES, DTYPES):
        options = {**losses[6], **transforms[1], 'gradientDType': gradient, 'gradientScale': -64}
        add(f'cross-entropy, {dtype} to {gradient}', [2, 5, 130], 24, options, dtype=dtype)
    return cases


if __name__ == '__main__':
    write('head.jsonl', check_names(head_cases()))
