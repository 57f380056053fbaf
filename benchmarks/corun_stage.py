# SPDX-License-Identifier: Apache-2.0
"""A served model, the clients that load it, and those who train beside it, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from governor.load import LoadPlan
from governor.server import TritonServer
from telemetry.instance_page import Knobs, Sample, Status

from .corun_processes import Process, serve_load
from .corun_trainers import NONE, Arm, Trainer, serve_training
from .stack import REPOSITORY

STARTUP_S, ANSWER_S = 600.0, 120.0
LOAD = "load"
"""The process that sends requests."""
LEAD_S = 0.5
"""Training is under way for so long before a trace begins."""
SETTLE_S = 0.2
LOOK_S = 0.05
KNOBS_S = 60.0
"""Knobs that were asked for are forgotten after that."""
Tick = Callable[[], None]


def _nothing() -> None:
    """Nobody governs."""


@dataclass(frozen=True, slots=True)
class Played:
    """A trace that was sent; times are CLOCK_MONOTONIC nanoseconds, the time between `begin_ns` and `end_ns` counts."""

    begin_ns: int
    end_ns: int
    answers: list[tuple[int, int, int, str]]
    """Intended, sent, done and error of each request, in order of sending."""
    samples: list[Sample]
    """What the served model noted of them."""
    trained: dict[str, Any] = field(default_factory=dict)
    """What the trainer told: `steps` as pairs of begin and end, and its own figures."""

    @property
    def latencies_s(self) -> list[float | None]:
        """Of each request from its intended arrival; None for one that failed."""
        return [None if error else (done_ns - intended_ns) / 1e9 for intended_ns, _, done_ns, error in self.answers]

    @property
    def lags_s(self) -> list[float]:
        """How late each request was sent."""
        return [(sent_ns - intended_ns) / 1e9 for intended_ns, sent_ns, _, _ in self.answers]

    @property
    def span_s(self) -> float:
        """The time that counts."""
        return (self.end_ns - self.begin_ns) / 1e9

    @property
    def idle_share(self) -> float:
        """Share of that time in which no request was in flight."""
        busy_ns, until_ns = 0, self.begin_ns
        for sample in sorted(self.samples, key=lambda sample: sample.arrival_ns):
            end_ns = min(sample.end_ns, self.end_ns)
            busy_ns += max(0, end_ns - max(sample.arrival_ns, until_ns))
            until_ns = max(until_ns, end_ns)
        return 1.0 - busy_ns / (self.end_ns - self.begin_ns)

    @property
    def steps(self) -> float:
        """Training steps within that time; of one that reaches beyond it, the share in time."""
        pairs = self.trained.get("steps") or []
        if not pairs:
            return 0.0
        moments = [moment_ns for pair in pairs for moment_ns in pair]
        counts = [count for number in range(len(pairs)) for count in (number, number + 1)]
        first, last = np.interp([self.begin_ns, self.end_ns], moments, counts)
        return float(last - first)


class Stage:
    """Plays traces; trainers, once started, wait for their turn."""

    def __init__(self, server: TritonServer, model: str, load: Process) -> None:
        self.model, self.run_dir = model, server.run_dir
        self._url, self._load = server.grpc_url, load
        (self._page,) = server.run_dir.open_instances(writable=True)
        info = self._page.info
        self.batch_limit = info.max_batch if info else 1
        self._cursor = 0
        self._trainers: dict[str, Process] = {}

    def start(self, arm: Arm, make: Callable[[], Trainer]) -> None:
        """Start an arm's trainer, made there; raises `ProcessFailed`."""
        self._trainers[arm.name] = trainer = Process(arm.name, serve_training, make, arm.policy)
        trainer.answer(STARTUP_S)

    def play(
        self, arrivals_s: Sequence[float], arm: Arm = NONE, tick: Tick = _nothing, over: Tick = _nothing
    ) -> Played:
        """Send one trace beside an arm that was started; raises `ProcessFailed`.

        `tick` is called all the while, and `over` when the trace is, until training has finished its step.
        """
        trainer = self._begin(arm, tick) if arm is not NONE else None
        try:
            self._load.tell(LoadPlan(self._url, self.model, tuple(arrivals_s)))
            while not self._load.answered(LOOK_S):
                tick()
            answers = self._load.answer(ANSWER_S)
        finally:
            if trainer:
                trainer.tell("stop")
        trained = self._ended(trainer, over) if trainer else {}
        time.sleep(SETTLE_S)
        samples, self._cursor, _ = self._page.samples_since(self._cursor)
        begin_ns, end_ns = answers[0][0], max(done_ns for _, _, done_ns, _ in answers)
        served = [one for one in samples if one.status is Status.OK and one.end_ns >= begin_ns]
        return Played(begin_ns, end_ns, answers, served, trained)

    def request_knobs(self, knobs: Knobs) -> None:
        """Batch limit and wait for the next trace."""
        self._page.write_knobs(knobs, KNOBS_S)

    def close(self) -> None:
        """End everybody."""
        for trainer in self._trainers.values():
            trainer.close()
        self._page.close()

    def stop(self, arm: Arm) -> None:
        """End an arm's trainer, if there is one."""
        if trainer := self._trainers.pop(arm.name, None):
            trainer.close()

    def _begin(self, arm: Arm, tick: Tick) -> Process:
        trainer = self._trainers[arm.name]
        trainer.tell("train")
        until_s = time.monotonic() + LEAD_S
        while time.monotonic() < until_s:
            tick()
            time.sleep(LOOK_S)
        return trainer

    def _ended(self, trainer: Process, over: Tick) -> dict[str, Any]:
        until_s = time.monotonic() + ANSWER_S
        while not trainer.answered(LOOK_S) and time.monotonic() < until_s:
            over()
        found: dict[str, Any] = trainer.answer(0.0)
        return found


@contextmanager
def staged(model: str, folder: Path) -> Iterator[Stage]:
    """A stage for one model of the repository, with its log in `folder`; everything is ended on the way out."""
    folder.mkdir(parents=True, exist_ok=True)
    load = Process(LOAD, serve_load)
    try:
        load.answer(STARTUP_S)
        with TritonServer(REPOSITORY, models=[model], run_dir=folder / "run", log_path=folder / "triton.log") as server:
            stage = Stage(server, model, load)
            try:
                yield stage
            finally:
                stage.close()
    finally:
        load.close()
