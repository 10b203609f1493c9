"""
What PyTorch and the fused kernels that are installed make of the same cases, on the GPU: of logits, or (`heads`) of an
output layer. Reads the cases as JSON from standard input; writes one JSON object a line. A peer that cannot be
imported, or disagrees, says so.
"""

import importlib.util
import json
import math
import statistics
import sys

import torch
import torch._dynamo
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
    # The kernel's own file: the package around it imports transformers.
    [folder] = importlib.util.find_spec("trl").submodule_search_locations
    spec = importlib.util.spec_from_file_location("trl_kernel", f"{folder}/kernels/logprob_entropy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def sequence_log_probs(logits, labels):
        mask = labels != IGNORE
        per_token, _ = module.selective_log_softmax_and_entropy(logits, labels.masked_fill(~mask, 0), row_mask=mask)
        return (per_token * mask).sum(-1)

    return sequence_log_probs


PEERS = {
    "torch eager": lambda: sequence_log_probs_eager,
    "torch.compile": lambda: torch.compile(sequence_log_probs_eager, dynamic=False),
    "torch cross_entropy": lambda: sequence_log_probs_cross_entropy,
    "liger cross_entropy": liger,
    "quack cross_entropy": quack,
    "trl log-prob kernel": trl,
}


def dpo(log_probs, reference):
    half = log_probs.shape[0] // 2
    chosen = log_probs[:half].double() - reference[:half]
    rejected = log_probs[half:].double() - reference[half:]
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


def tell(**fields):
    print(json.dumps(fields), flush=True)


# As in time.mjs.
LEAST_CALLS = 4
LEAST_MS = 5


def median_ms(calls, rounds=15):
    """Of one of the calls, which do the same on a set of arrays each; several of them between two events."""

    def once(passes):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(passes):
            for call in calls:
                call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / (passes * len(calls))

    for _ in range(3):
        roughly = once(1)
    passes = math.ceil(max(LEAST_CALLS, LEAST_MS / roughly) / len(calls))
    return statistics.median(once(passes) for _ in range(rounds))


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
    dtype = getattr(torch, case["dtype"])
    # They take turns: together they are some times the second-level cache.
    turns = [(2 * torch.randn(shape, device="cuda")).to(dtype).requires_grad_() for _ in range(case["turns"])]
    labels = torch.randint(0, case["vocab"], shape[:2], device="cuda")
    labels[:, : int(case["masked"] * shape[1])] = IGNORE
    for stage in ("forward", "step"):

        def call(logits):
            if stage == "forward":
                with torch.no_grad():
                    dpo(function(logits, labels), reference)
            else:
                torch.autograd.grad(dpo(function(logits, labels), reference), logits)

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ms = median_ms([lambda logits=logits: call(logits) for logits in turns])
        tell(case=case["name"], stage=stage, peer=name, ms=ms, peakBytes=torch.cuda.max_memory_allocated() - before)


def head_eager():
    def loss(hidden, weight, labels, reference):
        return dpo(sequence_log_probs_cross_entropy(hidden @ weight.T, labels), reference)

    return loss


def head_liger():
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    function = LigerFusedLinearDPOLoss(beta=BETA, use_ref_model=False)

    def loss(hidden, weight, labels, reference):
        found = function(weight, hidden, labels)  # the reference is 0, which costs it nothing
        return found[0] if isinstance(found, tuple) else found

    return loss


def head_cut():
    from cut_cross_entropy import linear_cross_entropy

    def loss(hidden, weight, labels, reference):
        flat = linear_cross_entropy(hidden, weight, labels, ignore_index=IGNORE, reduction="none")
        return dpo(-flat.view(labels.shape).float().sum(-1), reference)

    return loss


HEADS = {"torch cross_entropy": head_eager, "liger fused linear dpo": head_liger, "cut_cross_entropy": head_cut}


def measure_heads(given):
    batch, length, width, vocab = given["shape"]
    dtype = getattr(torch, given["dtype"])
    torch.manual_seed(1)
    hidden = torch.randn((batch, length, width), device="cuda").to(dtype).requires_grad_()
    weight = (2 / math.sqrt(width) * torch.randn((vocab, width), device="cuda")).to(dtype).requires_grad_()
    with torch.no_grad():
        ms = median_ms([lambda: hidden.flatten(0, 1) @ weight.T])
    rate = 2 * batch * length * width * vocab / ms / 1e9
    tell(case="head", stage="one product", peer="cublas", ms=ms, teraflops=rate)
    for name, make in HEADS.items():
        for case in given["heads"]:
            labels = torch.randint(0, vocab, (batch, length), device="cuda")
            labels[:, : int(case["masked"] * length)] = IGNORE
            # Near the policy's own, as ours is: far from it the gradient would vanish.
            log_prob = -(math.log(vocab) + 2) * length * (1 - case["masked"])
            reference = torch.full((batch,), log_prob, device="cuda", dtype=torch.float64)
            try:
                function = make()

                def step():
                    return torch.autograd.grad(function(hidden, weight, labels, reference), (hidden, weight))

                step()
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                ms = median_ms([step], rounds=7)
                peak = torch.cuda.max_memory_allocated() - before
                tell(case=case["name"], stage="step", peer=name, ms=ms, peakBytes=peak)
            except Exception as error:  # whatever keeps a peer from running is what is reported
                tell(case=case["name"], peer=name, skipped=f"{type(error).__name__}: {str(error).splitlines()[0]}")
            torch.cuda.empty_cache()


def main():
    if hasattr(torch._dynamo.config, "fail_on_recompile_limit_hit"):
        torch._dynamo.config.fail_on_recompile_limit_hit = True
    given = json.load(sys.stdin)
    if "heads" in given:
        return measure_heads(given)
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
                # Compiled anew for each: past a number of shapes dynamo would silently run what is not compiled.
                torch._dynamo.reset()
                measure(name, make(), case, reference)
            except Exception as error:
                tell(case=case["name"], peer=name, skipped=f"{type(error).__name__}: {str(error).splitlines()[0]}")
            torch.cuda.empty_cache()


main()
