"""The JAX side of xla.mjs: one JSON request a line on standard input, one answer a line on standard output.

The logits follow the line that announces them, as raw bytes. Times are taken here, so that no message is in them.
"""

import json
import math
import os
import sys
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

BETA = 0.1
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def read(dtype, *shape):
    data = bytearray(math.prod(shape) * np.dtype(dtype).itemsize)
    view, filled = memoryview(data), 0
    while filled < len(data):
        count = sys.stdin.buffer.readinto(view[filled:])
        if not count:
            raise EOFError("the inputs end early")
        filled += count
    return np.frombuffer(data, dtype=dtype).reshape(shape)


class Job:
    def __init__(self, request):
        workload = request["workload"]
        self.stage = workload["stage"].replace("linear-", "")
        self.entropies = workload.get("entropies", False)
        batch, length, vocab = workload["shape"]
        width = workload.get("width")
        dtype = DTYPES[workload["dtype"]]
        logits = read(dtype, batch, length, width or vocab)
        self.weight = jnp.asarray(read(dtype, vocab, width)) if width else None
        self.inputs = [jnp.array(logits) for _ in range(request["copies"])]
        labels = np.array(request["labels"]).reshape(batch, length)
        if workload["shift"]:
            labels = np.concatenate([labels[:, 1:], np.full((batch, 1), -100)], 1)
        self.mask = jnp.asarray(labels != -100)
        self.labels = jnp.asarray(np.maximum(labels, 0))
        self.margins = jnp.asarray(np.array(request["chosen"]) - np.array(request["rejected"]), jnp.float32)
        self.coefficients = jnp.asarray(request["coefficients"], jnp.float32).reshape(batch, -1)
        self.entropy_slope = request["entropySlope"]
        self.positions = np.array(request["positions"])
        losses = {"tokens": self.token_loss, "cross-entropy": self.cross_entropy}
        loss = losses.get(self.stage, self.dpo)
        places = (0, 1) if width else 0
        self.step = jax.jit(jax.value_and_grad(loss, argnums=places, has_aux=True))
        self.forward = jax.jit(self.sums)

    def rows(self, logits, weight):
        """float32 log-softmax of each row."""
        if weight is not None:
            logits = jnp.matmul(logits, weight.T)
        return jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)

    def pick(self, rows):
        return jnp.take_along_axis(rows, self.labels[..., None], axis=-1)[..., 0] * self.mask

    def sums(self, logits, weight):
        return self.pick(self.rows(logits, weight)).sum(-1)

    def dpo(self, logits, weight):
        sums = self.sums(logits, weight)
        pairs = sums.shape[0] // 2
        margins = sums[:pairs] - sums[pairs:]
        return -jax.nn.log_sigmoid(BETA * (margins - self.margins)).mean(), sums

    def cross_entropy(self, logits, weight):
        return -self.sums(logits, weight).sum() / self.mask.sum(), None

    def token_loss(self, logits, weight):
        rows = self.rows(logits, weight)
        loss = (self.coefficients * self.pick(rows)).sum()
        if self.entropies:
            loss += self.entropy_slope * -(jnp.exp(rows) * rows).sum()
        return loss, None

    def run(self, copy):
        if self.stage == "forward":
            self.last = jax.block_until_ready(self.forward(self.inputs[copy], self.weight))
        else:
            self.last = jax.block_until_ready(self.step(self.inputs[copy], self.weight))

    def result(self):
        if self.stage == "forward":
            return {"logProbs": np.asarray(self.last).tolist()}
        (loss, sums), gradient = self.last
        parts = gradient if isinstance(gradient, tuple) else (gradient,)
        flat = np.concatenate([np.asarray(part).reshape(-1) for part in parts])
        out = {"loss": float(loss), "gradient": flat[self.positions].astype(np.float64).tolist()}
        return out if sums is None else {**out, "logProbs": np.asarray(sums).tolist()}


def answer(job, request):
    if request["command"] == "run":
        start, processor = time.perf_counter(), time.process_time()
        job.run(request["copy"])
        return {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
    return job.result()


def main():
    print(json.dumps({"versions": {"jax": jax.__version__}}), flush=True)
    job = None
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        try:
            if request["command"] == "prepare":
                # XLA makes its threads when it first computes: as many as there are CPUs for the process.
                if hasattr(os, "sched_setaffinity"):
                    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: request["threads"]])
                job = Job(request)
                reply = {"note": None}
            else:
                reply = answer(job, request)
        except Exception as error:  # told to the other side, which decides
            reply = {"failure": f"{type(error).__name__}: {error}".split("\n")[0]}
        print(json.dumps(reply), flush=True)


main()
