# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from telemetry.errors import JobInvalid, QueueFull, UnknownJob, WorkerBusy
from telemetry.spool import Field, JobRequest, JobState, JobStatus, Spool, default_spool_dir
from telemetry.uptime import Uptime, read_uptime

REQUEST = JobRequest("digits_cnn", deadline_s=60.0)
FIELDS = [Field("IMAGE", "FP32", (1,))]


@dataclass
class Clock:
    """Uptime that a test moves."""

    boot: str = "first"
    at_s: float = 1000.0

    def __call__(self) -> Uptime:
        return Uptime(self.boot, self.at_s)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "state" / "finetune", max_jobs=3)


def test_jobs_come_in_order(spool: Spool) -> None:
    """Jobs are listed in the order of submission, whatever their ids."""
    jobs = [spool.submit(replace(REQUEST, seed=number)) for number in range(3)]
    assert [status.id for status in spool.jobs()] == jobs
    assert [status.request.seed for status in spool.jobs()] == [0, 1, 2]
    assert {status.state for status in spool.jobs()} == {JobState.QUEUED}


def test_ids_cannot_be_guessed(spool: Spool) -> None:
    """An id has 128 random bits and is no flag of a command line."""
    wide = Spool(spool.root, max_jobs=50)
    jobs = {wide.submit(REQUEST) for _ in range(50)}
    assert len(jobs) == 50
    assert all(len(job) == 22 and job[0].isalnum() for job in jobs)


def test_the_queue_is_bounded(spool: Spool) -> None:
    """No more jobs wait than may; one that was cancelled, or has ended, makes room."""
    jobs = [spool.submit(REQUEST) for _ in range(3)]
    with pytest.raises(QueueFull, match="3 jobs"):
        spool.submit(REQUEST)
    spool.cancel(jobs[0])
    spool.submit(REQUEST)
    with pytest.raises(QueueFull):
        spool.submit(REQUEST)


