# SPDX-License-Identifier: Apache-2.0
"""A fine-tuning job: stored samples and the weights that serve in, better weights out; it goes on where it was killed.

    with prepare(job, pacer) as session:
        while not session.finished:
            session.advance()
    weights = session.trained().weights

What the job needs to go on lies in its work folder: a snapshot of the samples, a checkpoint, the best weights so far.
From there it comes to the very bits of a run that was never stopped (docs/checkpoints.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from model_repository.architectures import Architecture
from telemetry.durable import quarantine
from telemetry.jobs import JobRequest
from telemetry.samples import Samples, make_private, snapshot

from . import compilation
from .checkpoint import TrainingState, load
from .data_order import DataOrder
from .errors import CheckpointInvalid
from .jobs.dataset import Dataset
from .jobs.plans import PlanCache
from .jobs.session import Progress, Session, progress_of
from .jobs.validation import score
from .jobs.weights import give, read_served
from .pacer import Free, Pacer
from .splitting import LONGEST_S
from .train import TrainStep


@dataclass(frozen=True, slots=True)
class Job:
    """What a job works on. `served`: the safetensors file of the version that serves; `samples`: the model's store.

    `work` is the job's own folder, `plans` one for all jobs, `board` names the machine that plans are made for.
    """

    id: str
    request: JobRequest
    architecture: Architecture
    served: Path
    samples: Path
    work: Path
    plans: Path
    board: str = ""
    longest_s: float | None = LONGEST_S
    sealed: bool = False

    @property
    def held(self) -> Path:
        """The snapshot that it trains and validates on."""
        return self.work / "samples"

    @property
    def checkpoint(self) -> Path:
        """All that it needs to go on."""
        return self.work / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        """The weights of the best epoch so far."""
        return self.work / "best.safetensors"


def prepare(job: Job, pacer: Pacer | None = None, stage: Callable[[str], None] = lambda stage: None) -> Session:
    """A job ready to train, from its checkpoint if there is one.

    Raises `TooFewSamples`, `WeightsRefused`, `SpoolDamaged`, and what `finetune.compile` raises; `OSError` without
    room for the snapshot.
    """
    pacer = pacer or Free()
    make_private(job.work)
    if not job.held.exists():
        stage("snapshot")
        snapshot(job.samples, job.held)
    with contextlib.ExitStack() as left:
        samples = left.enter_context(contextlib.closing(Samples(job.held)))
        request = job.request
        data = Dataset(samples, request.batch, request.validation_share, request.seed)
        known = _checkpoint(job)
        torch.manual_seed(request.seed)
        module = job.architecture.build()
        if known is None:
            give(module, read_served(job.served), job.served)
            stage("validation")
            before = score(module, data, pacer)
        optimizer = _optimizer(request, module)
        order = DataOrder(len(data.training), request.batch, request.seed)
        step = left.enter_context(_compiled(job, module, optimizer, data, pacer, stage))
        torch.manual_seed(request.seed)
        if known is None:
            progress = Progress(0, data.steps * request.epochs, before)
        else:
            state, progress = known
            state.check(module, optimizer)
            step.load_state_dict(state.trained())
            order.load_state_dict(state.data or {})
        session = Session(job, pacer, data, module, optimizer, step, order, progress)
        if known is None:
            session.save()
        session.keep(left.pop_all())
    return session


def _compiled(
    job: Job, module: nn.Module, optimizer: Optimizer, data: Dataset, pacer: Pacer, stage: Callable[[str], None]
) -> TrainStep:
    request = job.request
    plans = PlanCache(job.plans, request.batch, job.board, request.budget)
    pages = job.work / "pages"
    make_private(pages)
    step = compilation.compile(
        module.train(),
        functional.cross_entropy,
        data.training_batch(range(request.batch)),
        request.budget,
        optimizer=optimizer,
        plan=plans.find,
        pacer=pacer,
        page_dir=pages,
        longest_s=job.longest_s,
        sealed=job.sealed,
        progress=stage,
    )
    if request.budget is not None:
        plans.keep(step.plan)
    return step


def _optimizer(request: JobRequest, module: nn.Module) -> Optimizer:
    if request.optimizer == "sgd":
        return SGD(module.parameters(), lr=request.learning_rate, momentum=0.9)
    return AdamW(module.parameters(), lr=request.learning_rate)


def _checkpoint(job: Job) -> tuple[TrainingState, Progress] | None:
    """What the job goes on from; one that is damaged is moved aside, and the job begins anew."""
    if not job.checkpoint.exists():
        return None
    try:
        state = load(job.checkpoint, job.id)
        return state, progress_of(state.extra or {})
    except CheckpointInvalid:
        quarantine(job.checkpoint)
        return None
