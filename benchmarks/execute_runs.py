# SPDX-License-Identifier: Apache-2.0
"""Trainers against eager, each in a process of its own, their steps in turn; what is finished is kept in a file.

Eager stays for all of a model's trainers, who come in groups that memory has room for. Every round gives each process
one step, so what the machine is at otherwise meets all alike, and a ratio is taken within its round.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from .execute_report import TIMED, key_of, modes
from .kept import keep_row, read_row
from .trainers import child, meter

HEAP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}
"""Freed memory stays with the process, for all trainers alike: to touch new pages costs a virtual host 1 s per GB."""
ROOT = Path(__file__).resolve().parents[1]
GROUP = 3
"""Trainers at a time beside eager: a step of BERT-base is 2 GB with weights and gradients."""
TIMES = 3
"""Rounds of those whose time is held to a few percent, for each of the others'."""
STARTUP_S, STEP_S = 600.0, 120.0
"""Longer than that and a process is given up: torch's compiler takes minutes."""
Row = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One trainer on one model."""

    model: str
    trainer: str

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Names of its rows, and the mode of each."""
        return [(key_of(self.model, self.trainer, mode), mode) for mode in modes(self.trainer)]

    @property
    def timed(self) -> bool:
        """Whether a target holds its time to a few percent."""
        return self.trainer in TIMED


class ChildFailed(Exception):
    """A trainer's process ended, took too long or, if `reported`, met an error that it would meet again."""

    def __init__(self, why: str, *, reported: bool = False) -> None:
        self.reported = reported
        super().__init__(why)


class Kept:
    """Finished rows on disk, by a digest of the code that they depend on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests = {ours: code(ours=ours) for ours in (False, True)}

    def work(self) -> Path:
        """A folder for profiles and pages of this very code; those of other code are removed."""
        found = self._folder / f"work-{self._digests[True]}"
        for other in self._folder.glob("work-*"):
            if other != found:
                shutil.rmtree(other)
        found.mkdir(parents=True, exist_ok=True)
        return found

    def path(self, key: str) -> Path:
        """The file of a row."""
        return self._folder / self._digests["-ours" in key] / f"{key}.json"

    def get(self, key: str) -> Row | None:
        """The row, if it is there; a file that cannot be read holds none."""
        return read_row(self.path(key))

    def put(self, key: str, row: Row) -> None:
        """Keep a row."""
        keep_row(self.path(key), row)


def code(*, ours: bool) -> str:
    """A digest of what measures, of the models, of torch and, for ours, of the product."""
    found = hashlib.sha256(torch.__version__.encode())
    paths = [Path(__file__), ROOT / "model_repository/architectures.py", ROOT / "benchmarks/trainers"]
    for path in (*paths, ROOT / "finetune") if ours else paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in (file for file in files if file.suffix in {".py", ".c"}):
            found.update(file.read_bytes())
    return found.hexdigest()[:8]


class Child:
    """A trainer in its process."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=child.serve, args=(theirs, job.model, job.trainer, folder), daemon=True
        )
        self._process.start()
        theirs.close()
        self.startup: Row = {}
        self._failed: ChildFailed | None = None

    def ready(self) -> None:
        """Wait until it has begun; raises `ChildFailed`."""
        if self._failed:
            raise self._failed
        try:
            self.startup = self.startup or self._answer(STARTUP_S)
        except ChildFailed as failed:
            self._failed = failed
            raise

    def ask(self, command: str, mode: str, limit_s: float = STEP_S) -> Row:
        """The answer to a command; raises `ChildFailed`."""
        with contextlib.suppress(OSError):  # the answer, or that there is none, tells why
            self._pipe.send((command, mode))
        return self._answer(limit_s)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(10.0)
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.join()
        self._pipe.close()

    def _answer(self, limit_s: float) -> Row:
        if not self._pipe.poll(limit_s):
            raise ChildFailed(f"no answer within {limit_s:.0f} s")
        try:
            found: Row = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5.0)
            raise ChildFailed(f"the process ended with {self._process.exitcode}") from error
        if "error" in found:
            raise ChildFailed(found["error"], reported=True)
        return found


