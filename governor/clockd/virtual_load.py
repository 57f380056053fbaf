# SPDX-License-Identifier: Apache-2.0
"""What a virtual board needs from clockd: its load, read from everybody's pages, and its stretch, written to them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from boards.clocks import ClockPoint
from boards.physics import Workload
from boards.virtual import Load
from boards.virtual_faults import Faults, read_faults
from telemetry.errors import PageError
from telemetry.instance_page import BOOKS, STRETCH_BATCHES, Counter, InstancePage
from telemetry.rundir import RunDir
from telemetry.trainer_page import TrainerPage

log = logging.getLogger("teg.clockd")

RESCAN_S = 0.5
TRAINER_DEFAULT = "resnet"
"""A job is charged as the workload of the model that it trains, else as the first live instance's, else as this."""
TRAINING_BATCH = 16.0
"""The batch size at which training was measured."""


@runtime_checkable
class LoadedBoard(Protocol):
    """A board whose load somebody else really runs; `boards.virtual` and `boards.virtual_nvml` have one."""

    workloads: dict[str, Workload]
    faults: Faults

    @property
    def physics(self) -> str:
        """`measured` or `assumed`."""
        ...

    @property
    def kernel(self) -> Silicon:
        """What knows the clocks that it runs at."""
        ...

    @property
    def backlog_s(self) -> float:
        """Busy time that was reported but has not been charged yet."""
        ...

    def run(self, loads: Iterable[Load], dt_s: float) -> object:
        """Let `dt_s` seconds pass under the loads; raises `KeyError` for a workload it does not know."""
        ...

    def slowdowns(self, workload: str, batches: Iterable[float], *, training: bool = False) -> tuple[float, ...]:
        """Slow-down against maximum clocks for each batch size, at the clocks it runs at now."""
        ...


class Silicon(Protocol):
    """What knows the clocks that a virtual board runs at."""

    def point(self) -> ClockPoint:
        """Those clocks."""
        ...


class InstanceLoad:
    """One instance page: what of its busy time was charged, and whether it was told its stretch."""

    def __init__(self, page: InstancePage) -> None:
        self.page = page
        self.workload = ""
        self.stretched_for: ClockPoint | None = None
        self._charged_ns = (page.counter(Counter.BUSY_NS), page.counter(Counter.BUSY_BATCH_NS))

    def take(self) -> Load | None:
        """Busy time since the last call, None if there was none."""
        busy_ns, batch_ns = self.page.counter(Counter.BUSY_NS), self.page.counter(Counter.BUSY_BATCH_NS)
        since_ns, batch_since_ns = busy_ns - self._charged_ns[0], batch_ns - self._charged_ns[1]
        self._charged_ns = (busy_ns, batch_ns)
        if since_ns <= 0:
            return None
        return Load(self.workload, since_ns / 1e9, max(1.0, batch_since_ns / since_ns))


class TrainerLoad:
    """The trainer's page: what of its busy time was charged, and the slow-down that it was told."""

    def __init__(self, page: TrainerPage, inode: int) -> None:
        self.page = page
        self.inode = inode
        self._charged_ns = page.busy_ns
        self._slowed_for: tuple[str, ClockPoint] | None = None

    def take(self, workload: str, board: LoadedBoard) -> Load | None:
        """Busy time since the last call as training of this workload, None if there was none."""
        since_ns, self._charged_ns = self.page.busy_ns - self._charged_ns, self.page.busy_ns
        training = bool(board.workloads[workload].training)
        return Load(workload, since_ns / 1e9, TRAINING_BATCH, training=training) if since_ns > 0 else None

    def slow_down(self, workload: str, board: LoadedBoard) -> None:
        """Tell the page how much slower training is at the clocks that the board runs at now."""
        if self._slowed_for != (now := (workload, board.kernel.point())):
            self._slowed_for = now
            training = bool(board.workloads[workload].training)
            self.page.write_slowdown(board.slowdowns(workload, (TRAINING_BATCH,), training=training)[0])


