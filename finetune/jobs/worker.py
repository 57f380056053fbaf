# SPDX-License-Identifier: Apache-2.0
"""The worker: takes jobs from the spool one after another, trains them in the gaps, has what came of them published.

It is the only writer of jobs' states. A job survives the worker's death at any instant: the next worker takes it up
from its checkpoint, and publishing the same job twice publishes one version (docs/jobs.md).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from telemetry.errors import SpoolError
from telemetry.jobs import JobState, JobStatus
from telemetry.rundir import RunDir
from telemetry.spool import Spool
from telemetry.trainer_page import JobNotice, TrainerPage

from ..errors import DeadlineMissed, FinetuneError, PageCorrupted, PagesError, StepTorn
from ..job import Job, prepare
from ..pacer import Gate, Heart
from ..splitting import LONGEST_S
from .attendance import Attendance, Cancelled, GaveWay, Stopped, World
from .background import in_background
from .conditions import Surroundings, unmet
from .publisher import NotServed, Publisher, Serving
from .session import Trained
from .weights import write_weights

POLL_S = 0.5
"""How often an idle worker looks for jobs."""
AWAY_S = 2.0
"""How often a job that waits for a server asks for it."""
ATTEMPTS = 5
"""How often a job is taken up without getting on."""
log = logging.getLogger("teg.finetune")


@dataclass(frozen=True, slots=True)
class Settings:
    """How the worker trains. `board` names the machine that plans are made for; `governed`: not without a governor."""

    governed: bool = True
    aside: bool = False
    """Training gives way to every other thread of the machine; for a process of its own."""
    checkpoint_s: float = 60.0
    """A killed job loses at most so much of its training."""
    longest_s: float | None = LONGEST_S
    sealed: bool = False
    board: str = ""
    grace_s: float = 20.0
    """For so long a job whose conditions are broken keeps its memory, in case they hold again."""
    back_off_s: float = 15.0
    """After the first failure that may pass; each further one doubles it."""


class Worker:
    """Works on a spool's jobs beside the models served from a run directory."""

    def __init__(
        self,
        spool: Spool,
        run_dir: RunDir,
        publisher: Publisher,
        surroundings: Callable[[], Surroundings],
        settings: Settings,
        stopped: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._spool, self._run_dir, self._publisher, self._settings = spool, run_dir, publisher, settings
        self._surroundings, self._stopped, self._clock, self._sleep = surroundings, stopped, clock, sleep
        self._not_before_s: dict[str, float] = {}
        self.faults: Counter[str] = Counter()
        """Met so far, by kind."""

    def run(self, *, once: bool = False) -> None:
        """Work until stopped, or `once` until every job has ended; raises `WorkerBusy` if another worker does."""
        self._run_dir.make()
        with self._spool.working(), contextlib.ExitStack() as left:
            page = TrainerPage.create(self._run_dir.trainer_page)
            left.callback(page.remove)
            left.enter_context(Heart(page))
            self._spool.prune()
            while not self._stopped():
                status = self._next()
                self._count(page)
                if status is not None:
                    self._attend(page, status)
                elif once and not self._open():
                    break
                else:
                    page.write_notice(JobNotice())
                    self._sleep(POLL_S)
            self._count(page)

    def _open(self) -> list[JobStatus]:
        """Jobs that have not ended: those that had begun first, then in the order of submission."""
        found = [status for status in self._spool.jobs() if not status.state.ended]
        return sorted(found, key=lambda status: status.state is JobState.QUEUED)

    def _next(self) -> JobStatus | None:
        """The job to work on now, None if there is none; those that cannot be worked on are ended here."""
        now, jobs = self._surroundings(), self._open()
        begun = {status.request.model: status.id for status in jobs if status.steps}
        for status in jobs:
            left_s, deadline_s = status.deadline_left_s, status.request.deadline_s
            if self._spool.cancelled(status.id):
                self._end(status, JobState.CANCELLED, "cancelled")
            elif left_s is not None and deadline_s is not None and left_s <= 0:
                self._end(status, JobState.FAILED, str(DeadlineMissed(deadline_s, None)))
            elif self._clock() < self._not_before_s.get(status.id, 0.0):
                continue
            elif reason := unmet(status.request.conditions, now) or _behind(status, begun):
                if reason != status.reason:
                    self._spool.update(replace(status, state=_waiting(status), reason=reason))
            else:
                return status
        return None

    def _attend(self, page: TrainerPage, status: JobStatus) -> None:
        """Work on one job until it ends or is interrupted; nothing that goes wrong with it ends the worker."""
        # whoever had it last did not live to say that it stopped
        if status.state in (JobState.ADMITTED, JobState.RUNNING):
            self.faults["resumed"] += 1
        gate = Gate(self._run_dir, page, governed=self._settings.governed, idle=lambda: attendance.idle())
        world = World(
            self._spool,
            page,
            gate,
            self._surroundings,
            self._stopped,
            self._clock,
            self._sleep,
            self._settings.grace_s,
        )
        attendance = Attendance(world, replace(status, attempts=status.attempts + 1))
        if status.attempts >= ATTEMPTS:
            return self._end(status, JobState.FAILED, f"taken up {ATTEMPTS} times without getting on: {status.reason}")
        try:
            trained = in_background(lambda: self._train(attendance, gate), aside=self._settings.aside)
            self._finish(attendance, *trained)
        except Cancelled as error:
            self._end(attendance.status, JobState.CANCELLED, str(error))
        except (Stopped, GaveWay) as error:
            self._pause(attendance, str(error), attempts=status.attempts)
        except NotServed as error:
            if error.waiting:
                self._pause(attendance, str(error), attempts=status.attempts, back_off_s=AWAY_S)
            else:
                self._end(attendance.status, JobState.FAILED, str(error))
        except PageCorrupted as error:
            self._fail(attendance, "page-corrupted", error)
        except (PagesError, StepTorn, OSError) as error:
            self.faults[_kind(error)] += 1
            log.warning("job %s: %s", status.id, error)
            back_off_s = self._settings.back_off_s * 2 ** (attendance.status.attempts - 1)
            self._pause(attendance, str(error), attempts=attendance.status.attempts, back_off_s=back_off_s)
        except (FinetuneError, SpoolError, ImportError, ValueError) as error:
            self._end(attendance.status, JobState.FAILED, str(error))
        except Exception as error:  # the border: whatever a job does wrong ends that job alone
            log.exception("job %s", status.id)
            self._fail(attendance, "job", error)
        finally:
            gate.close()

    def _train(self, attendance: Attendance, gate: Gate) -> tuple[Serving, Trained]:
        status = attendance.status
        serving = self._publisher.serving(status.request.model)
        job = Job(
            status.id,
            status.request,
            serving.architecture,
            serving.weights,
            self._spool.samples(status.request.model),
            self._spool.work(status.id),
            self._spool.plans,
            self._settings.board,
            self._settings.longest_s,
            self._settings.sealed,
        )
        log.info("job %s (%s): taken up at step %s", status.id, status.request.model, status.step)
        attendance.admitted()
        with prepare(job, gate, attendance.stage) as session:
            attendance.begun(session)
            saved_s = self._clock()
            while not session.finished:
                try:
                    attendance.between()
                except (Stopped, GaveWay):
                    self._save(attendance)
                    raise
                session.advance()
                attendance.stepped()
                if self._clock() - saved_s >= self._settings.checkpoint_s:
                    self._save(attendance)
                    saved_s = self._clock()
            self._save(attendance)
            return serving, session.trained()

    def _save(self, attendance: Attendance) -> None:
        """Write a checkpoint; without room for one training goes on, and the one before stays."""
        try:
            attendance.save()
        except OSError as error:
            self.faults["checkpoint"] += 1
            log.warning("job %s: no checkpoint: %s", attendance.status.id, error)

    def _finish(self, attendance: Attendance, serving: Serving, trained: Trained) -> None:
        """Have the weights published, or keep them beside the job's record if that was not asked for."""
        status = attendance.status
        if not status.request.publish:
            write_weights(self._spool.weights(status.id), trained.weights)
            self._end(status, JobState.DONE, f"not published; the weights are in {self._spool.weights(status.id)}")
            return
        attendance.publishing()
        about = {
            "job": status.id,
            "from_version": serving.version,
            "samples": status.samples,
            "steps": trained.steps,
            "accuracy_before": trained.accuracy_before,
            "accuracy_after": trained.accuracy_after,
        }
        published = self._publisher.publish(status.request.model, status.id, trained.weights, about)
        if published.version is None:
            self.faults["rolled-back"] += 1
            self._end(attendance.status, JobState.FAILED, f"rolled back: {published.reason}")
        else:
            done = replace(attendance.status, version=published.version)
            self._end(done, JobState.DONE, published.reason)

    def _end(self, status: JobStatus, state: JobState, reason: str) -> None:
        log.info("job %s (%s): %s%s", status.id, status.request.model, state.value, reason and f": {reason}")
        self._spool.end(replace(status, state=state, reason=reason, deadline_left_s=None))
        self._spool.prune()

    def _fail(self, attendance: Attendance, kind: str, error: Exception) -> None:
        self.faults[kind] += 1
        self._end(attendance.status, JobState.FAILED, f"{type(error).__name__}: {error}")

    def _pause(self, attendance: Attendance, reason: str, *, attempts: int, back_off_s: float = 0.0) -> None:
        status, state = attendance.status, _waiting(attendance.status)
        self._not_before_s[status.id] = self._clock() + back_off_s
        if (state, reason) != (status.state, status.reason) or attempts != status.attempts - 1:
            log.info("job %s (%s): %s: %s", status.id, status.request.model, state.value, reason)
            attendance.tell(state=state, reason=reason, attempts=min(attempts, status.attempts))

    def _count(self, page: TrainerPage) -> None:
        page.write_jobs(Counter(status.state.value for status in self._spool.jobs()))
        page.write_faults(self.faults)


def _waiting(status: JobStatus) -> JobState:
    """How a job waits: `paused` once it had begun to train."""
    return JobState.PAUSED if status.steps else JobState.QUEUED


def _behind(status: JobStatus, begun: Mapping[str, str]) -> str:
    """Jobs of one model come one after another: each begins with the weights that the one before it has left."""
    first = begun.get(status.request.model, status.id)
    return "" if first == status.id else f"job {first} of this model has begun"


def _kind(error: Exception) -> str:
    return "pages" if isinstance(error, PagesError | StepTorn) else "storage"
