# SPDX-License-Identifier: Apache-2.0
"""Jobs small enough for a unit test: a made-up architecture, a served version of it, and samples that it can learn."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from finetune.job import Job, prepare
from finetune.jobs.session import Trained
from model_repository.architectures import Architecture, TensorSpec
from telemetry.jobs import JobRequest
from telemetry.samples import Field
from telemetry.spool import Spool

WIDTH = 6
REQUEST = JobRequest("tiny", epochs=3, batch=8, learning_rate=0.05, patience=0, seed=4)
FIELDS = [Field("VALUES", "FP32", (WIDTH,))]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch as a worker has it; threads and random state are put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def network() -> nn.Module:
    """`n x WIDTH` to `n x 3`, with dropout, so that random numbers matter."""
    return nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


TINY = Architecture("tiny", (TensorSpec("VALUES", "FP32", (WIDTH,)),), (TensorSpec("LOGITS", "FP32", (3,)),), network)


def run(job: Job) -> Trained:
    """Train a job to its end."""
    with prepare(job) as session:
        while not session.finished:
            session.advance()
        return session.trained()


def serve(repository: Path) -> Path:
    """Version 1 of the model, its digest beside it; the weights' file."""
    folder = repository / "tiny" / "1"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    weights = folder / "model.safetensors"
    safetensors.torch.save_file(network().state_dict(), weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "digest.json").write_text(json.dumps({"files": {weights.name: digest}}))
    return weights


def store(spool: Spool, count: int, first: int = 0) -> None:
    """Samples whose label is which third of the values is the largest."""
    chance = torch.Generator().manual_seed(first)
    with spool.store("tiny", FIELDS) as made:
        for values in torch.randn(count, WIDTH, generator=chance):
            label = int(values.reshape(3, 2).sum(1).argmax())
            made.add({"VALUES": struct.pack(f"<{WIDTH}f", *values.tolist())}, label)


def made_up(folder: Path, request: JobRequest = REQUEST, samples: int = 60) -> Job:
    """A job that was submitted, with samples to train on."""
    spool = Spool(folder / "spool")
    store(spool, samples)
    return job_of(spool, spool.submit(request), serve(folder / "repository"), request)


def job_of(spool: Spool, name: str, weights: Path, request: JobRequest) -> Job:
    """The job as a worker makes it."""
    return Job(name, request, TINY, weights, spool.samples("tiny"), spool.work(name), spool.plans, longest_s=None)


def another(job: Job, **changes: object) -> Job:
    """The same job otherwise asked for."""
    return replace(job, request=replace(job.request, **changes))
