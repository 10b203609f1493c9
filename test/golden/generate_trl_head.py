#!/usr/bin/env python3
"""Appends cases to fused-head.jsonl: results and gradients of TRL's output layer (TRL 1.16), in float32 on the CPU.

    python3 test/golden/generate_trl_head.py FIRST_SEED COUNT

Random sizes, temperatures, scales, soft-caps and biases; the first row's label has the largest logit, and some rows have
equal logits. Cases in which float32 leaves nothing to agree with are passed over: a value of TRL's is further than 1e-5 of the
largest from float64, all of a kind are below 1e-3, or two logits at the top differ by less than 1e-5 of their size.
"""

import json
import pathlib
import sys

import torch
from trl.kernels import ChunkedLogProbFunction

FLOATS = ("tokenLogProbs", "tokenEntropies", "logSumSquaredProbs", "tokenMeanLogits", "gradHidden", "gradWeight", "gradBias")
OUTPUTS = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def flat(tensor):
    """Nine digits are a float32."""
    if tensor is None:
        return None
    values = tensor.detach().reshape(-1)
    return [float(f"{x:.9g}") for x in values.tolist()] if values.is_floating_point() else values.tolist()


def in_float64(found):
    """The same by PyTorch's autograd in float64."""
    rows, width, vocab = found["shape"]

    def tensor(name, *shape):
        return torch.tensor(found[name], dtype=torch.float64).reshape(*shape)

    hidden, weight = tensor("hidden", rows, width).requires_grad_(), tensor("weight", vocab, width).requires_grad_()
    bias = None if found["bias"] is None else tensor("bias", vocab).requires_grad_()
    logits = (hidden @ weight.t() + (0 if bias is None else bias)) * found["logitScale"]
    if found["logitSoftcap"] is not None:
        logits = found["logitSoftcap"] * torch.tanh(logits / found["logitSoftcap"])
    logits = logits / found["temperature"]
    log_probs = logits.log_softmax(-1)
    of_labels = log_probs.gather(1, torch.tensor(found["labels"])[:, None])[:, 0]
    entropies = -(log_probs.exp() * log_probs).sum(-1)
    ((tensor("dTokenLogProbs", rows) * of_labels).sum() + (tensor("dTokenEntropies", rows) * entropies).sum()).backward()
    log_sum_sq = torch.logsumexp(2 * log_probs, -1)
    gradients = (hidden.grad, weight.grad, None if bias is None else bias.grad)
    of_label = logits.gather(1, torch.tensor(found["labels"])[:, None])
    gaps = ((logits - of_label).abs() / logits.abs().max())[logits != of_label]
    if (gaps < 1e-5).any():
        return None
    return dict(zip(FLOATS, (of_labels, entropies, log_sum_sq, logits.mean(-1), *gradients)))


def is_near(found):
    exactly = in_float64(found)
    if exactly is None:
        return False
    for name, exact in exactly.items():
        if exact is None:
            continue
        largest = exact.abs().max().item()
        error = (torch.tensor(found[name], dtype=torch.float64) - exact.detach().reshape(-1)).abs().max().item()
        if largest < 1e-3 or not error <= 1e-5 * largest:
            return False
    return True


def case(seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def pick(*values):
        return values[int(torch.randint(len(values), (), generator=generator))]

    rows, width, vocab = pick(1, 5, 13), pick(1, 3, 17), pick(2, 31, 128)
    temperature, scale, softcap = pick(0.5, 1.0, 1.7), pick(1.0, 0.25, 2.5), pick(None, 3.0, 30.0)
    hidden = normal(rows, width).mul(pick(0.3, 1.0, 4.0)).requires_grad_()
    weight = normal(vocab, width).requires_grad_()
    if pick(True, False):
        with torch.no_grad():
            weight[1] = weight[0]  # equal logits
    bias = normal(vocab).requires_grad_() if pick(True, False) else None
    labels = torch.randint(vocab, (rows,), generator=generator)
    labels[0] = int((hidden[0] @ weight.t()).argmax())
    slopes, entropy_slopes = normal(rows), normal(rows)
    log_probs, entropies, log_sum_sq, mean_logits, is_top1 = ChunkedLogProbFunction.apply(
        hidden, weight, bias, labels, temperature, pick(7, 64, 32768), softcap, scale, OUTPUTS
    )
    ((slopes * log_probs).sum() + (entropy_slopes * entropies).sum()).backward()
    return {
        "shape": [rows, width, vocab],
        "temperature": temperature,
        "logitSoftcap": softcap,
        "logitScale": scale,
        "hidden": flat(hidden),
        "weight": flat(weight),
        "bias": flat(bias),
        "labels": flat(labels),
        "dTokenLogProbs": flat(slopes),
        "dTokenEntropies": flat(entropy_slopes),
        "tokenLogProbs": flat(log_probs),
        "tokenEntropies": flat(entropies),
        "logSumSquaredProbs": flat(log_sum_sq),
        "tokenMeanLogits": flat(mean_logits),
        "isTop1": flat(is_top1),
        "gradHidden": flat(hidden.grad),
        "gradWeight": flat(weight.grad),
        "gradBias": None if bias is None else flat(bias.grad),
    }


if __name__ == "__main__":
    first, count = (int(value) for value in sys.argv[1:])
    with open(pathlib.Path(__file__).with_name("fused-head.jsonl"), "a") as file:
        for seed in range(first, first + count):
            found = case(seed)
            if is_near(found):
                file.write(json.dumps(found) + "\n")
            else:
                print(f"passed over: seed {seed}")
