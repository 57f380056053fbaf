# SPDX-License-Identifier: Apache-2.0
"""Workers as processes: killed at any time, stopped, and two at once."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from telemetry.jobs import JobState
from telemetry.rundir import RunDir
from telemetry.spool import Spool
from telemetry.trainer_page import TrainerPage
from tests.faults.finetuner import lay_out
from tests.faults.zygote import Child, Zygote

PATIENCE_S = 120.0
DEATHS = (5, 35, 66, 47, 50, 53)
"""Which touch of a file each worker dies at: before its job, while it prepares, then in its steps."""
TEG = (sys.executable, "-c", "import sys; from governor.cli import main; sys.exit(main())")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(("tests.faults.warm", "tests.faults.finetuner")) as made:
        yield made


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    lay_out(folder)
    return folder


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"never: {what}"
        time.sleep(0.01)


def work(zygote: Zygote, folder: Path, dies_at: int | None = None) -> Child:
    job = "tests.faults.finetuner"
    before = f"{job}:mortal" if dies_at is not None else ""
    environ = {"DIES_AT": str(dies_at), "DIES_IN": str(folder)}
    return zygote.fork([str(folder)], folder / "log", before=before, main=f"{job}:main", environ=environ)


def published(folder: Path) -> list[str]:
    return [path.name.partition(".")[2] for path in (folder / "shelf").iterdir() if path.is_file()]


def test_killed_until_done(zygote: Zygote, laid_out: Path, tmp_path: Path) -> None:
    """However often its workers are killed, a job publishes what an undisturbed one does, once, and leaves a record."""
    alone, struck = tmp_path / "alone", tmp_path / "struck"
    for folder in (alone, struck):
        shutil.copytree(laid_out, folder)
    assert work(zygote, alone).wait(PATIENCE_S) == 0
    for dies_at in DEATHS:
        assert work(zygote, struck, dies_at).wait(PATIENCE_S) == -signal.SIGKILL, f"it outlived its touch {dies_at}"
    last = work(zygote, struck)
    assert last.wait(PATIENCE_S) == 0, last.said
    assert published(struck) == published(alone)
    (status,) = Spool(struck / "spool").jobs()
    assert (status.state, status.version) == (JobState.DONE, 2), status.reason
    left = sorted(path.name for path in Spool(struck / "spool").folder(status.id).iterdir())
    assert left == ["request.json", "status.json"]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def worker(run_dir: RunDir, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [*TEG, "finetune", "worker", "--run-dir", str(run_dir.root), "--spool-dir", str(tmp_path / "spool")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: run_dir.trainer_page.exists() or process.poll() is not None, "a worker")
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_worker_beats_and_ends_when_told(worker: subprocess.Popen[str], run_dir: RunDir) -> None:
    """Its page lives while it does, also idle; SIGTERM ends it with 0 and takes the page away."""
    page = TrainerPage.open(run_dir.trainer_page)
    begun_ns = time.monotonic_ns()
    until(lambda: page.alive() and page.age_ns(time.monotonic_ns()) < time.monotonic_ns() - begun_ns, "a beat")
    assert not page.notice.wants
    page.close()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_S) == 0
    assert not run_dir.trainer_page.exists()


def test_a_second_worker_is_refused(worker: subprocess.Popen[str], tmp_path: Path) -> None:
    """Exit code 3, and the first one is not disturbed."""
    command = [*TEG, "finetune", "worker", "--run-dir", str(tmp_path / "other"), "--spool-dir", str(tmp_path / "spool")]
    second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert second.returncode == 3
    assert "another worker" in second.stderr
    assert worker.poll() is None


def test_a_job_waits_for_a_server(worker: subprocess.Popen[str], tmp_path: Path) -> None:
    """Without a server a job stays in the queue and says why; it can be cancelled there, by any process."""
    where = ("--spool-dir", str(tmp_path / "spool"))

    def teg(*arguments: str) -> str:
        done = subprocess.run([*TEG, "finetune", *arguments, *where], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    job = teg("submit", "--model", "digits_cnn").strip()
    spool = Spool(tmp_path / "spool")
    until(lambda: "no server runs" in spool.status(job).reason, "a reason")
    assert json.loads(teg("status", job, "--json"))["state"] == "queued"
    teg("cancel", job)
    until(lambda: spool.status(job).state is JobState.CANCELLED, "obedience")
    assert worker.poll() is None