class FaultFile:
    """Switches a virtual board's faults to what a file says, whenever that changes; no file, no faults."""

    def __init__(self, path: Path, board: LoadedBoard) -> None:
        self._path = path
        self._board = board
        self._seen: tuple[int, ...] = ()

    def look(self) -> None:
        """Read the file if it is another one by now; one that makes no sense changes nothing."""
        seen: tuple[int, ...] = ()
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        except FileNotFoundError:
            log.debug("no faults: %s is not there", self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._board.faults = read_faults(self._path) if seen else Faults()
        except (OSError, ValueError) as error:
            log.warning("faults unchanged: %s", error)


class VirtualLoad:
    """Feeds a virtual board from the pages of one run directory, and its faults from a file."""

    def __init__(self, board: LoadedBoard, run_dir: RunDir, faults: FaultFile | None = None) -> None:
        self.board = board
        self._faults = faults
        self._folder = run_dir.instances
        self._trainer_path = run_dir.trainer_page
        self._instances: dict[tuple[Path, int], InstanceLoad] = {}
        self._trainer: TrainerLoad | None = None
        self._scanned_s = float("-inf")
        self._folder_ns = 0
        self.unknown_workloads: dict[str, str] = {}
        """Instances whose workload has no surface, and its name: neither charged nor slowed down."""

    def tick(self, now_s: float, dt_s: float) -> None:
        """Let `dt_s` pass on the board under the load that the pages report, and tell the pages their stretch."""
        if self._faults:
            self._faults.look()
        self._rescan(now_s)
        known = [entry for entry in self._instances.values() if self._name(entry)]
        loads = [load for entry in known if (load := entry.take())]
        trained = self._trained(known)
        if self._trainer and (load := self._trainer.take(trained, self.board)):
            loads.append(load)
        self.board.run(loads, dt_s)
        point = self.board.kernel.point()
        for entry in known:
            if entry.stretched_for != point:
                entry.page.write_stretch(self.board.slowdowns(entry.workload, STRETCH_BATCHES))
                entry.stretched_for = point
        if self._trainer:
            self._trainer.slow_down(trained, self.board)

    def close(self) -> None:
        """Let every instance run at its own speed again, and unmap its page."""
        for entry in self._instances.values():
            entry.page.write_stretch((1.0,) * len(STRETCH_BATCHES))
            entry.page.close()
        self._instances.clear()
        if self._trainer:
            self._trainer.page.write_slowdown(0.0)
        self._let_go_of_trainer()

    def _trained(self, known: Sequence[InstanceLoad]) -> str:
        """The workload that training is charged as."""
        live = [entry for entry in known if entry.page.alive()]
        model = self._trainer.page.notice.model if self._trainer else ""
        named = (entry.workload for entry in live if (info := entry.page.info) is not None and info.model == model)
        return next(named, live[0].workload if live else TRAINER_DEFAULT)

    def _name(self, entry: InstanceLoad) -> bool:
        """Learn an entry's workload from its page, once; whether the board knows it."""
        if not entry.workload and (info := entry.page.info) is not None:
            entry.workload = info.virtual_workload
            if entry.workload not in (*self.board.workloads, BOOKS):
                self.unknown_workloads[info.instance] = entry.workload
                log.warning(
                    "instance %s: no surface for virtual_workload %r; it is neither slowed down nor charged",
                    info.instance,
                    entry.workload,
                )
        return entry.workload in self.board.workloads

    def _rescan(self, now_s: float) -> None:
        """Open pages that are new and drop those that went: at once when the folder changed, else now and then."""
        folder_ns = self._folder.stat().st_mtime_ns
        if folder_ns == self._folder_ns and now_s - self._scanned_s < RESCAN_S:
            return
        self._folder_ns, self._scanned_s = folder_ns, now_s
        present = {key for path in self._folder.glob("*.page") if (key := _key(path))}
        for key in self._instances.keys() - present:
            self._instances.pop(key).page.close()
        for key in sorted(present - self._instances.keys()):
            try:
                self._instances[key] = InstanceLoad(InstancePage.open(key[0], writable=True))
            except PageError as error:
                log.info("not a page of ours: %s", error)
        self._rescan_trainer()

    def _rescan_trainer(self) -> None:
        key = _key(self._trainer_path)
        if self._trainer and (key is None or key[1] != self._trainer.inode):
            self._let_go_of_trainer()
        if key and self._trainer is None:
            try:
                self._trainer = TrainerLoad(TrainerPage.open(key[0], writable=True), key[1])
            except PageError as error:
                log.info("not a trainer page of ours: %s", error)

    def _let_go_of_trainer(self) -> None:
        if self._trainer:
            self._trainer.page.close()
            self._trainer = None


def _key(path: Path) -> tuple[Path, int] | None:
    """A page file's identity: a new owner puts a new file at the same path."""
    try:
        return path, path.stat().st_ino
    except FileNotFoundError:
        return None
