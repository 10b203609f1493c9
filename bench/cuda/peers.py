"""
What PyTorch and the fused kernels that are installed make of the same cases, on the GPU. Reads the cases as JSON from
standard input; writes one JSON object a line. A peer that cannot be imported, or disagrees, says so.
"""

import json
import math
import statistics
import sys

import torch
import torch.nn.functional as F

BETA = 0.1
IGNORE = -100


def sequence_log_probs_eager(logits, labels):
    """The code that everyone copies."""
    mask = labels != IGNORE
    safe = labels.masked_fill(~mask, 0)
    per_token = torch.gather(logits.log_softmax(-1), 2, safe.unsqueeze(2)).squeeze(2)
    return (per_token * mask).sum(-1)


def sequence_log_probs_cross_entropy(logits, labels):
    """The fastest honest formulation without a kernel of one's own."""
    flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none")
    return -flat.view(labels.shape).sum(-1)


def liger():
    from liger_kernel.transformers.functional import liger_cross_entropy

    def sequence_log_probs(logits, labels):
        flat = liger_cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none")
        return -flat.view(labels.shape).sum(-1)

    return sequence_log_probs


def quack():
    from quack.cross_entropy import cross_entropy

    def sequence_log_probs(logits, labels):
        flat = cross_entropy(logits.flatten(0, 1), labels.flatten().long(), ignore_index=IGNORE, reduction="none")
        return -flat.view(labels.shape).sum(-1)

    return sequence_log_probs


def trl():
    from trl_losses import selective_log_softmax

    def sequence_log_probs(logits, labels):
        mask = labels != IGNORE
        return (selective_log_softmax(logits, labels.masked_fill(~mask, 0)) * mask).sum(-1)

    return sequence_log_probs


PEERS = {
    "torch eager": lambda: sequence_log_probs_eager,
    "torch.compile": lambda: torch.compile(sequence_log_probs_eager, dynamic=False),
    "torch cross_entropy": lambda: sequence_log_probs_cross_entropy,
    "liger cross_entropy": liger,
    "quack cross_entropy": quack,
    "trl selective_log_softmax": trl,
}


def dpo(log_probs, reference):
    half = log_probs.shape[0] // 2
    chosen = log_probs[:half].double() - reference[:half]
    rejected = log_probs[half:].double() - reference[half:]
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


def tell(**fields):
    print(json.dumps(fields), flush=True)


def median_ms(call, rounds=15):
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def agrees(function, problem, reference):
    logits = torch.tensor(problem["logits"], device="cuda").view(problem["shape"]).requires_grad_()
    labels = torch.tensor(problem["labels"], device="cuda").view(problem["shape"][:2])
    loss = dpo(function(logits, labels), reference)
    (gradient,) = torch.autograd.grad(loss, logits)
    wanted = torch.tensor(problem["gradient"], device="cuda").view(problem["shape"])
    off = ((gradient - wanted).norm() / wanted.norm()).item()
    return abs(loss.item() - problem["loss"]) < 1e-4 * max(1, abs(problem["loss"])) and off < 1e-3, off


def measure(name, function, case, reference):
    shape = (8, case["rows"] // 8, case["vocab"])
    torch.manual_seed(1)
    logits = (2 * torch.randn(shape, device="cuda")).to(getattr(torch, case["dtype"])).requires_grad_()
    labels = torch.randint(0, case["vocab"], shape[:2], device="cuda")
    labels[:, : int(case["masked"] * shape[1])] = IGNORE
    for stage in ("forward", "step"):

        def call():
            if stage == "forward":
                with torch.no_grad():
                    dpo(function(logits, labels), reference)
            else:
                torch.autograd.grad(dpo(function(logits, labels), reference), logits)

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ms = median_ms(call)
        tell(case=case["name"], stage=stage, peer=name, ms=ms, peakBytes=torch.cuda.max_memory_allocated() - before)


def main():
    given = json.load(sys.stdin)
    reference = torch.tensor(given["reference"]["chosen"] + given["reference"]["rejected"], device="cuda").double()
    for name, make in PEERS.items():
        try:
            function = make()
            good, off = agrees(function, given["agreement"], reference)
            if not good or not math.isfinite(off):
                tell(case="agreement", peer=name, skipped=f"its gradient is {off:.1e} away from ours")
                continue
        except Exception as error:  # whatever keeps a peer from running is what is reported
            tell(case="agreement", peer=name, skipped=f"{type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        for case in given["cases"]:
            try:
                measure(name, function, case, reference)
            except Exception as error:
                tell(case=case["name"], peer=name, skipped=f"{type(error).__name__}: {str(error).splitlines()[0]}")
            torch.cuda.empty_cache()


main()
