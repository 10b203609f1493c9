"""The PyTorch side of torch.mjs: one JSON request a line on standard input, one answer a line on standard output.

The logits follow the line that announces them, as raw bytes. Times are taken here, so that no message is in them.
"""

import importlib.metadata
import json
import math
import os
import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

BETA = 0.1
# The words of the vocabulary that TRL's trainers take at a time.
TRL_CHUNK = 32768
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Absent(Exception):
    """This PyTorch does not have what is asked for."""


def sequence_log_probs(logits, labels, shift):
    """What trainers have: log_softmax, gather, mask, sum, in float32."""
    logits = logits.to(torch.float32)
    if shift:
        logits, labels = logits[:, :-1, :], labels[:, 1:].clone()
    else:
        labels = labels.clone()
    mask = labels != -100
    labels[labels == -100] = 0
    per_token = torch.gather(logits.log_softmax(-1), dim=2, index=labels.unsqueeze(2)).squeeze(2)
    return (per_token * mask).sum(-1)


def sequence_log_probs_by_cross_entropy(logits, labels, shift, select, widen):
    """The fastest formulation there is without a kernel of one's own: no copy of the logits, log_softmax and gather
    in one function, only rows that count when many do not."""
    batch, length, vocab = logits.shape
    if shift:
        labels = torch.cat([labels[:, 1:], labels.new_full((batch, 1), -100)], 1)
    rows, labels = logits.view(-1, vocab), labels.reshape(-1)
    if select:
        index = (labels != -100).nonzero().squeeze(1)
        rows = rows.index_select(0, index)
        if widen:
            rows = rows.to(torch.float32)
        per_token = -F.cross_entropy(rows, labels[index], reduction="none").to(torch.float32)
        sequences = torch.div(index, length, rounding_mode="floor")
        return torch.zeros(batch).index_add(0, sequences, per_token)
    if widen:
        rows = rows.to(torch.float32)
    per_token = -F.cross_entropy(rows, labels, reduction="none", ignore_index=-100)
    return per_token.to(torch.float32).view(batch, length).sum(1)


def dpo(log_probs, reference_margins):
    pairs = log_probs.shape[0] // 2
    margins = log_probs[:pairs] - log_probs[pairs:]
    return -F.logsigmoid(BETA * (margins - reference_margins)).mean()


def entropy_of(log_probs):
    return -(log_probs.exp() * log_probs).sum(-1)


def trl_head(hidden, weight, labels, outputs):
    """What TRL's SFT, DPO and GRPO trainers call."""
    from trl.kernels import ChunkedLogProbFunction

    states = hidden.reshape(-1, hidden.shape[-1])
    targets = labels.clamp(min=0).reshape(-1)
    return ChunkedLogProbFunction.apply(states, weight, None, targets, 1.0, TRL_CHUNK, None, 1.0, outputs)


def linear_by_chunks(hidden, weight, labels, shift, rows=128):
    """Logits of some rows at a time, thrown away and computed again for the gradient: what chunked losses do."""
    batch, length, width = hidden.shape
    if shift:
        labels = torch.cat([labels[:, 1:], labels.new_full((batch, 1), -100)], 1)
    index = (labels.reshape(-1) != -100).nonzero().squeeze(1)
    states, labels = hidden.reshape(-1, width)[index], labels.reshape(-1)[index]

    def per_token(states, labels):
        return -F.cross_entropy(states @ weight.t(), labels, reduction="none")

    parts = [
        checkpoint(per_token, states[i : i + rows], labels[i : i + rows]) for i in range(0, len(labels), rows)
    ]
    sequences = torch.div(index, length, rounding_mode="floor")
    return torch.zeros(batch).index_add(0, sequences, torch.cat(parts).to(torch.float32))


def cross_entropy_takes(dtype):
    try:
        x = torch.zeros(2, 4, dtype=dtype, requires_grad=True)
        F.cross_entropy(x, torch.zeros(2, dtype=torch.int64), reduction="none").sum().backward()
        return True
    except RuntimeError:
        return False


