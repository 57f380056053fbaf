# SPDX-License-Identifier: Apache-2.0
"""Models served on a simulated board in virtual time: what the governor's `Pages` show.

For tests and rehearsals. Requests arrive as Poisson processes, wait in line and are served in batches on one device;
how long a batch takes and what the board draws follow `boards.physics` at the clocks in force. Nothing sleeps: time
passes in `Simulation.step`, so that an hour of governing takes seconds. All figures are those of a virtual board.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from boards.clocks import ClockPoint, ClockTable
from boards.physics import idle_power_w, shipped
from telemetry.instance_page import InstanceInfo, Knobs, Sample, Status
from telemetry.trainer_page import TrainerLimits

from .reader import InstanceView, Snapshot
from .simulated_board import TABLE, SimulatedBoard
from .simulated_trainer import SimulatedTrainer

T = TypeVar("T")
JITTER = 0.02
"""Standard deviation of the log of service times, unless a model's own is set."""


class Inline(Executor):
    """Does at once what it is given: the search thinks in no time at all."""

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """The finished future of `work`."""
        future: Future[T] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as in any executor, whoever asks for the result gets the error
            future.set_exception(error)
        return future


class SimulatedModel:
    """One served instance: its line of requests, and what its page says."""

    def __init__(self, info: InstanceInfo, rate_hz: float, seed: int = 0) -> None:
        self.info = info
        self.failing = False
        """True: every batch that ends from now on ends in an error."""
        self.jitter = JITTER
        self.silent_s = 0.0
        """For how long its process has not beaten."""
        self.finished: list[Sample] = []
        """Every request so far, in order of its end."""
        self.workload = shipped(info.virtual_workload)
        self.rng = random.Random(f"{seed}/{info.instance}")  # noqa: S311 - a simulation, nothing secret
        self.busy_s = 0.0
        self.waiting: deque[float] = deque()
        """Arrivals of the requests in line."""
        self.serving: tuple[float, ...] = ()
        """Arrivals of the batch that runs."""
        self._knobs = (Knobs(info.max_batch, info.batch_wait_ns), 0.0)
        self._shown = 0
        self.offer(rate_hz)

    def offer(self, rate_hz: float) -> None:
        """Let requests arrive at this rate from now on; 0 stops them."""
        self._rate_hz = rate_hz
        self._next_s: float | None = None

    def next_arrival_s(self, now_s: float) -> float:
        """When the next request arrives; infinite if none does."""
        if self._next_s is None:
            self._next_s = now_s + (self.rng.expovariate(self._rate_hz) if self._rate_hz else math.inf)
        return self._next_s

    def arrive(self, now_s: float) -> None:
        """Put the requests that are due in line."""
        while self.next_arrival_s(now_s) <= now_s:
            arrival_s = self.next_arrival_s(now_s)
            self.waiting.append(arrival_s)
            self._next_s = arrival_s + self.rng.expovariate(self._rate_hz)

    def begin(self, point: ClockPoint, now_s: float) -> float:
        """Begin a batch of those who wait; when it will end."""
        size = min(len(self.waiting), self.batch_limit(now_s))
        self.serving = tuple(self.waiting.popleft() for _ in range(size))
        return now_s + self.workload.latency_s(point, size) * math.exp(self.rng.gauss(0.0, self.jitter))

    def end(self, start_s: float, end_s: float) -> None:
        """Answer the batch that runs."""
        status, size = (Status.FAILED if self.failing else Status.OK), len(self.serving)
        for arrival_s in self.serving:
            self.finished.append(Sample(round(arrival_s * 1e9), round(start_s * 1e9), round(end_s * 1e9), size, status))
        self.serving = ()

    def take_knobs(self, knobs: Knobs, until_s: float) -> None:
        """Obey the governor's knobs until then."""
        self._knobs = (knobs, until_s)

    def batch_limit(self, now_s: float) -> int:
        """The limit in force: the governor's until it expires, else the model's own."""
        knobs, until_s = self._knobs
        return knobs.batch_limit if now_s < until_s else self.info.max_batch

    def view(self, now_s: float) -> InstanceView:
        """What the page shows, with the samples that finished since the view before."""
        samples, self._shown = tuple(self.finished[self._shown :]), len(self.finished)
        line = (*self.serving, *self.waiting)
        gate = len(line), round(min(line, default=0.0) * 1e9)
        applied = Knobs(self.batch_limit(now_s), self.info.batch_wait_ns)
        counts = round(self.busy_s * 1e9), len(self.finished)
        return InstanceView(self.info, samples, 0, *gate, *counts, applied, self.silent_s)


