#!/usr/bin/env python3
"""Writes cross-entropy.jsonl: what PyTorch's cross_entropy says, in float64, and its autograd.

    python3 test/golden/generate_cross_entropy.py

As generate.py, whose inputs these are. Beside each loss and each derivative stands a scale, as docs/numerics.md states
the bounds in it: of a derivative the sum of the magnitudes of its terms.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F

from generate import DTYPES, build, check_names, load, sample, split, write
from generate_tokens import tanh


def cross_entropy_case(case):
    options = case['options']
    leaf = torch.tensor(load(case['logits']), requires_grad=True)
    rows, vocab = leaf.shape
    temperature, scaling, cap = options.get('temperature', 1), options.get('logitScale', 1), options.get('logitSoftcap')
    epsilon, z = options.get('labelSmoothing', 0), options.get('zLoss', 0)
    classes = torch.tensor(options['classWeights']) if 'classWeights' in options else None
    normalizer, deferred = options.get('normalizer', 'mean'), options.get('deferredScale', False)
    # Each class's own weight in the smoothed loss; 1 where there is none.
    of_classes = torch.ones(vocab) if classes is None or epsilon == 0 else classes
    divisor, total = 0.0, torch.zeros(())
    losses, scales, magnitudes, row_scales = [], [], torch.zeros(rows, vocab), []
    parts = split(case)
    for part in parts:
        active, labels, weights = part['active'], part['labels'], part['weights']
        scaled = leaf[part['rows']] * scaling
        logits = (scaled if cap is None else cap * tanh(scaled / cap)) / temperature
        slope = torch.full_like(logits, scaling / temperature)
        if cap is not None:
            slope /= torch.cosh(scaled.detach() / cap) ** 2
        loss = F.cross_entropy(logits, labels, weight=classes, label_smoothing=epsilon, reduction='none')
        of_class = torch.ones(len(labels)) if classes is None else classes[labels]
        p = logits.detach().softmax(-1)
        of_label = p.gather(-1, labels[:, None])[:, 0]
        factor = of_label if options.get('dft', False) else torch.ones(())
        total_log = logits.logsumexp(-1)
        loss = weights * (factor * loss + (of_class * z * total_log**2 if z else 0))
        loss = torch.where(active & (weights != 0), loss, 0.0)
        total = total + loss.sum()
        divisor += of_class[active].sum().item()
        losses += loss.tolist()
        if deferred:
            # The gradient of log p alone, of the rows that take part.
            row_scales += torch.where(active, -weights * of_class * factor.detach(), 0.0).tolist()
            part['logProbs'] = torch.where(
                active & (weights * of_class != 0), -F.cross_entropy(logits, labels, reduction='none'), 0.0
            )

        # Of the label's own weight, in the terms that have it.
        smoothed = torch.ones(()) if of_classes is not classes else (1 - epsilon) + epsilon * classes.mean() / of_class
        factors = weights.abs() * of_class
        log_prob, total_log = -F.cross_entropy(logits, labels, reduction='none').detach(), total_log.detach()
        finite = torch.where(log_prob.isfinite(), log_prob.abs(), 0)
        scale = torch.maximum(finite.clamp(min=1), total_log.abs())
        of_loss = smoothed * factor * (1 + finite if options.get('dft', False) else 1)
        scale = factors * scale * (of_loss + 2 * z * total_log.abs())
        scales += torch.where(active, scale, 0.0).tolist()
        relative = of_classes.mean() / of_class if of_classes is classes else torch.ones(())
        of_total = (factor * epsilon * relative + 2 * z * total_log) * torch.ones(len(labels))
        to_label = factor * (1 - epsilon) * torch.ones(len(labels))
        others = (of_total + to_label).abs()[:, None] * p
        at_label = (to_label * (1 - of_label) + of_total.abs() * of_label)[:, None]
        is_label = F.one_hot(labels, vocab) == 1
        of_mean = ((factor * epsilon / vocab) * torch.ones(len(labels)))[:, None]
        if of_classes is classes:
            of_mean = of_mean * classes / of_class[:, None]
        size = torch.where(is_label, at_label, others) + of_mean
        if deferred:
            size = torch.where(is_label, 1 - of_label[:, None], p) / factors[:, None]
        magnitudes[part['rows']] = torch.where(active[:, None], slope.detach() * factors[:, None] * size, 0.0)
        if 'sequenceOffsets' in options and options.get('shift', True):
            for values in (losses, scales, row_scales):
                values.append(0.0)
    if normalizer == 'sum':
        divisor = 1.0
    elif normalizer != 'mean':
        divisor = normalizer['tokens'] if isinstance(normalizer, dict) else normalizer
    mean = total / divisor
    scale = options.get('gradientScale', 1)
    factor = 1 if deferred else abs(scale) / divisor
    (sum(part['logProbs'].sum() for part in parts) if deferred else mean * scale).backward()
    gradient = sample(leaf.grad, case)
    flat = magnitudes.nan_to_num(0.0).reshape(-1) * factor if deferred or scale != 1 else magnitudes.reshape(-1) / divisor
    gradient['magnitudes'] = [short(flat[i].item()) for i in gradient.get('at', range(len(flat)))]
    case['expected'] = {
        'loss': mean.item(),
        'losses': losses,
        'scales': [short(x) for x in scales],
        'divisor': divisor,
        'tokenCounts': [int(part['active'].sum()) for part in parts],
        'gradient': gradient,
    }
    if deferred:
        case['expected']['rowScale'] = [x / divisor * scale + 0.0 for x in row_scales]
    check_plain(case, leaf.detach())
    return case


def check_plain(case, logits):
    """PyTorch's own mean, where that is all a case asks for."""
    options = case['options']
    if not set(options) <= {'shift', 'temperature', 'labelSmoothing', 'classWeights'}:
        return
    labels = torch.cat([torch.where(part['active'], part['labels'], -100) for part in split(case)])
    of_parts = torch.cat([logits[part['rows']] for part in split(case)]) / options.get('temperature', 1)
    classes = torch.tensor(options['classWeights']) if 'classWeights' in options else None
    mean = F.cross_entropy(of_parts, labels, classes, label_smoothing=options.get('labelSmoothing', 0)).item()
    assert mean == case['expected']['loss'] or abs(mean / case['expected']['loss'] - 1) < 1e-12, case['name']