@contextlib.contextmanager
def environment(folder: Path) -> Iterator[None]:
    """What children inherit: one thread, the meter where it can be built, and where torch's compiler keeps its work."""
    library = meter.build(folder)
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") | HEAP
    wanted["TORCHINDUCTOR_CACHE_DIR"] = str((folder / "inductor").resolve())
    if library:
        wanted["LD_PRELOAD"] = str(library)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ |= wanted
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_model(model: str, jobs: Sequence[Job], kept: Kept, folder: Path, rounds: int, until_s: float, say: Say) -> None:
    """Measure what is not kept yet of a model's jobs; nothing is begun after `until_s` on the monotonic clock."""
    left = [job for job in jobs if any(kept.get(key) is None for key, _ in job.rows)]
    if not left or time.monotonic() >= until_s:
        return
    if any(job.trainer.startswith("ours") for job in left):
        say(f"{model}: profile")
        profiling = Child(Job(model, "prepare"), folder)
        profiling.ready()
        profiling.close()
    eager = Child(Job(model, "eager"), folder)
    try:
        eager.ready()
        eager.ask("reference", "")
        eager.ask("step", "")
        own = Job(model, "eager")
        if own in left:
            left.remove(own)
            kept.put(own.rows[0][0], _own_row(eager))
        for group, times in groups(left):
            if time.monotonic() < until_s:
                _run_group(eager, group, kept, folder, times * rounds, say)
    finally:
        eager.close()


def groups(jobs: Sequence[Job]) -> list[tuple[Sequence[Job], int]]:
    """Who is measured together, and for how many times the rounds: steps differ by more than a few percent here."""
    timed, rest = [job for job in jobs if job.timed], [job for job in jobs if not job.timed]
    return [
        (some[begin : begin + GROUP], times)
        for some, times in ((timed, TIMES), (rest, 1))
        for begin in range(0, len(some), GROUP)
    ]


def _own_row(eager: Child) -> Row:
    """Eager's row: rounds beside itself say how far two equal steps are apart."""
    running = Running(eager, *Job(eager.job.model, "eager").rows[0])
    running.row |= {"startup": eager.startup, "exact": eager.ask("exact", "")}
    for _ in range(3):
        running.step(eager.ask("step", ""))
    running.end()
    return running.row


def _run_group(eager: Child, jobs: Sequence[Job], kept: Kept, folder: Path, rounds: int, say: Say) -> None:
    """Rows of a few trainers; one that fails has a reason in place of figures."""
    say(f"{jobs[0].model}: {', '.join(job.trainer for job in jobs)}")
    children = [Child(job, folder) for job in jobs]
    try:
        running = [Running(one, key, mode) for one in children for key, mode in one.job.rows]
        for one in running:
            one.attempt(one.begin)
        for number in range(rounds):
            _round(eager, running, number)
        for one in running:
            one.attempt(one.end)
            if one.lasting:
                kept.put(one.key, one.row)
            say(f"  {one.key}: {one.row.get('why') or 'done'}")
    finally:
        for child_ in children:
            child_.close()


def _round(eager: Child, running: Sequence[Running], number: int) -> None:
    """One step of each, eager's first; who follows it changes from round to round."""
    theirs = eager.ask("step", "")
    turn = number % max(1, len(running))
    for one in (*running[turn:], *running[:turn]):
        one.attempt(lambda one=one: one.step(theirs))  # type: ignore[misc]


class Running:
    """A row that is being measured."""

    def __init__(self, child_: Child, key: str, mode: str) -> None:
        self.child, self.key, self.mode = child_, key, mode
        self.row: Row = {"rounds": []}
        self.lasting = True
        """Whether a later run need not try again."""

    def attempt(self, do: Callable[[], None]) -> None:
        """Do a part of it, unless it has failed before."""
        if "why" in self.row:
            return
        try:
            do()
        except ChildFailed as failed:
            self.row, self.lasting = {"why": str(failed)}, failed.reported

    def begin(self) -> None:
        """Wait for the process, run in, and compare with eager."""
        self.child.ready()
        self.row |= {"startup": self.child.startup, "exact": self.child.ask("exact", self.mode, STARTUP_S)}
        self.child.ask("step", self.mode)

    def step(self, eager: Row) -> None:
        """One step beside one of eager's."""
        self.row["rounds"].append({"own": self.child.ask("step", self.mode), "eager": eager})

    def end(self) -> None:
        """What is measured once."""
        peaks = [one["own"]["peak_bytes"] for one in self.row["rounds"]]
        self.row["peak_bytes"] = peak_of(self.child, self.mode, peaks)
        self.row["yields"] = self.child.ask("yields", self.mode)
        self.row["figures"] = self.child.ask("figures", self.mode)


def peak_of(child_: Child, mode: str, seen: Sequence[int | None]) -> int:
    """The highest peak seen while steps were timed; without the preloaded meter, that of one step more."""
    known = [peak for peak in seen if peak is not None]
    return max(known) if known else int(child_.ask("peak", mode)["peak_bytes"])
