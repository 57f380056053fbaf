# SPDX-License-Identifier: Apache-2.0
"""Many plans in two processes, one solver thread each; every result is kept in a file and not made again.

A file's name holds digests of the method's code and of what the problem is made from, so a result of other code, or of
another graph, does not count.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from finetune.problem import Semantics

from .kept import keep_row, read_row
from .plan_instances import Instance
from .plan_methods import METHODS, code
from .plan_steps import made_up

WORKERS = 2
PROGRESS_S = 20.0
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One method on one instance."""

    method: str
    instance: Instance


class Kept:
    """Finished results on disk."""

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder, self._data = folder, data
        self._codes = {name: code(method) for name, method in METHODS.items()}

    def path(self, job: Job) -> Path:
        """The file of a result."""
        name = f"{job.instance.key}-{job.instance.digest(self._data)}.json"
        return self._folder / f"{job.method}-{self._codes[job.method]}" / name

    def get(self, job: Job) -> Row | None:
        """The result, if there is one; a file that cannot be read holds none."""
        return read_row(self.path(job))

    def put(self, job: Job, row: Row) -> None:
        """Keep a result."""
        keep_row(self.path(job), row)


def run_all(todo: Sequence[Job], kept: Kept, data: Path, limit_s: float, say: Callable[[str], None]) -> dict[str, int]:
    """Make what is not kept yet; how many failed, or were not begun within `limit_s` seconds."""
    left = [job for job in todo if kept.get(job) is None]
    say(f"{len(todo)} plans, {len(todo) - len(left)} of them made before")
    waiting, running = iter(left), dict[Future[Row], Job]()
    done, failed, began_s, said_s = 0, 0, time.monotonic(), 0.0
    pool = _pool()
    try:
        while True:
            while len(running) < WORKERS and time.monotonic() - began_s < limit_s:
                job = next(waiting, None)
                if job is None:
                    break
                running[pool.submit(do, job, data)] = job
            if not running:
                break
            for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                error = future.exception()
                if error is None:
                    kept.put(job, future.result())
                    done += 1
                    continue
                failed += 1
                say(f"failed: {job.method} on {job.instance.key}: {type(error).__name__}: {error}")
                if isinstance(error, BrokenProcessPool):
                    # a solver took its process along; what the other one was at failed with it
                    failed += len(running)
                    running.clear()
                    pool.shutdown(cancel_futures=True)
                    pool = _pool()
                    break
            if time.monotonic() - said_s > PROGRESS_S:
                said_s = time.monotonic()
                now = ", ".join(f"{job.method} on {job.instance.key}" for job in running.values())
                say(f"  {said_s - began_s:5.0f} s  {done} of {len(left)} done; now {now}")
    finally:
        pool.shutdown(cancel_futures=True)
    return {"failed": failed, "not begun": len(left) - done - failed}


def _pool() -> ProcessPoolExecutor:
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn"), warm)


def warm() -> None:
    """Load the compiled search before anything is timed."""
    instance = Instance("made", "chain", "mixed", 0.6, 1.3, ops=24)
    for semantics in get_args(Semantics):
        METHODS["unhurried"].run(instance, made_up("chain", 24, 0.6, semantics=semantics), Path())


def do(job: Job, data: Path) -> Row:
    """One result, here."""
    return METHODS[job.method].run(job.instance, job.instance.problem(data), data)
