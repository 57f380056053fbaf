# SPDX-License-Identifier: Apache-2.0
"""What the pages say now: the board, and every live model instance with its new samples."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from telemetry.board_page import BoardPage, BoardReading
from telemetry.errors import PageError
from telemetry.instance_page import Counter, InstanceInfo, InstancePage, Knobs, Sample
from telemetry.rundir import RunDir
from telemetry.trainer_page import JobNotice, TrainerLimits, TrainerPage

from .serving import read_rollout, read_served

RESCAN_S = 0.5
"""How often the run directory is searched for pages that came or went: opening files costs more than reading pages."""


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One instance at one moment; `samples` are those finished since the view before."""

    info: InstanceInfo
    samples: tuple[Sample, ...]
    lost_samples: int
    in_flight: int
    oldest_arrival_ns: int
    busy_ns: int
    requests: int
    applied: Knobs | None
    silent_s: float = 0.0
    """Since its last beat; several are due each second."""


@dataclass(frozen=True, slots=True)
class TrainerView:
    """The fine-tuning process at one moment; `stretches_s` are those noted since the view before."""

    notice: JobNotice
    busy_ns: int
    slices: int = 0
    steps: int = 0
    stretches_s: tuple[float, ...] = ()
    jobs: Mapping[str, int] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the governor's tick looks at. `board` is None while no clockd is alive, `trainer` without one."""

    now_ns: int
    board: BoardReading | None
    instances: tuple[InstanceView, ...]
    trainer: TrainerView | None = None
    rollout: str = ""
    """The model of which a new version is served on trial; empty if there is none."""
    server_faults: Mapping[str, int] = field(default_factory=dict)
    """What died of the server since it was started, by kind."""


@dataclass(slots=True)
class _Open:
    page: InstancePage
    cursor: int
    info: InstanceInfo | None = None
    """Written once."""


class PageReader:
    """Reads the run directory's pages and keeps a cursor into each ring of samples."""

    def __init__(self, run_dir: RunDir, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._run_dir = run_dir
        self._clock_ns = clock_ns
        self._board: BoardPage | None = None
        self.board: BoardReading | None = None
        """The board as of the last `read`."""
        self._open: dict[str, _Open] = {}
        self._trainer: TrainerPage | None = None
        self._stretches = 0
        self._server: tuple[str, Mapping[str, int]] = ("", {})
        self._scanned_ns = 0

    def read(self) -> Snapshot:
        """One snapshot. Instances that died since the last one are dropped, new ones begin with no samples."""
        now_ns = self._clock_ns()
        if now_ns - self._scanned_ns >= RESCAN_S * 1e9:
            self._rescan(now_ns)
        self.board = self._read_board(now_ns)
        views = [view for entry in self._open.values() if (view := self._view(entry, now_ns)) is not None]
        return Snapshot(now_ns, self.board, tuple(views), self._view_trainer(now_ns), *self._server)

    def write_knobs(self, instance: str, knobs: Knobs, ttl_s: float) -> None:
        """Set one instance's knobs for `ttl_s` seconds; an instance that has gone is passed over."""
        if entry := self._open.get(instance):
            entry.page.write_knobs(knobs, ttl_s)

    def write_limits(self, limits: TrainerLimits, ttl_s: float) -> None:
        """Set the limits of training for `ttl_s` seconds; a trainer that has gone is passed over."""
        if self._trainer is not None:
            self._trainer.write_limits(limits, ttl_s)

    def close(self) -> None:
        """Unmap every page."""
        self._let_go_of_trainer()
        for entry in self._open.values():
            entry.page.close()
        self._open.clear()
        if self._board:
            self._board.close()
            self._board = None

    def _rescan(self, now_ns: int) -> None:
        self._scanned_ns = now_ns
        found = {page.path.stem: page for page in self._run_dir.open_instances(writable=True)}
        for name, entry in list(self._open.items()):
            fresh = found.get(name)
            if fresh is not None and fresh.pid == entry.page.pid:
                found.pop(name).close()
            else:
                self._open.pop(name).page.close()
        for name, page in found.items():
            self._open[name] = _Open(page, page.counter(Counter.SAMPLES))
        self._rescan_board()
        self._rescan_trainer(now_ns)
        rollout, served = read_rollout(self._run_dir.root), read_served(self._run_dir.root)
        self._server = rollout.model if rollout else "", dict(served.faults) if served else {}

    def _rescan_board(self) -> None:
        """Map the page of a clockd that has come."""
        if self._board is None:
            with contextlib.suppress(PageError):
                self._board = BoardPage.open(self._run_dir.board_page)

    def _rescan_trainer(self, now_ns: int) -> None:
        """Map the page of a trainer that has come; a new process has put its own in the place of the old one's."""
        try:
            page = TrainerPage.open(self._run_dir.trainer_page, writable=True)
        except PageError:
            page = None
        if page is not None and (not page.alive(now_ns) or (self._trainer and page.pid == self._trainer.pid)):
            page.close()
        elif page is not None:
            self._let_go_of_trainer()
            self._trainer, self._stretches = page, 0

    def _let_go_of_trainer(self) -> None:
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None

    def _view_trainer(self, now_ns: int) -> TrainerView | None:
        page = self._trainer
        if page is None or not page.alive(now_ns):
            self._let_go_of_trainer()
            return None
        stretches_s, self._stretches = page.stretches_since(self._stretches)
        counts = page.busy_ns, page.slices, page.steps
        return TrainerView(page.notice, *counts, tuple(stretches_s), page.jobs, page.faults)

    def _view(self, entry: _Open, now_ns: int) -> InstanceView | None:
        page = entry.page
        entry.info = info = entry.info or page.info
        if info is None or not info.served:
            return None
        samples, entry.cursor, lost = page.samples_since(entry.cursor)
        busy_ns, requests = page.counter(Counter.BUSY_NS), page.counter(Counter.REQUESTS)
        gate = page.in_flight, page.oldest_arrival_ns
        silent_s = page.age_ns(now_ns) / 1e9
        return InstanceView(info, tuple(samples), lost, *gate, busy_ns, requests, page.applied, silent_s)

    def _read_board(self, now_ns: int) -> BoardReading | None:
        if self._board is not None and not self._board.alive(now_ns):
            self._board.close()
            self._board = None
        return self._board.read() if self._board is not None else None


def waited_s(now_ns: int, in_flight: int, oldest_arrival_ns: int) -> float:
    """How long the oldest request in flight has waited, in seconds; 0 if there is none."""
    return (now_ns - oldest_arrival_ns) / 1e9 if in_flight and oldest_arrival_ns else 0.0
