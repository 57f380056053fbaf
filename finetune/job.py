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
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from model_repository.architectures import Architecture
from telemetry.durable import quarantine
from telemetry.jobs import JobRequest
from telemetry.samples import Samples, make_private, snapshot

from . import compilation
from .checkpoint import TrainingState, load, save
from .data_order import DataOrder
from .errors import CheckpointInvalid, Diverged, LossNotFinite, NotBetter
from .jobs.dataset import Dataset
from .jobs.plans import PlanCache
from .jobs.validation import Looks, Score, score
from .jobs.weights import give, read_served
from .pacer import Free, Pacer
from .train import Report, TrainStep

CHECKPOINT_S = 60.0
"""A killed job loses at most so much of its training."""
LONGEST_S = 0.002
"""Operations that take longer are computed in pieces."""
NOT_FINITE = 3
"""Batches in a row whose loss may not be finite."""


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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands. `before` is the serving version's score, `best` the best epoch's."""

    step: int
    steps: int
    before: Score
    best: Score | None = None
    epoch: int = 0
    """Epochs validated."""
    since_best: int = 0
    loss: float | None = None
    train_s: float = 0.0
    """Spent in steps, waits apart, by all processes that have worked on the job."""
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Trained:
    """What a job came to: weights by name, and accuracies on the same samples held out."""

    weights: dict[str, Tensor]
    accuracy_before: float
    accuracy_after: float
    steps: int


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
        state = _checkpoint(job)
        torch.manual_seed(request.seed)
        module = job.architecture.build()
        if state is None:
            give(module, read_served(job.served), job.served)
            stage("validation")
            before = score(module, data, pacer)
        optimizer = _optimizer(request, module)
        order = DataOrder(len(data.training), request.batch, request.seed)
        step = left.enter_context(_compiled(job, module, optimizer, data, pacer, stage))
        torch.manual_seed(request.seed)
        if state is None:
            each = -(-len(data.training) // request.batch)
            progress = Progress(0, each * request.epochs, before)
        else:
            state.check(module, optimizer)
            step.load_state_dict(state.trained())
            order.load_state_dict(state.data or {})
            progress = _progress(state.extra or {})
        session = Session(job, pacer, data, module, optimizer, step, order, progress)
        if state is None:
            session.save()
        session.keep(left.pop_all())
    return session


class Session:
    """A job in training, between two steps. Use it as a context; closing it leaves what a later one goes on from."""

    def __init__(
        self,
        job: Job,
        pacer: Pacer,
        data: Dataset,
        module: nn.Module,
        optimizer: Optimizer,
        step: TrainStep,
        order: DataOrder,
        progress: Progress,
    ) -> None:
        self.job, self.data, self._begun = job, data, progress
        self._module, self._optimizer, self._step, self._order = module, optimizer, step, order
        self._pacer, self._looks = pacer, Looks(pacer)
        self._progress = progress
        self._each = -(-len(data.training) // job.request.batch)
        self._not_finite = 0
        self._resources = contextlib.ExitStack()

    def keep(self, resources: contextlib.ExitStack) -> None:
        """Take over what is to be closed at the end."""
        self._resources = resources

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *raised: object) -> None:
        self._resources.close()

    @property
    def progress(self) -> Progress:
        """Where training stands."""
        report, begun = self.report, self._begun
        train_s = begun.train_s + report.steps * (report.step_s or 0.0)
        return replace(
            self._progress, train_s=train_s, waited_s=begun.waited_s + report.waited_s + self._looks.waited_s
        )

    @property
    def report(self) -> Report:
        """How the steps of this process went."""
        return self._step.report

    @property
    def finished(self) -> bool:
        """Whether every epoch is done, or none of the last few was better than one before."""
        progress, patience = self._progress, self.job.request.patience
        return progress.step >= progress.steps or 0 < patience <= progress.since_best

    def advance(self) -> None:
        """One step, and after the last one of an epoch its validation.

        Raises `Diverged`, and what a `TrainStep` raises: then go on from the checkpoint, in another session.
        """
        with self._looks:
            batch = self.data.training_batch(next(self._order), self._looks)
        try:
            loss = float(self._step(*batch))
            self._not_finite = 0
        except LossNotFinite as error:
            loss, self._not_finite = error.value, self._not_finite + 1
            if self._not_finite >= NOT_FINITE:
                raise Diverged(self._not_finite, self._progress.step + 1) from error
        self._progress = replace(self._progress, step=self._progress.step + 1, loss=loss)
        if self._progress.step % self._each == 0:
            self._validate()

    def save(self) -> None:
        """Write the checkpoint; raises `OSError` (disk full) with the one before still there."""
        state = self._state(self._optimizer, data=self._order.state_dict(), extra=_extra(self.progress))
        with self._looks:
            save(self.job.checkpoint, state, borrow=self._step.borrowed, pause=self._looks)

    def trained(self) -> Trained:
        """The best weights; raises `NotBetter` if the version that serves is better by more than the margin."""
        before, best, margin = self._progress.before, self._progress.best, self.job.request.margin
        accuracy = 0.0 if best is None else best.accuracy
        if best is None or accuracy < before.accuracy - margin:
            raise NotBetter(before.accuracy, accuracy, margin)
        weights = dict(load(self.job.best, self.job.id).model)
        return Trained(weights, before.accuracy, accuracy, self._progress.step)

    def _validate(self) -> None:
        with self._step.resident() as module:
            found = score(module, self.data, self._pacer)
            better = self._progress.best is None or found > self._progress.best
            if better:
                # before the checkpoint that speaks of it: a job killed in between makes the same once more
                with self._looks:
                    save(self.job.best, self._state(None), pause=self._looks)
        best, since = (found, 0) if better else (self._progress.best, self._progress.since_best + 1)
        self._progress = replace(self._progress, best=best, epoch=self._progress.epoch + 1, since_best=since)

    def _state(self, optimizer: Optimizer | None, **more: Any) -> TrainingState:
        return TrainingState.of(self.job.id, self._progress.step, self._module, optimizer, **more)


def run(
    job: Job,
    pacer: Pacer | None = None,
    between: Callable[[Session], None] = lambda session: None,
    *,
    checkpoint_s: float = CHECKPOINT_S,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Train a job to its end, with a checkpoint every so many seconds; `between` is called before each step.

    Raises what `prepare`, `Session.advance` and `Session.trained` raise, and what `between` does.
    """
    with prepare(job, pacer) as session:
        saved_s = clock()
        while not session.finished:
            between(session)
            session.advance()
            if clock() - saved_s >= checkpoint_s:
                session.save()
                saved_s = clock()
        return session.trained()


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


def _checkpoint(job: Job) -> TrainingState | None:
    """What the job goes on from; one that is damaged is moved aside, and the job begins anew."""
    if not job.checkpoint.exists():
        return None
    try:
        state = load(job.checkpoint, job.id)
        _progress(state.extra or {})
    except CheckpointInvalid:
        quarantine(job.checkpoint)
        return None
    return state


def _extra(progress: Progress) -> dict[str, Any]:
    return asdict(progress)


def _progress(extra: Mapping[str, Any]) -> Progress:
    try:
        before, best = Score(**extra["before"]), extra["best"] and Score(**extra["best"])
        return Progress(**{**extra, "before": before, "best": best})
    except (KeyError, TypeError) as error:
        raise CheckpointInvalid("extra", f"is not the progress of a job: {error}") from error