def test_the_bound_holds_for_many_at_once(spool: Spool) -> None:
    """Of many that submit at the same time exactly as many are taken as may wait, each in its own place."""
    taken, refused = [], []

    def submit() -> None:
        try:
            taken.append(spool.submit(REQUEST))
        except QueueFull:
            refused.append(1)

    threads = [threading.Thread(target=submit) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (3, 9)
    assert sorted(status.id for status in spool.jobs()) == sorted(taken)


@pytest.mark.parametrize("job", ["", "..", "../../etc/passwd", "a" * 21, "a" * 22, "-" + "a" * 21, "a/" + "b" * 20])
def test_an_unknown_id_is_said(spool: Spool, job: str) -> None:
    """Whatever is no id of a job, paths included, is refused before any file is opened."""
    spool.make()
    for ask in (spool.status, spool.cancel):
        with pytest.raises(UnknownJob):
            ask(job)


@pytest.mark.parametrize("model", ["", "..", "a/b", ".x", "a" * 65])
def test_samples_lie_under_models_names(spool: Spool, model: str) -> None:
    """What is no model's name leads to no folder."""
    with pytest.raises(JobInvalid):
        spool.samples(model)


def test_the_spool_is_private(spool: Spool) -> None:
    """Folders are 0700 and files 0600; a spool that others may look into is refused."""
    job = spool.submit(REQUEST)
    spool.update(spool.status(job))
    for path in (spool.root, *spool.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    spool.root.chmod(0o750)
    with pytest.raises(PermissionError, match="chmod 700"):
        spool.submit(REQUEST)


def test_a_status_is_there_for_every_process(spool: Spool) -> None:
    """What the worker writes, others read, restarts included."""
    job = spool.submit(REQUEST)
    spool.update(replace(spool.status(job), state=JobState.RUNNING, step=7, loss=0.25))
    found = Spool(spool.root).status(job)
    assert (found.state, found.step, found.loss) == (JobState.RUNNING, 7, 0.25)


def test_cancelled_without_a_worker(spool: Spool) -> None:
    """Where no worker runs a job is ended at once, and what it worked with is gone; where one runs it obeys."""
    first, second = spool.submit(REQUEST), spool.submit(REQUEST)
    spool.work(first).mkdir()
    assert spool.cancel(first)
    assert spool.status(first).state is JobState.CANCELLED
    assert not spool.work(first).exists()
    assert not spool.cancel(first)
    with spool.working():
        assert spool.cancel(second)
        assert spool.status(second).state is JobState.QUEUED
        assert spool.cancelled(second)


def test_one_worker(spool: Spool) -> None:
    """A second worker is refused for as long as the first one lives."""
    with spool.working(), pytest.raises(WorkerBusy), Spool(spool.root).working():
        pytest.fail("two workers")
    with spool.working():
        assert spool.root.exists()


def test_deadlines_pass_while_the_machine_runs(tmp_path: Path) -> None:
    """What is left until a deadline falls with uptime, suspension included, and survives reboots as it was noted."""
    clock = Clock()
    spool = Spool(tmp_path / "spool", uptime=clock)
    job = spool.submit(REQUEST)
    clock.at_s += 10
    assert spool.status(job).deadline_left_s == pytest.approx(50)
    spool.update(spool.status(job))
    clock.at_s += 5
    assert spool.status(job).deadline_left_s == pytest.approx(45)
    clock.boot, clock.at_s = "second", 3.0
    assert spool.status(job).deadline_left_s == pytest.approx(50), "what was noted last"
    spool.update(replace(spool.status(job), state=JobState.PAUSED))
    clock.at_s += 60
    assert spool.status(job).deadline_left_s == pytest.approx(-10)
    spool.end(replace(spool.status(job), state=JobState.FAILED))
    assert spool.status(spool.submit(replace(REQUEST, deadline_s=None))).deadline_left_s is None


def test_uptime_is_the_kernels() -> None:
    """The boot's id and a clock that goes on."""
    first, second = read_uptime(), read_uptime()
    assert first.boot == second.boot
    assert 0 < first.at_s <= second.at_s


def test_an_ended_job_leaves_its_record_alone(spool: Spool) -> None:
    """Snapshot, checkpoint and pages go when a job ends; old records go too."""
    jobs = []
    for _ in range(5):
        job = spool.submit(REQUEST)
        spool.work(job).mkdir()
        (spool.work(job) / "checkpoint.safetensors").write_bytes(b"secret")
        spool.end(replace(spool.status(job), state=JobState.DONE, version=2))
        jobs.append(job)
    assert not list(spool.root.rglob("checkpoint*"))
    spool.prune(keep=2)
    assert [status.id for status in spool.jobs()] == jobs[3:]
    assert spool.status(jobs[4]).version == 2


def test_forgetting_erases_everything(spool: Spool) -> None:
    """After `forget` no byte of a sample, nor of what was learnt and not published, is in the spool; others' stay."""
    for model in ("digits_cnn", "bert_mini"):
        with spool.store(model, FIELDS) as store:
            store.add({"IMAGE": b"SECR"}, 1)
    trained = spool.submit(replace(REQUEST, publish=False))
    spool.weights(trained).write_bytes(b"SECR")
    spool.end(replace(spool.status(trained), state=JobState.DONE))
    waiting, other = spool.submit(REQUEST), spool.submit(replace(REQUEST, model="bert_mini"))
    store = spool.samples("digits_cnn")
    spool.work(waiting).mkdir()
    (spool.work(waiting) / "checkpoint").write_bytes(b"SECR")
    forgotten = spool.forget("digits_cnn")
    assert (forgotten.samples, forgotten.ended, forgotten.left) == (1, (waiting,), ())
    assert not store.exists()
    holding = {path.parent.name for path in spool.root.rglob("*") if path.is_file() and b"SECR" in path.read_bytes()}
    assert holding == {"bert_mini"}
    assert spool.status(other).state is JobState.QUEUED


def test_a_worker_forgets_by_itself(spool: Spool) -> None:
    """While a worker runs it is asked to end the jobs, and they are named."""
    job = spool.submit(REQUEST)
    with spool.working():
        assert spool.forget("digits_cnn").left == (job,)
    assert spool.forget("resnet18").samples == 0


def damage(path: Path) -> None:
    path.write_bytes(b"\0" * 40)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_kind(path: Path) -> None:
    path.write_bytes(b'{"status": {"id": 3, "request": {"model": "m"}}}')


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("request.json", damage),
        ("request.json", empty),
        ("status.json", damage),
        ("status.json", empty),
        ("status.json", other_kind),
    ],
)
def test_a_damaged_record_has_failed(spool: Spool, name: str, spoil: Callable[[Path], None]) -> None:
    """A record that cannot be read is a job that failed; the others are not touched, and jobs are still taken."""
    job, other = spool.submit(REQUEST), spool.submit(REQUEST)
    spool.update(spool.status(job))
    spoil(spool.folder(job) / name)
    states = {status.id: status.state for status in spool.jobs()}
    assert states[other] is JobState.QUEUED
    assert states[job] is JobState.FAILED
    spool.submit(REQUEST)


def test_a_killed_submission_is_swept(spool: Spool) -> None:
    """What a submission that was killed left is no job, and the next one removes it."""
    spool.make()
    draft = spool.root / "jobs" / f".{'a' * 22}.new"
    draft.mkdir()
    assert spool.jobs() == []
    spool.submit(REQUEST)
    assert not draft.exists()


def test_where_the_spool_lies() -> None:
    """The environment outranks the user's folder of states."""
    assert default_spool_dir({"TEG_SPOOL_DIR": "/x/y"}) == Path("/x/y")
    assert default_spool_dir({"XDG_STATE_HOME": "/s"}) in (Path("/s/teg/finetune"), Path("/var/lib/teg/finetune"))


def test_constructing_touches_nothing(tmp_path: Path) -> None:
    """A spool is made when it is used; one that was never made has no jobs."""
    spool = Spool(tmp_path / "spool")
    assert spool.jobs() == []
    assert not spool.root.exists()
    assert isinstance(spool.forget("m"), object)
    assert JobStatus("x", REQUEST).state is JobState.QUEUED
