# SPDX-License-Identifier: Apache-2.0
"""What a virtual board needs from clockd: its load, read from everybody's pages, and its stretch, written to them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from boards.clocks import ClockPoint
from boards.physics import Workload
from boards.virtual import Load
from boards.virtual_faults import Faults, read_faults
from telemetry.errors import PageError
from telemetry.instance_page import STRETCH_BATCHES, Counter, InstancePage
from telemetry.rundir import RunDir
from telemetry.trainer_page import TrainerPage

log = logging.getLogger("teg.clockd")

RESCAN_S = 0.5
TRAINER_DEFAULT = "resnet"
"""A job trains what is served, so it is charged as the first live instance's workload; with none served, as this."""
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

    def slowdowns(self, workload: str, batches: Iterable[float]) -> tuple[float, ...]:
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
        self._trainer: tuple[int, TrainerPage, int] | None = None
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
        trained_s = self._trained_s()
        if trained_s > 0:
            workload = next((entry.workload for entry in known if entry.page.alive()), TRAINER_DEFAULT)
            training = bool(self.board.workloads[workload].training)
            loads.append(Load(workload, trained_s, TRAINING_BATCH, training=training))
        self.board.run(loads, dt_s)
        point = self.board.kernel.point()
        for entry in known:
            if entry.stretched_for != point:
                entry.page.write_stretch(self.board.slowdowns(entry.workload, STRETCH_BATCHES))
                entry.stretched_for = point

    def close(self) -> None:
        """Let every instance run at its own speed again, and unmap its page."""
        for entry in self._instances.values():
            entry.page.write_stretch((1.0,) * len(STRETCH_BATCHES))
            entry.page.close()
        self._instances.clear()
        if self._trainer:
            self._trainer[1].close()
            self._trainer = None

    def _name(self, entry: InstanceLoad) -> bool:
        """Learn an entry's workload from its page, once; whether the board knows it."""
        if not entry.workload and (info := entry.page.info) is not None:
            entry.workload = info.virtual_workload
            if entry.workload not in self.board.workloads:
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
        for key in present - self._instances.keys():
            try:
                self._instances[key] = InstanceLoad(InstancePage.open(key[0], writable=True))
            except PageError as error:
                log.info("not a page of ours: %s", error)
        self._rescan_trainer()

    def _rescan_trainer(self) -> None:
        key = _key(self._trainer_path)
        if self._trainer and (key is None or key[1] != self._trainer[0]):
            self._trainer[1].close()
            self._trainer = None
        if key and self._trainer is None:
            try:
                page = TrainerPage.open(key[0])
            except PageError as error:
                log.info("not a trainer page of ours: %s", error)
            else:
                self._trainer = (key[1], page, page.busy_ns)

    def _trained_s(self) -> float:
        if self._trainer is None:
            return 0.0
        inode, page, charged_ns = self._trainer
        busy_ns = page.busy_ns
        self._trainer = (inode, page, busy_ns)
        return max(0, busy_ns - charged_ns) / 1e9


def _key(path: Path) -> tuple[Path, int] | None:
    """A page file's identity: a new owner puts a new file at the same path."""
    try:
        return path, path.stat().st_ino
    except FileNotFoundError:
        return None
