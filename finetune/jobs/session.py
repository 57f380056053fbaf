# SPDX-License-Identifier: Apache-2.0
"""A job in training: its steps, the validation after each epoch, its checkpoints, and what it came to."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoint import TrainingState, load, save
from ..data_order import DataOrder
from ..errors import CheckpointInvalid, Diverged, LossNotFinite, NotBetter
from ..pacer import Pacer
from ..train import Report, TrainStep
from .dataset import Dataset
from .validation import Looks, Score, score

if TYPE_CHECKING:
    from ..job import Job

NOT_FINITE = 3
"""Batches in a row whose loss may not be finite."""


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
        if self._progress.step % self.data.steps == 0:
            self._validate()

    def save(self) -> None:
        """Write the checkpoint; raises `OSError` (disk full) with the one before still there."""
        state = self._state(self._optimizer, data=self._order.state_dict(), extra=extra_of(self.progress))
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


def extra_of(progress: Progress) -> dict[str, Any]:
    """The progress as a checkpoint keeps it."""
    return asdict(progress)


def progress_of(extra: Mapping[str, Any]) -> Progress:
    """What `extra_of` gave; raises `CheckpointInvalid`."""
    try:
        before, best = Score(**extra["before"]), extra["best"] and Score(**extra["best"])
        return Progress(**{**extra, "before": before, "best": best})
    except (KeyError, TypeError) as error:
        raise CheckpointInvalid("extra", f"is not the progress of a job: {error}") from error