def short(x):
    return float('%.3g' % (x * 1.005))


def cross_entropy_cases():
    cases = []
    seeds = itertools.count(7001)

    def add(name, shape, options=None, **more):
        cases.append(cross_entropy_case(build(name, shape, next(seeds), options, **more)))

    random = np.random.RandomState(7)
    classes = (random.randint(0, 64, 33) / 16).tolist()
    weights = [0.0, 0.5, 1.0, 0.0, 1.5, -1.0, 1.0, 0.25]
    everything = {'labelSmoothing': 0.1, 'zLoss': 0.01, 'dft': True, 'temperature': 0.7, 'tokenWeights': weights}
    for dtype in DTYPES:
        for vocab in (1, 2, 7, 64, 65, 1025, 16385, 32000):
            add(f'vocab {vocab}, {dtype}', [2, 4, vocab], dtype=dtype)
            options = {'labelSmoothing': 0.1, 'zLoss': 0.01}
            add(f'labelSmoothing, zLoss, vocab {vocab}, {dtype}', [2, 4, vocab], options, dtype=dtype)
        for std in (0.1, 10.0, 30.0):
            add(f'std {std}, {dtype}', [2, 4, 130], dtype=dtype, std=std)
            add(f'everything, std {std}, {dtype}', [2, 4, 130], everything, dtype=dtype, std=std)
        add(f'labelSmoothing 0.1, {dtype}', [2, 4, 33], {'labelSmoothing': 0.1}, dtype=dtype)
        add(f'labelSmoothing 1, {dtype}', [2, 4, 33], {'labelSmoothing': 1}, dtype=dtype)
        add(f'zLoss 0.01, {dtype}', [2, 4, 33], {'zLoss': 0.01}, dtype=dtype)
        add(f'dft, {dtype}', [2, 4, 33], {'dft': True}, dtype=dtype)
        add(f'classWeights, {dtype}', [2, 4, 33], {'classWeights': classes}, dtype=dtype)
        add(f'tokenWeights, {dtype}', [2, 4, 33], {'tokenWeights': weights}, dtype=dtype)
        add(f'far logits, {dtype}', [2, 3, 65], {'labelSmoothing': 0.1}, dtype=dtype, mean=900.0)
        add(f'padded, {dtype}', [2, 4, 61], {'labelSmoothing': 0.1}, dtype=dtype, pad=(3, 5))
        add(f'shift false, {dtype}', [2, 3, 20], {'shift': False, 'zLoss': 0.01}, dtype=dtype)
        packed = {'sequenceOffsets': [0, 4, 9], 'dft': True}
        add(f'packed, {dtype}', [9, 20], packed, dtype=dtype)
    for normalizer in ('sum', 10, {'tokens': 7.5}):
        add(f'normalizer {normalizer}', [2, 4, 33], {'normalizer': normalizer})
        add(f'normalizer {normalizer}, everything', [2, 4, 33], {**everything, 'normalizer': normalizer})
    options = {'classWeights': classes, 'tokenWeights': weights, 'zLoss': 0.01, 'dft': True}
    add('classWeights with other weights', [2, 4, 33], options)
    add('temperature 0.7', [2, 4, 33], {'temperature': 0.7})
    mask = [1, 1, 0, 1, 1, 1, 1, 0]
    add('mask', [2, 4, 33], {'mask': mask})
    add('ignoreIndex 0', [2, 4, 33], {'ignoreIndex': 0}, ignore=0)
    add('-inf logits', [2, 4, 30], {'zLoss': 0.01}, holes=3, lift=[0.0, -2.0])
    add('-inf logits, labelSmoothing', [2, 4, 30], {'labelSmoothing': 0.1}, holes=3, lift=[0.0, -2.0])
    transforms = (
        {'logitScale': 0.0625},
        {'logitScale': 3.7, 'temperature': 0.9},
        {'logitSoftcap': 30.0},
        {'logitScale': 1.7, 'logitSoftcap': 5.0, 'temperature': 0.7},
    )
    for dtype in DTYPES:
        for transform in transforms:
            name = ', '.join(f'{key} {value}' for key, value in transform.items())
            add(f'{name}, {dtype}', [2, 4, 33], transform, dtype=dtype)
            add(f'{name}, everything, {dtype}', [2, 4, 130], {**everything, **transform}, dtype=dtype, std=10.0)
        capped = {'labelSmoothing': 0.1, 'zLoss': 0.01, 'logitSoftcap': 8.0}
        add(f'vocab 32000 under a cap, {dtype}', [2, 4, 32000], capped, dtype=dtype)
        add(f'padded, under a cap, {dtype}', [2, 4, 61], capped, dtype=dtype, pad=(3, 5))
    # Weights of at least 1 / 16: PyTorch's own smoothed loss is NaN where one of 0 stands at a logit of -inf.
    classes = (random.randint(1, 64, 130) / 16).tolist()
    both = {'labelSmoothing': 0.1, 'classWeights': classes}
    for dtype in DTYPES:
        add(f'labelSmoothing with classWeights, {dtype}', [2, 4, 130], both, dtype=dtype)
        add(f'labelSmoothing 1 with classWeights, {dtype}', [2, 4, 130], {**both, 'labelSmoothing': 1}, dtype=dtype)
        add(f'classWeights, everything, {dtype}', [2, 4, 130], {**everything, **both}, dtype=dtype, std=10.0)
        capped = {**everything, **both, 'logitSoftcap': 5.0, 'logitScale': 1.7}
        add(f'classWeights, everything under a cap, {dtype}', [2, 4, 130], capped, dtype=dtype)
        large = {'labelSmoothing': 0.1, 'classWeights': (random.randint(1, 64, 5000) / 16).tolist()}
        add(f'labelSmoothing with classWeights, vocab 5000, {dtype}', [1, 3, 5000], large, dtype=dtype)
        deferred = {'deferredScale': True, 'tokenWeights': weights, 'gradientScale': 1024}
        add(f'deferredScale, {dtype}', [2, 4, 130], deferred, dtype=dtype)
        dft = {**deferred, 'dft': True, 'temperature': 0.7, 'logitSoftcap': 8.0}
        add(f'deferredScale, dft under a cap, {dtype}', [2, 4, 130], dft, dtype=dtype)
        packed = {'deferredScale': True, 'sequenceOffsets': [0, 4, 9], 'classWeights': classes[:20]}
        add(f'deferredScale, packed, {dtype}', [9, 20], packed, dtype=dtype)
        for gradient in DTYPES:
            options = {'gradientDType': gradient, 'gradientScale': 512}
            add(f'{dtype} to {gradient}', [2, 4, 130], options, dtype=dtype)
            add(f'{dtype} to {gradient}, everything', [2, 4, 130], {**everything, **both, **options}, dtype=dtype)
            capped = {**everything, 'logitSoftcap': 5.0, **options, 'gradientScale': -3}
            add(f'{dtype} to {gradient}, under a cap', [2, 4, 1025], capped, dtype=dtype)
    add('-inf logits, labelSmoothing with classWeights', [2, 4, 130], both, holes=3, lift=[0.0, -2.0])
    ignored = {**both, 'ignoreIndex': 0, 'normalizer': 'sum'}
    add('labelSmoothing with classWeights, ignoreIndex 0, sum', [2, 4, 130], ignored, ignore=0)
    return cases


if __name__ == '__main__':
    write('cross-entropy.jsonl', check_names(cross_entropy_cases()))