def products_by(dtype, width):
    """oneDNN's name, with the instruction set, of what it multiplies output layers with; None where it does not."""
    if not torch.backends.mkldnn.is_available():
        return None
    states, weight = torch.ones(64, width, dtype=dtype), torch.ones(256, width, dtype=dtype)
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+") as told:
        own = os.dup(1)
        os.dup2(told.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                states @ weight.t()
        finally:
            os.dup2(own, 1)
            os.close(own)
        told.seek(0)
        calls = [line.split(",") for line in told if ",exec,cpu,matmul," in line]
    return calls[-1][calls[-1].index("matmul") + 1] if calls else None


class Job:
    def __init__(self, request):
        torch.set_num_threads(request["threads"])
        self.entropies = request["workload"].get("entropies", False)
        self.by_products = request["workload"].get("byProducts", False)
        self.coefficients = torch.tensor(request["coefficients"], dtype=torch.float32)
        self.entropy_slope = request["entropySlope"]
        self.stage = request["workload"]["stage"].replace("linear-", "")
        self.positions = torch.tensor(request["positions"], dtype=torch.int64)
        chosen, rejected = (torch.tensor(request[name], dtype=torch.float32) for name in ("chosen", "rejected"))
        self.margins = chosen - rejected
        self.note = self.weight = None
        if self.stage == "loss":
            self.inputs = [torch.tensor(request["policy"], dtype=torch.float32) for _ in range(request["copies"])]
        else:
            self.prepare_logits(request)
        if self.stage != "forward":
            for copy in self.inputs:
                copy.requires_grad_(True)
            if self.weight is not None:
                self.weight.requires_grad_(True)
        self.log_probs = self.loss = self.last = None

    def prepare_logits(self, request):
        workload, formulation = request["workload"], request["formulation"]
        self.formulation = formulation
        of_tokens = self.token_loss if self.stage == "tokens" else self.mean_cross_entropy
        compiled = formulation == "compile" and self.stage == "tokens"
        self.loss_of_tokens = torch.compile(of_tokens) if compiled else of_tokens
        if formulation == "compile" and not hasattr(torch, "compile"):
            raise Absent(f"torch {torch.__version__} has no torch.compile")
        batch, length, vocab = workload["shape"]
        dtype = DTYPES[workload["dtype"]]
        width = workload.get("width")
        logits = self.read(dtype, batch, length, width or vocab)
        used = None
        if width:
            self.weight = self.read(dtype, vocab, width)
            try:
                used = products_by(dtype, width)
            except Exception:  # of which only the note would tell
                used = None
        self.inputs = [logits.clone() for _ in range(request["copies"])]
        self.labels = torch.tensor(request["labels"], dtype=torch.int64).view(batch, length)
        self.shift = workload["shift"]
        if formulation == "trl":
            self.note = f"{TRL_CHUNK} words of the vocabulary at a time"
            self.forward = self.linear_by_trl
        elif width:
            chunks = formulation == "cross-entropy"
            self.note = "128 rows at a time" if chunks else None
            forward = self.linear_by_chunks if chunks else self.linear_as_written
            self.forward = torch.compile(forward) if formulation == "compile" else forward
        elif formulation == "cross-entropy":
            self.select = workload["masked"] > 0
            self.widen = not cross_entropy_takes(dtype)
            if self.widen:
                self.note = f"converted to float32: no {workload['dtype']} kernel"
            self.forward = self.by_cross_entropy
        else:
            if dtype != torch.float32:
                self.note = "converted to float32, as trainers do"
            self.forward = torch.compile(self.as_written) if formulation == "compile" else self.as_written
        if used:
            self.note = "; ".join(filter(None, [self.note, f"products by oneDNN's {used}"]))

    @staticmethod
    def read(dtype, *shape):
        data = bytearray(math.prod(shape) * (4 if dtype == torch.float32 else 2))
        view, filled = memoryview(data), 0
        while filled < len(data):
            count = sys.stdin.buffer.readinto(view[filled:])
            if not count:
                raise EOFError("the inputs end early")
            filled += count
        return torch.frombuffer(data, dtype=dtype).view(*shape)

    def linear_as_written(self, hidden):
        return sequence_log_probs(hidden @ self.weight.t(), self.labels, self.shift)

    def linear_by_chunks(self, hidden):
        return linear_by_chunks(hidden, self.weight, self.labels, self.shift)

    def linear_by_trl(self, hidden):
        log_probs, *_ = trl_head(hidden, self.weight, self.labels, ())
        return (log_probs.view(self.labels.shape) * (self.labels != -100)).sum(-1)

    def as_written(self, logits):
        return sequence_log_probs(logits, self.labels, self.shift)

    def by_cross_entropy(self, logits):
        return sequence_log_probs_by_cross_entropy(logits, self.labels, self.shift, self.select, self.widen)

    def token_loss(self, logits):
        """A caller's loss of tokens: each log-prob times its coefficient, and the entropies."""
        if self.formulation == "trl":
            outputs = ("entropy",) if self.entropies else ()
            if self.by_products:
                outputs = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
            log_probs, entropies, *_ = trl_head(logits, self.weight, self.labels, outputs)
        else:
            if self.weight is not None:
                logits = logits @ self.weight.t()
            rows = logits.view(-1, logits.shape[-1]).to(torch.float32)
            labels = self.labels.reshape(-1)
            if self.entropies:
                all_log_probs = rows.log_softmax(-1)
                log_probs = all_log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)
                entropies = entropy_of(all_log_probs)
            elif self.formulation == "cross-entropy":
                log_probs = -F.cross_entropy(rows, labels, reduction="none")
            else:
                log_probs = rows.log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1)
        loss = (self.coefficients * log_probs).sum()
        return loss + self.entropy_slope * entropies.sum() if self.entropies else loss

    def mean_cross_entropy(self, logits):
        if self.forward != self.by_cross_entropy:
            labels = self.labels[:, 1:] if self.shift else self.labels
            return -self.forward(logits).sum() / (labels != -100).sum()
        labels = self.labels
        if self.shift:
            labels = torch.cat([labels[:, 1:], labels.new_full((labels.shape[0], 1), -100)], 1)
        rows = logits.view(-1, logits.shape[-1])
        return F.cross_entropy(rows.to(torch.float32) if self.widen else rows, labels.reshape(-1))

    def run(self, copy):
        self.last = self.inputs[copy]
        if self.stage == "forward":
            with torch.no_grad():
                self.log_probs = self.forward(self.last)
            return
        self.last.grad = None
        if self.weight is not None:
            self.weight.grad = None
        if self.stage in ("tokens", "cross-entropy", "cross-entropy-step"):
            loss = self.loss_of_tokens(self.last)
            loss.backward()
            self.loss = loss.item()
            return
        log_probs = self.last if self.stage == "loss" else self.forward(self.last)
        loss = dpo(log_probs, self.margins)
        loss.backward()
        self.log_probs, self.loss = log_probs.detach(), loss.item()

    def result(self):
        out = {} if self.log_probs is None else {"logProbs": self.log_probs.tolist()}
        if self.stage != "forward":
            gradient = self.last.grad.view(-1)
            if self.weight is not None:
                gradient = torch.cat([gradient, self.weight.grad.view(-1)])
            out["loss"] = self.loss
            out["gradient"] = (gradient if self.stage == "loss" else gradient[self.positions]).tolist()
        return out


def answer(job, request):
    if request["command"] == "run":
        start, processor = time.perf_counter(), time.process_time()
        job.run(request["copy"])
        return {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
    return job.result()


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main():
    print(json.dumps({"versions": {"torch": torch.__version__, "trl": version("trl")}}), flush=True)
    job = None
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        try:
            if request["command"] == "prepare":
                job = Job(request)
                reply = {"threads": torch.get_num_threads(), "note": job.note}
            else:
                reply = answer(job, request)
        except Absent as error:
            reply = {"failure": str(error), "absent": True}
        except Exception as error:  # told to the other side, which decides
            reply = {"failure": f"{type(error).__name__}: {error}".split("\n")[0]}
        print(json.dumps(reply), flush=True)


main()
