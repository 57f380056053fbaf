# SPDX-License-Identifier: Apache-2.0
"""Processes beside the benchmark, each told over a pipe what to do: one sends requests, the others train.

A child that finds its pipe closed ends by itself, so that none outlives the benchmark.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from governor.load import LoadPlan, run_load

STOP_S = 10.0


class ProcessFailed(Exception):
    """A process ended, took too long or met an error; `name` is its own."""

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        super().__init__(f"{name}: {why}")


class Process:
    """A child that runs `target(pipe, *args)`; it must send an answer once it is ready, and one for each command."""

    def __init__(self, name: str, target: Callable[..., None], *args: object) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_guarded, args=(theirs, target, args), name=name, daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id; 0 before it has one."""
        return self._process.pid or 0

    def tell(self, command: object) -> None:
        """Send a command; that nobody is there to hear it shows in the answer."""
        with contextlib.suppress(OSError):
            self._pipe.send(command)

    def answered(self, within_s: float) -> bool:
        """Whether an answer is there, after a wait of at most so long."""
        return self._pipe.poll(within_s)

    def answer(self, limit_s: float) -> Any:
        """The next answer; raises `ProcessFailed`."""
        if not self._pipe.poll(limit_s):
            raise ProcessFailed(self.name, f"no answer within {limit_s:.0f} s")
        try:
            found = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(STOP_S)
            raise ProcessFailed(self.name, f"the process ended with {self._process.exitcode}") from error
        if isinstance(found, dict) and "error" in found:
            raise ProcessFailed(self.name, found["error"])
        return found

    def close(self) -> None:
        """End it."""
        self.tell(None)
        self._pipe.close()
        self._process.join(STOP_S)
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.join()


def _guarded(pipe: Connection, target: Callable[..., None], args: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the benchmark's to handle, and it ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        target(pipe, *args)
    except (EOFError, BrokenPipeError):
        return  # the benchmark has gone
    except Exception as error:  # noqa: BLE001 - the border: whatever a child meets is its answer
        with contextlib.suppress(OSError):
            pipe.send({"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()})


def serve_load(pipe: Connection) -> None:
    """Run load plans, answering each with its `Answer`s in order of sending.

    Clients are elsewhere: what this process needs must not wait for what is measured, so it runs at real-time priority
    where that is allowed, beside every arm alike.
    """
    realtime = True
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        realtime = False
    pipe.send(realtime)
    while (plan := pipe.recv()) is not None:
        pipe.send(_answers(plan))


def _answers(plan: LoadPlan) -> list[tuple[int, int, int, str]]:
    """Intended, sent, done (CLOCK_MONOTONIC ns) and error of every request."""
    found: list[tuple[int, int, int, int, str]] = []
    run_load(
        plan,
        on_answer=lambda one: found.append((one.number, one.intended_ns, one.sent_ns, one.done_ns, one.error)),
    )
    return [row[1:] for row in sorted(found)]
