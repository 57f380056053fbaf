# SPDX-License-Identifier: Apache-2.0
"""The worker: what becomes of jobs, what is said of them, and what it does when something goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from finetune.jobs.conditions import Surroundings
from finetune.jobs.publisher import NotServed, Published, Serving
from finetune.jobs.worker import ATTEMPTS, Settings, Worker
from telemetry.errors import WorkerBusy
from telemetry.jobs import Conditions, JobRequest, JobState, JobStatus
from telemetry.rundir import RunDir
from telemetry.spool import Spool
from telemetry.trainer_page import JobNotice, TrainerLimits, TrainerPage
from tests.unit.finetune.jobs_made_up import REQUEST, TINY, one_thread, serve, store

LENIENT = replace(REQUEST, margin=1.0)
ENDLESS = replace(REQUEST, epochs=1000, margin=1.0)


@pytest.fixture(autouse=True)
def as_a_worker() -> Iterator[None]:
    """One thread, as a worker has; jobs seed torch's generator, which other tests must not see."""
    with one_thread():
        yield


@dataclass
class Shelf:
    """A publisher that keeps what it is given; `refusals` are raised first, one at each call."""

    weights: Path
    refusals: list[Exception] = field(default_factory=list)
    answer: Published = field(default_factory=lambda: Published(2))
    published: list[tuple[str, str, Mapping[str, Tensor], Mapping[str, Any]]] = field(default_factory=list)
    during: Callable[[], None] = lambda: None
    """Called while a version is on trial."""
    asked: int = 0

    def serving(self, model: str) -> Serving:
        self.asked += 1
        if self.refusals:
            raise self.refusals.pop(0)
        return Serving(TINY, self.weights, 1)

    def publish(self, model: str, job: str, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        self.during()
        self.published.append((model, job, dict(weights), about))
        return self.answer


@dataclass
class Scene:
    """A worker with all around it. `watch` is called a few times a second, with the scene."""

    folder: Path
    shelf: Shelf
    spool: Spool
    run_dir: RunDir
    watch: Callable[[Scene], None] = lambda scene: None
    surroundings: Surroundings = field(default_factory=lambda: Surroundings(0.0, None, None, 0))
    stopped: bool = False
    states: list[tuple[str, JobState, str]] = field(default_factory=list)
    notices: list[JobNotice] = field(default_factory=list)

    def worker(self, **settings: Any) -> Worker:
        made = Settings(longest_s=None, **{"governed": False, **settings})
        return Worker(self.spool, self.run_dir, self.shelf, self.look, made, lambda: self.stopped, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        threading.Event().wait(min(seconds, 0.02))

    def look(self) -> Surroundings:
        for status in self.spool.jobs():
            now = status.id, status.state, status.reason
            if now not in self.states[-3:]:
                self.states.append(now)
        with_page = TrainerPage.open(self.run_dir.trainer_page)
        self.notices.append(with_page.notice)
        with_page.close()
        self.watch(self)
        return self.surroundings

    def submit(self, request: JobRequest = LENIENT) -> str:
        return self.spool.submit(request)

    def seen(self, job: str) -> list[JobState]:
        return list(dict.fromkeys(state for name, state, _ in self.states if name == job))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    spool = Spool(tmp_path / "spool")
    store(spool, 60)
    return Scene(tmp_path, Shelf(serve(tmp_path / "repository")), spool, RunDir(tmp_path / "run"))


def limited(scene: Scene, duty: float, reason: str = "", ttl_s: float = 30.0) -> None:
    """What the governor writes."""
    page = TrainerPage.open(scene.run_dir.trainer_page, writable=True)
    page.write_limits(TrainerLimits(duty, 0.05, reason), ttl_s)
    page.close()


def status_of(scene: Scene, job: str) -> JobStatus:
    return scene.spool.status(job)


def test_a_job_is_trained_and_published(scene: Scene) -> None:
    """Submitted, trained, published: the version is in the record, what it worked with is gone, the page tells it."""
    job = scene.submit()
    worker = scene.worker()
    worker.run(once=True)
    status = status_of(scene, job)
    assert (status.state, status.version, status.reason) == (JobState.DONE, 2, "")
    assert (status.step, status.steps, status.epoch, status.samples) == (18, 18, 3, 60)
    assert status.accuracy_before is not None
    assert status.accuracy_after is not None
    assert status.train_s > 0
    assert status.peak_bytes
    (published,) = scene.shelf.published
    assert published[:2] == ("tiny", job)
    assert published[2].keys() == TINY.build().state_dict().keys()
    assert published[3]["accuracy_after"] == status.accuracy_after
    assert published[3]["from_version"] == 1
    assert not scene.spool.work(job).exists()
    assert any(notice.job == job and notice.wants and notice.model == "tiny" for notice in scene.notices)
    assert not scene.run_dir.trainer_page.exists()
    assert not worker.faults


def test_a_job_that_trains_tells_how_much_memory_binds_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first step on; nothing before."""
    monkeypatch.setattr("finetune.jobs.attendance.LOOK_S", 0.0)
    scene.submit()
    scene.worker().run(once=True)
    told = [notice.mix for notice in scene.notices]
    assert told[0] is None
    assert any(mix is not None and 0 < mix <= 1 for mix in told)


def test_what_is_not_to_be_published_is_kept(scene: Scene) -> None:
    """Without publishing the weights lie beside the record, private, and `forget` erases them."""
    job = scene.submit(replace(REQUEST, margin=1.0, publish=False))
    scene.worker().run(once=True)
    weights = scene.spool.weights(job)
    assert status_of(scene, job).state is JobState.DONE
    assert not scene.shelf.published
    assert weights.stat().st_mode & 0o777 == 0o600
    scene.spool.forget("tiny")
    assert not weights.exists()


def test_a_job_is_cancelled_while_it_trains(scene: Scene) -> None:
    """A cancelled job ends soon, leaves nothing but its record, and the next one goes on."""
    job = scene.submit(ENDLESS)

    def watch(seen: Scene) -> None:
        if status_of(seen, job).state is JobState.RUNNING:
            seen.spool.cancel(job)

    scene.watch = watch
    after = scene.submit()
    scene.worker().run(once=True)
    assert status_of(scene, job).state is JobState.CANCELLED
    assert not scene.spool.work(job).exists()
    assert status_of(scene, after).state is JobState.DONE
    assert [published[1] for published in scene.shelf.published] == [after]


def test_a_stopped_worker_s_job_is_taken_up(scene: Scene) -> None:
    """A worker that is stopped leaves its job paused, with all that it did; the next one ends it, first of all."""
    late = scene.submit(replace(REQUEST, margin=1.0, epochs=1))
    job = scene.submit(ENDLESS)
    scene.spool.cancel(late)

    def stop(seen: Scene) -> None:
        seen.stopped = status_of(seen, job).step > 0

    scene.watch = stop
    scene.worker().run()
    paused = status_of(scene, job)
    assert (paused.state, paused.reason) == (JobState.PAUSED, "the worker was stopped")
    assert paused.attempts == 0
    scene.stopped = False
    scene.watch = lambda seen: seen.spool.cancel(job) if status_of(seen, job).step > paused.step else None
    scene.submit()
    scene.worker().run(once=True)
    assert status_of(scene, job).step > paused.step
    assert scene.seen(job)[-1] is not JobState.QUEUED


def test_a_job_waits_for_its_conditions(scene: Scene) -> None:
    """A job whose conditions do not hold says which, and holds nobody else up."""
    waiting = scene.submit(replace(REQUEST, margin=1.0, conditions=Conditions(charging=True)))
    other = scene.submit(replace(REQUEST, margin=1.0, epochs=1))

    def watch(seen: Scene) -> None:
        if status_of(seen, other).state.ended:
            seen.surroundings = Surroundings(0.0, True, None, 0)

    scene.watch = watch
    scene.worker().run(once=True)
    assert [published[1] for published in scene.shelf.published] == [other, waiting]
    assert scene.seen(waiting)[0] is JobState.QUEUED
    assert (waiting, JobState.QUEUED, "nothing tells whether external power is there") in scene.states


def test_a_job_gives_way_when_its_conditions_break(scene: Scene) -> None:
    """Conditions that stay broken pause a job, which is taken up when they hold again."""
    job = scene.submit(replace(ENDLESS, conditions=Conditions(below_celsius=50)))
    scene.surroundings = Surroundings(0.0, None, 40.0, 0)

    def watch(seen: Scene) -> None:
        status = status_of(seen, job)
        paused = any(state is JobState.PAUSED for _, state, _ in seen.states)
        if status.step and not paused:
            seen.surroundings = Surroundings(0.0, None, 60.0, 0)
        elif status.state is JobState.PAUSED and not seen.spool.work(job).joinpath("pages").exists():
            raise AssertionError("a paused job keeps its work")
        elif paused and status.state is JobState.RUNNING:
            seen.spool.cancel(job)
        elif paused and len([1 for entry in seen.notices if not entry.wants]) > 6:
            seen.surroundings = Surroundings(0.0, None, 40.0, 0)

    scene.watch = watch
    scene.worker(grace_s=0.5).run(once=True)
    assert (job, JobState.PAUSED, "60 °C is not below 50 °C") in scene.states
    assert status_of(scene, job).state is JobState.CANCELLED


def test_the_governor_holds_and_lets_go(scene: Scene) -> None:
    """Held, a job is paused with the governor's reason; without a governor it waits; with limits it is done."""
    job = scene.submit()

    def watch(seen: Scene) -> None:
        reasons = [reason for _, _, reason in seen.states]
        if "no governor" in reasons and "tuning" not in reasons:
            limited(seen, 0.0, "tuning")
        elif "tuning" in reasons:
            limited(seen, 1.0)

    scene.watch = watch
    scene.worker(governed=True).run(once=True)
    reasons = [(state, reason) for name, state, reason in scene.states if name == job]
    assert reasons.index((JobState.QUEUED, "no governor")) < reasons.index((JobState.QUEUED, "tuning"))
    assert status_of(scene, job).state is JobState.DONE


def test_a_deadline_that_has_passed(scene: Scene) -> None:
    """A job that was never begun in time has failed, and is not begun."""
    job = scene.submit(replace(REQUEST, deadline_s=1e-6))
    scene.worker().run(once=True)
    status = status_of(scene, job)
    assert status.state is JobState.FAILED
    assert "deadline" in status.reason
    assert scene.shelf.asked == 0


def test_a_deadline_that_cannot_be_met(scene: Scene) -> None:
    """A job that cannot end in time ends at once, and says what time would do."""
    store(scene.spool, 600, first=1)
    job = scene.submit(replace(ENDLESS, deadline_s=60.0, batch=1))
    scene.worker().run(once=True)
    status = status_of(scene, job)
    assert status.state is JobState.FAILED
    assert "s are needed" in status.reason
    assert not scene.spool.work(job).exists()


def test_a_version_that_is_taken_back_is_a_failure(scene: Scene) -> None:
    """A version that was rolled back is not claimed."""
    scene.shelf.answer = Published(None, "p99 rose from 10 to 30 ms")
    job = scene.submit()
    worker = scene.worker()
    worker.run(once=True)
    status = status_of(scene, job)
    assert (status.state, status.version) == (JobState.FAILED, None)
    assert "p99 rose" in status.reason
    assert worker.faults == {"rolled-back": 1}


def test_a_server_that_is_away_is_waited_for(scene: Scene) -> None:
    """Without a server the job waits and says so; a model that can never be trained fails at once."""
    scene.shelf.refusals = [NotServed("no server runs", waiting=True)] * 3
    job = scene.submit()
    scene.worker().run(once=True)
    assert status_of(scene, job).state is JobState.DONE
    assert (job, JobState.QUEUED, "no server runs") in scene.states
    scene.shelf.refusals = [NotServed("only engine 'torch' can be trained", waiting=False)]
    never = scene.submit()
    scene.worker().run(once=True)
    assert (status_of(scene, never).state, status_of(scene, never).reason) == (
        JobState.FAILED,
        "only engine 'torch' can be trained",
    )


def test_no_room_is_waited_for_and_not_for_ever(scene: Scene) -> None:
    """What may pass is tried again after a while; what does not pass ends the job, with the reason."""
    scene.shelf.refusals = [OSError(28, "No space left on device")] * 2
    passing = scene.submit()
    worker = scene.worker(back_off_s=0.01)
    worker.run(once=True)
    assert status_of(scene, passing).state is JobState.DONE
    assert worker.faults == {"storage": 2}
    scene.shelf.refusals = [OSError(28, "No space left on device")] * 99
    lasting = scene.submit()
    scene.worker(back_off_s=0.01).run(once=True)
    assert status_of(scene, lasting).state is JobState.FAILED
    assert "No space left" in status_of(scene, lasting).reason
    assert len(scene.shelf.refusals) == 99 - ATTEMPTS


def test_whatever_goes_wrong_ends_one_job_alone(scene: Scene) -> None:
    """An error nobody thought of fails its job and is counted; the worker goes on with the next one."""
    scene.shelf.refusals = [RuntimeError("nobody thought of this")]
    first, second = scene.submit(), scene.submit()
    worker = scene.worker()
    worker.run(once=True)
    assert status_of(scene, first).state is JobState.FAILED
    assert "nobody thought of this" in status_of(scene, first).reason
    assert status_of(scene, second).state is JobState.DONE
    assert worker.faults == {"job": 1}


def test_samples_of_no_model_fail(scene: Scene) -> None:
    """A job for a model without samples says so."""
    job = scene.submit(JobRequest("resnet18"))
    scene.worker().run(once=True)
    assert status_of(scene, job).state is JobState.FAILED
    assert "fields.json" in status_of(scene, job).reason


def test_a_job_that_kills_its_worker_is_given_up(scene: Scene) -> None:
    """A job that was taken up again and again without getting on is not taken up for ever; deaths are counted."""
    job = scene.submit()
    scene.spool.update(replace(status_of(scene, job), state=JobState.RUNNING, attempts=ATTEMPTS, reason="capture"))
    worker = scene.worker()
    worker.run(once=True)
    assert status_of(scene, job).state is JobState.FAILED
    assert f"{ATTEMPTS} times" in status_of(scene, job).reason
    assert worker.faults == {"resumed": 1}


def test_one_worker_at_a_time(scene: Scene) -> None:
    """A second worker of the same spool is refused."""
    with scene.spool.working(), pytest.raises(WorkerBusy):
        scene.worker().run()


def test_jobs_of_one_model_come_one_after_another(scene: Scene) -> None:
    """A job does not begin while another of its model is paused: it would undo what that one is about to publish."""
    cold = replace(LENIENT, conditions=Conditions(below_celsius=50))
    first, second = scene.submit(cold), scene.submit()
    scene.spool.update(replace(status_of(scene, first), state=JobState.PAUSED, steps=18, reason="60 °C"))
    scene.surroundings = Surroundings(0.0, None, 60.0, 0)

    def watch(seen: Scene) -> None:
        if "has begun" in status_of(seen, second).reason:
            seen.surroundings = Surroundings(0.0, None, 40.0, 0)

    scene.watch = watch
    scene.worker().run(once=True)
    assert [published[1] for published in scene.shelf.published] == [first, second]
    assert (second, JobState.QUEUED, f"job {first} of this model has begun") in scene.states


def test_nobody_makes_room_for_a_job_that_is_published(scene: Scene) -> None:
    """While a version is on trial the page names the job and wants nothing."""
    scene.submit()
    notices = []

    def during() -> None:
        page = TrainerPage.open(scene.run_dir.trainer_page)
        notices.append(page.notice)
        page.close()

    scene.shelf.during = during
    scene.worker().run(once=True)
    assert [(bool(notice.job), notice.wants) for notice in notices] == [(True, False)]