class Simulation:
    """The whole device, and the governor's `Pages`. `models` and `trainer` may be changed between two steps."""

    def __init__(self, models: list[SimulatedModel], start_s: float = 1000.0, table: ClockTable = TABLE) -> None:
        self.now_s = start_s
        self.models = models
        self.board = SimulatedBoard(self.clock, table)
        self.trainer: SimulatedTrainer | None = None
        self.energy_j = 0.0
        self._batch: tuple[SimulatedModel, float, float] | None = None
        """The model whose batch runs, its start and its end: there is one device."""
        self._operation: tuple[SimulatedTrainer, float, float] | None = None
        """The same of training."""
        self._cold = 0.0
        """How much longer the next batch takes."""

    def clock(self) -> float:
        """Virtual seconds."""
        return self.now_s

    def step(self, dt_s: float) -> None:
        """Let `dt_s` seconds pass; clocks and knobs that expire within a step hold until its end."""
        until_s, point = self.now_s + dt_s, self.board.point
        while self.now_s < until_s:
            events_s = [until_s, *(model.next_arrival_s(self.now_s) for model in self.models)]
            if self._batch:
                events_s.append(self._batch[2])
            elif self._operation:
                events_s.append(self._operation[2])
            elif self.trainer:
                events_s.append(self.trainer.next_s(self.now_s))
            self._pass(point, min(events_s))
            for model in self.models:
                model.arrive(self.now_s)
            self._end_operation(point)
            self._serve(point)
            self._begin_operation(point)
        self.board.sample()

    def read(self) -> Snapshot:
        """What the pages say now."""
        board = self.board.reading() if self.board.running else None
        views = tuple(model.view(self.now_s) for model in self.models)
        trainer = self.trainer.view(self.now_s) if self.trainer else None
        return Snapshot(round(self.now_s * 1e9), board, views, trainer)

    def write_knobs(self, instance: str, knobs: Knobs, ttl_s: float) -> None:
        """Set one instance's knobs for `ttl_s` seconds."""
        for model in self.models:
            if model.info.instance == instance:
                model.take_knobs(knobs, self.now_s + ttl_s)

    def write_limits(self, limits: TrainerLimits, ttl_s: float) -> None:
        """Set the limits of training for `ttl_s` seconds."""
        if self.trainer:
            self.trainer.take_limits(limits, self.now_s + ttl_s)

    def close(self) -> None:
        """Nothing to close."""

    def _pass(self, point: ClockPoint, until_s: float) -> None:
        """Charge the time until then to the board, and to the model whose batch runs."""
        dt_s, power_w = until_s - self.now_s, idle_power_w(point)
        if self._batch:
            model = self._batch[0]
            model.busy_s += dt_s
            power_w = model.workload.busy_power_w(point, len(model.serving))
        elif self._operation:
            power_w = self._operation[0].power_w(point)
        self.energy_j += power_w * dt_s
        self.board.feed(power_w, dt_s)
        self.now_s = until_s

    def _serve(self, point: ClockPoint) -> None:
        """End the batch that is done, and begin one for the model whose request has waited longest."""
        if self._batch and self._batch[2] <= self.now_s:
            model, start_s, end_s = self._batch
            model.end(start_s, end_s)
            self._batch = None
        waiting = [model for model in self.models if model.waiting]
        if not (self._batch or self._operation) and waiting:
            model = min(waiting, key=lambda candidate: candidate.waiting[0])
            end_s = model.begin(point, self.now_s)
            self._batch = (model, self.now_s, end_s + self._cold * (end_s - self.now_s))
            self._cold = 0.0

    def _end_operation(self, point: ClockPoint) -> None:
        if self._operation and self._operation[2] <= self.now_s:
            trainer, start_s, end_s = self._operation
            trainer.end(point, start_s, end_s, wanted=any(model.waiting for model in self.models))
            self._operation, self._cold = None, trainer.cold

    def _begin_operation(self, point: ClockPoint) -> None:
        """Training goes on while nobody waits."""
        if self.trainer and not (self._batch or self._operation) and self.trainer.next_s(self.now_s) <= self.now_s:
            self._operation = (self.trainer, self.now_s, self.trainer.begin(point, self.now_s))
