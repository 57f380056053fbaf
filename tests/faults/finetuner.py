# SPDX-License-Identifier: Apache-2.0
"""A fine-tuning worker to be killed: one job, whose step pages all it can, and a shelf in place of a server.

`main([folder])` works until the job has ended, with a checkpoint after every step, and prints the faults that it
counted. What comes of it depends on nothing but the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from finetune.capture import capture
from finetune.capturing.optimizer import with_optimizer
from finetune.executing.lower import judged
from finetune.jobs.conditions import Surroundings
from finetune.jobs.plans import PlanCache
from finetune.jobs.publisher import Published, Serving
from finetune.jobs.worker import Settings, Worker
from finetune.plan import Plan
from finetune.planning.limits import ROOMY
from finetune.planning.paging import page_everything
from model_repository.architectures import Architecture, TensorSpec
from telemetry.jobs import JobRequest
from telemetry.rundir import RunDir
from telemetry.samples import Field
from telemetry.spool import Spool

from .trainer import BATCH, cross_entropy, network, pictures

MODEL, BOARD, BUDGET = "small", "here", "50%"
SMALL = Architecture(
    MODEL, (TensorSpec("IMAGE", "FP32", (1, 16, 16)),), (TensorSpec("LOGITS", "FP32", (10,)),), network
)
REQUEST = JobRequest(MODEL, epochs=1, batch=BATCH, learning_rate=0.01, budget=BUDGET, margin=1.0, patience=0)


class Shelf:
    """Serves the first version from a folder, and keeps the next one there: once for each job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def serving(self, model: str) -> Serving:
        """The version that was laid out."""
        return Serving(SMALL, self.folder / "1" / "model.safetensors", 1)

    def publish(self, model: str, job: str, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        """A file for each time that a job was published, were it twice with other weights."""
        content = safetensors.torch.save(dict(weights))
        (self.folder / f"{job}.{hashlib.sha256(content).hexdigest()[:16]}").write_bytes(content)
        return Published(2)


def lay_out(folder: Path) -> str:
    """Make a folder for `main`: samples, a version that serves, a plan that pages everything, a job; its id."""
    spool, images, labels = Spool(folder / "spool"), *pictures()
    with spool.store(MODEL, [Field("IMAGE", "FP32", (1, 16, 16))]) as store:
        for image, label in zip(images, labels, strict=True):
            store.add({"IMAGE": memoryview(image.numpy()).cast("B")}, int(label))
    version = folder / "shelf" / "1"
    version.mkdir(parents=True)
    content = safetensors.torch.save(network().state_dict())
    (version / "model.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (version / "digest.json").write_text(json.dumps({"files": {"model.safetensors": digest}}))
    job = spool.submit(REQUEST)
    captured = capture(network(), cross_entropy, (images[:BATCH], labels[:BATCH]))
    graph = with_optimizer(captured.graph, "adam")
    roomy = Plan("feasible", "real", graph.digest, "", "", ROOMY, 0.0, page_everything(graph))
    least = judged(graph, roomy).peak_bytes
    plan = replace(roomy, budget_bytes=least, peak_bytes=least, energy_j=0.0)
    PlanCache(spool.plans, BATCH, BOARD, BUDGET).keep(plan)
    return job


def laid_out(arguments: Sequence[str]) -> int:
    """`lay_out` as a process."""
    lay_out(Path(arguments[0]))
    return 0


def mortal() -> None:
    """Make this process kill itself, as it is about to touch a file of its folder for the `DIES_AT`th time."""
    left, folder = int(os.environ["DIES_AT"]), os.environ["DIES_IN"]

    def touched(event: str, about: tuple[Any, ...]) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove") and str(about[0]).startswith(folder):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touched)


def main(arguments: Sequence[str]) -> int:
    """Work until every job has ended."""
    folder = Path(arguments[0])
    torch.set_num_threads(1)
    settings = Settings(governed=False, checkpoint_s=0.0, longest_s=None, board=BOARD, back_off_s=0.0)
    surroundings = Surroundings(0.0, None, None, 0)
    worker = Worker(
        Spool(folder / "spool"),
        RunDir(folder / "run"),
        Shelf(folder / "shelf"),
        lambda: surroundings,
        settings,
        lambda: False,
        time.monotonic,
        lambda seconds: time.sleep(min(seconds, 0.01)),
    )
    worker.run(once=True)
    print(json.dumps(worker.faults), flush=True)
    return 0
