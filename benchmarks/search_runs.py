# SPDX-License-Identifier: Apache-2.0
"""Many runs in two processes, each kept in a file of its own, so that what is finished is not run again.

A file's name holds digests of the method's code and of the tables: a run of other code, or of other tables, does not
count. A process that takes too long over a run is killed, by its id, and the run is given up.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from .kept import keep_row, read_row
from .search_methods import METHODS, code
from .search_replay import Run, priors, replay
from .search_suites import Suite, suites

WORKERS = 2
RUN_LIMIT_S = 240.0
PROGRESS_S = 15.0


@dataclass(frozen=True, slots=True)
class Job:
    """One run to do."""

    method: str
    suite: str
    table: str
    multiple: float
    seed: int


class Kept:
    """Finished runs on disk."""

    def __init__(self, folder: Path, found: Mapping[str, Suite]) -> None:
        self._folder = folder
        self._tables = {name: suite.digest()[:8] for name, suite in found.items()}
        self._codes = {name: code(entry)[:8] for name, entry in METHODS.items()}

    def path(self, job: Job) -> Path:
        """The file of a run."""
        folder = self._folder / f"{job.method}-{self._codes[job.method]}" / f"{job.suite}-{self._tables[job.suite]}"
        return folder / f"{job.table}-k{job.multiple:g}-{job.seed:02}.json"

    def get(self, job: Job) -> Run | None:
        """The run, if it is finished; a file that cannot be read holds none."""
        try:
            return Run(**(read_row(self.path(job)) or {}))
        except TypeError:
            return None

    def put(self, job: Job, run: Run) -> None:
        """Keep a run."""
        keep_row(self.path(job), asdict(run))


def jobs(found: Sequence[Suite], methods: Sequence[str], *, seeds: int | None, slow_seeds: int) -> Iterator[Job]:
    """Every run to do, the yardstick's before the others', ours before the peers', slow peers' first seeds alone."""
    for suite in found:
        for name in methods:
            if suite.methods is not None and name not in suite.methods:
                continue
            most = min(suite.seeds, slow_seeds) if METHODS[name].slow else suite.seeds
            for seed in range(min(most, seeds) if seeds is not None else most):
                for multiple in suite.multiples:
                    yield from (Job(name, suite.name, table, multiple, seed) for table in suite.grids)


class Worker:
    """A process that does one run at a time."""

    def __init__(self, data: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_work, args=(theirs, data), daemon=True)
        self._process.start()
        theirs.close()
        self.job: Job | None = None
        self._began_s = 0.0

    def give(self, job: Job) -> None:
        """Start a run."""
        self.job, self._began_s = job, time.monotonic()
        self.line.send(job)

    def late(self) -> bool:
        """Whether its run takes too long."""
        return self.job is not None and time.monotonic() - self._began_s > RUN_LIMIT_S

    def end(self) -> None:
        """End the process, at work or not."""
        self._process.kill()
        self._process.join()
        self.line.close()


def run_all(todo: Sequence[Job], kept: Kept, data: Path, limit_s: float, say: Callable[[str], None]) -> dict[str, int]:
    """Do the runs that are not kept yet; how many were given up, failed, or not begun within `limit_s` seconds."""
    left = [job for job in todo if kept.get(job) is None]
    say(f"{len(todo)} runs, {len(todo) - len(left)} of them finished before")
    done, given_up, began_s, said_s = 0, 0, time.monotonic(), 0.0
    waiting = iter(left)
    with _workers(data, min(WORKERS, len(left))) as workers:
        for worker in workers:
            _next(worker, waiting, began_s, limit_s)
        while any(worker.job for worker in workers):
            ready = wait([worker.line for worker in workers if worker.job], timeout=1.0)
            for number, worker in enumerate(workers):
                if worker.job is None or (worker.line not in ready and not worker.late()):
                    continue
                run = _answer(worker) if worker.line in ready else None
                if isinstance(run, Run):
                    kept.put(worker.job, run)
                    done += 1
                else:
                    given_up += 1
                    say(f"given up: {worker.job}: {run or f'not done after {RUN_LIMIT_S:.0f} s'}")
                    worker.end()
                    workers[number] = worker = Worker(data)  # the old one may be dead, or still at it
                _next(worker, waiting, began_s, limit_s)
            if time.monotonic() - said_s > PROGRESS_S:
                said_s = time.monotonic()
                now = ", ".join(f"{w.job.method} on {w.job.table}" for w in workers if w.job)
                say(f"  {time.monotonic() - began_s:5.0f} s  {done} of {len(left)} done; now {now}")
    return {"given_up": given_up, "not_begun": len(left) - done - given_up}


@contextlib.contextmanager
def _workers(data: Path, count: int) -> Iterator[list[Worker]]:
    """Processes with one thread each; all of them ended at the end."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    workers = [Worker(data) for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()


def _next(worker: Worker, waiting: Iterator[Job], began_s: float, limit_s: float) -> None:
    job = next(waiting, None) if time.monotonic() - began_s < limit_s else None
    worker.job = None
    if job is not None:
        worker.give(job)


def _answer(worker: Worker) -> Run | str:
    """The run, or what went wrong."""
    try:
        answer: Run | str = worker.line.recv()
    except EOFError:
        return "the process died"
    return answer


def _work(line: Connection[Run | str, Job], data: Path) -> None:
    """What a worker process does: runs, until nobody is there any more."""
    found = {suite.name: suite for suite in suites(data, full=False)[0]}
    with contextlib.suppress(EOFError):
        while True:
            job = line.recv()
            try:
                line.send(do(job, found[job.suite]))
            # whatever a method raises becomes its result, and the other runs go on
            except Exception as error:  # noqa: BLE001
                line.send(f"{type(error).__name__}: {error}")


def do(job: Job, suite: Suite) -> Run:
    """One run, here."""
    entry = METHODS[job.method]
    prior = priors(suite.grids, job.table) if entry.uses_prior else None
    return replay(entry.make(), suite.grids[job.table], job.seed, prior or None, job.multiple, suite.trials)
