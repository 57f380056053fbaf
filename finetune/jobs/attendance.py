# SPDX-License-Identifier: Apache-2.0
"""One job in the worker's hands: what it is told, what it tells, and what may interrupt it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from telemetry.errors import UnknownJob
from telemetry.jobs import JobState, JobStatus
from telemetry.spool import Spool
from telemetry.trainer_page import JobNotice, TrainerPage

from ..errors import DeadlineMissed
from .conditions import Surroundings, unmet
from .session import Session

LOOK_S = 0.25
"""How often it is looked whether the job may go on."""
TELL_S = 2.0
"""How often progress is written down; a change of state is at once."""
KNOWN_STEPS = 10
"""Steps after which the mean one is known well enough to judge a deadline by."""


class Interrupted(Exception):
    """The job ends, or pauses, although nothing is wrong with it."""


class Cancelled(Interrupted):
    """Somebody asked for its end."""


class Stopped(Interrupted):
    """The worker is to end."""


class GaveWay(Interrupted):
    """The job's own conditions do not hold any more; the message says which."""


class Held(Protocol):
    """Who may hold training: the gate."""

    def held(self) -> str | None:
        """Why training is held, None while it is not."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """What goes on around a job. `stopped`: whether the worker is to end; `grace_s` as in `Settings`."""

    spool: Spool
    page: TrainerPage
    gate: Held
    surroundings: Callable[[], Surroundings]
    stopped: Callable[[], bool]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    grace_s: float


class Attendance:
    """Keeps a job's status and notice, and raises `Interrupted` or `DeadlineMissed` where it must not go on."""

    def __init__(self, world: World, status: JobStatus) -> None:
        self.status = status
        self._world = world
        self._session: Session | None = None
        self._looked_s = self._told_s = -math.inf
        self._unmet_since_s: float | None = None
        self._saved_step = -1

    def tell(self, *, now: bool = True, **changes: Any) -> None:
        """Write down what changed; `now` False: only if that was not done a moment ago."""
        self.status = replace(self.status, **changes)
        if now or self._world.clock() - self._told_s >= TELL_S:
            self._told_s = self._world.clock()
            self._world.spool.update(self.status)

    def admitted(self) -> None:
        """Wait until nobody holds training; `queued`, or `paused` if the job had begun, until then."""
        waiting = JobState.PAUSED if self.status.steps else JobState.QUEUED
        while (reason := self._world.gate.held()) is not None:
            self._say(waiting, reason)
            self.look(force=True)
            self._world.sleep(LOOK_S)
        self.tell(state=JobState.ADMITTED, reason="")

    def stage(self, stage: str) -> None:
        """A stage of the preparations begins."""
        self.look(force=True)
        self.tell(reason=stage)

    def begun(self, session: Session) -> None:
        """The job is ready to train."""
        self._session = session
        self._saved_step = session.progress.step
        report = session.report
        self.tell(
            state=JobState.RUNNING,
            reason="",
            samples=len(session.data),
            peak_bytes=report.planned_peak_bytes,
            budget_bytes=report.budget_bytes,
            **_figures(session),
        )

    def between(self) -> None:
        """Before a step: look up, and wait while training is held, with a checkpoint of what was reached."""
        self.look()
        session = self._session
        if session is None:
            return
        if (reason := self._world.gate.held()) is not None:
            self.save()
            while reason is not None:
                self._say(JobState.PAUSED, reason)
                self.look(force=True)
                self._world.sleep(LOOK_S)
                reason = self._world.gate.held()
        if self.status.state is not JobState.RUNNING:
            self.tell(state=JobState.RUNNING, reason="")
        self.tell(now=False, **_figures(session))

    def stepped(self) -> None:
        """A step is done."""
        self._world.page.step_done()

    def publishing(self) -> None:
        """Training is over; nobody need make room for it any more."""
        self.tell(reason="publishing")
        self._world.page.write_notice(JobNotice(self.status.id, self.status.request.model))

    def idle(self) -> None:
        """Within a long wait at the gate, called a few times a second."""
        self.look(force=True)
        reason = self._world.gate.held()
        if self._session is not None and reason is not None:
            self._say(JobState.PAUSED, reason)

    def save(self) -> None:
        """Write a checkpoint; raises `OSError` (disk full)."""
        if self._session is not None and self._session.progress.step != self._saved_step:
            self._session.save()
            self._saved_step = self._session.progress.step
            self.tell(attempts=0, **_figures(self._session))

    def look(self, *, force: bool = False) -> None:
        """Whether the job may go on; raises `Cancelled`, `Stopped`, `GaveWay`, `DeadlineMissed`."""
        world, now_s = self._world, self._world.clock()
        if not force and now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        if world.stopped():
            raise Stopped("the worker was stopped")
        if world.spool.cancelled(self.status.id):
            raise Cancelled("cancelled")
        left_s = self._left_s()
        self._meet(left_s)
        broken = unmet(self.status.request.conditions, world.surroundings())
        self._notice(left_s, wants=not broken)
        if not broken:
            self._unmet_since_s = None
            return
        self._say(JobState.PAUSED if self._session else self.status.state, broken)
        self._unmet_since_s = self._unmet_since_s or now_s
        if self._session is None or now_s - self._unmet_since_s >= world.grace_s:
            raise GaveWay(broken)

    def _left_s(self) -> float:
        try:
            left_s = self._world.spool.status(self.status.id).deadline_left_s
        except UnknownJob as error:
            raise Cancelled("its record was removed") from error
        return math.inf if left_s is None else left_s

    def _meet(self, left_s: float) -> None:
        """Raises `DeadlineMissed` if the steps that are left cannot be done in the seconds that are."""
        deadline_s = self.status.request.deadline_s
        if deadline_s is None:
            return
        session = self._session
        report = session.report if session else None
        if session is None or report is None or report.step_s is None or report.steps < KNOWN_STEPS:
            if left_s <= 0:
                raise DeadlineMissed(deadline_s, None)
            return
        steps_left = 0 if session.finished else session.progress.steps - session.progress.step
        needed_s = steps_left * report.step_s
        if needed_s > max(0.0, left_s):
            raise DeadlineMissed(deadline_s, deadline_s - left_s + needed_s)

    def _notice(self, left_s: float, *, wants: bool) -> None:
        session = self._session
        report = session.report if session else None
        step_s = (report or self.status).step_s or 0.0
        longest_s = (report or self.status).longest_s or 0.0
        steps_left = session.progress.steps - session.progress.step if session else self.status.steps - self.status.step
        names = self.status.id, self.status.request.model
        mix = report.memory_share if report else None
        self._world.page.write_notice(JobNotice(*names, longest_s, step_s, steps_left, left_s, wants, mix))

    def _say(self, state: JobState, reason: str) -> None:
        if (state, reason) != (self.status.state, self.status.reason):
            self.tell(state=state, reason=reason)


def _figures(session: Session) -> dict[str, Any]:
    progress, report = session.progress, session.report
    return {
        "step": progress.step,
        "steps": progress.steps,
        "epoch": progress.epoch,
        "loss": progress.loss if progress.loss is None or math.isfinite(progress.loss) else None,
        "accuracy_before": progress.before.accuracy,
        "accuracy_after": None if progress.best is None else progress.best.accuracy,
        "step_s": report.step_s,
        "longest_s": report.longest_s or None,
        "train_s": progress.train_s,
        "waited_s": progress.waited_s,
    }
