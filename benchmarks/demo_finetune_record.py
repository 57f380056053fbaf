# SPDX-License-Identifier: Apache-2.0
"""What `make demo-finetune` saw: board, requests and training from the pages, in a thread; and what a span held."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from governor.published import read_standing
from governor.reader import PageReader, Snapshot
from predictor.queueing import quantile
from telemetry.errors import PageError
from telemetry.instance_page import Sample, Status
from telemetry.rundir import RunDir
from telemetry.trainer_page import TrainerPage

EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Look:
    """The board and the trainer at one moment: CLOCK_MONOTONIC seconds; clocks in the order of `boards.clocks.KNOBS`.

    `steps` and `trained_s` (stretched, as a virtual board has it) only grow; `duty` is None while nobody limits.
    """

    at_s: float
    energy_j: float
    power_w: float
    clocks: tuple[int | None, ...]
    steps: int
    trained_s: float
    duty: float | None
    batch_limit: int | None = None


@dataclass(slots=True)
class Record:
    """Everything that was seen; `marks` are the story's moments."""

    looks: list[Look] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    lost: int = 0
    """Samples that were overwritten before they were read."""
    standings: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    """What the governor said of itself, whenever that changed."""
    marks: list[tuple[float, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Span:
    """What one or more spans of time held; latencies are the server's, from arrival to the end of the batch."""

    seconds: float
    requests: int
    violation_share: float
    p50_s: float
    p95_s: float
    p99_s: float
    energy_j: float
    steps: int
    trained_s: float

    @property
    def power_w(self) -> float:
        """Mean power of the whole board."""
        return self.energy_j / self.seconds


def span(record: Record, parts: Sequence[tuple[float, float]], limit_s: float) -> Span:
    """The figures of one or more spans of time together; `ValueError` for one without two looks or any request."""
    seconds = energy_j = trained_s = 0.0
    steps, latencies = 0, list[float]()
    for begin_s, end_s in parts:
        looks = [look for look in record.looks if begin_s <= look.at_s <= end_s]
        found = [sample.latency_s for sample in record.samples if begin_s <= sample.arrival_ns / 1e9 <= end_s]
        if len(looks) < 2 or not found:
            raise ValueError(f"{len(looks)} looks and {len(found)} requests in {end_s - begin_s:.1f} s tell nothing")
        first, last = looks[0], looks[-1]
        seconds += last.at_s - first.at_s
        energy_j += last.energy_j - first.energy_j
        trained_s += last.trained_s - first.trained_s
        steps += last.steps - first.steps
        latencies += found
    late = sum(latency > limit_s for latency in latencies)
    p50_s, p95_s, p99_s = (quantile(latencies, share) for share in (0.5, 0.95, 0.99))
    return Span(seconds, len(latencies), late / len(latencies), p50_s, p95_s, p99_s, energy_j, steps, trained_s)


def idle_share(record: Record, begin_s: float, end_s: float) -> float:
    """The share of a span of time in which no request was queued or executing: what training could have had."""
    busy_s, until_s = 0.0, begin_s
    for sample in sorted(record.samples, key=lambda sample: sample.arrival_ns):
        first_s, last_s = max(until_s, sample.arrival_ns / 1e9), min(end_s, sample.end_ns / 1e9)
        if last_s > first_s:
            busy_s += last_s - first_s
            until_s = last_s
    return 1 - busy_s / (end_s - begin_s)


class Watcher:
    """Records one model's board, requests and training while the `with` block runs."""

    def __init__(self, run_dir: RunDir, model: str) -> None:
        self.record = Record()
        self._run_dir, self._model = run_dir, model
        self._reader = PageReader(run_dir)
        self._trainer: TrainerPage | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._reader.close()
        if self._trainer:
            self._trainer.close()

    def mark(self, text: str) -> float:
        """Note a moment of the story; CLOCK_MONOTONIC seconds."""
        at_s = time.monotonic()
        self.record.marks.append((at_s, text))
        return at_s

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            now = self._reader.read()
            self._look(now)
            standing = read_standing(self._run_dir.root)
            if standing and (not self.record.standings or self.record.standings[-1][1] != standing):
                self.record.standings.append((now.now_ns / 1e9, standing))

    def _look(self, now: Snapshot) -> None:
        record, limit = self.record, None
        for view in now.instances:
            if view.info.model == self._model:
                record.samples += [sample for sample in view.samples if sample.status is Status.OK]
                record.lost += view.lost_samples
                limit = view.applied.batch_limit if view.applied else None
        if now.board is not None:
            board = now.board
            trained = self._trained(now.now_ns)
            record.looks.append(
                Look(board.sampled_ns / 1e9, board.energy_j, board.power_w, board.observed, *trained, limit)
            )

    def _trained(self, now_ns: int) -> tuple[int, float, float | None]:
        """Steps, seconds and duty of the trainer; zeros before there is one."""
        page = self._trainer
        if page is not None and not page.alive(now_ns):
            page.close()
            self._trainer = page = None
        if page is None:
            try:
                self._trainer = page = TrainerPage.open(self._run_dir.trainer_page)
            except PageError:
                return self._last()
        limits = page.read_limits(now_ns)
        return page.steps, page.busy_ns / 1e9, limits.duty if limits else None

    def _last(self) -> tuple[int, float, None]:
        last = self.record.looks[-1] if self.record.looks else None
        return (last.steps, last.trained_s, None) if last else (0, 0.0, None)
