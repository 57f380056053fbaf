# SPDX-License-Identifier: Apache-2.0
"""Put clockd together and run it; what `teg clockd` and `teg restore` call."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from boards.clocks import Board
from boards.discover import open_board
from boards.errors import NoBoard
from telemetry.board_page import BoardPage
from telemetry.rundir import RunDir

from .notify import Notifier
from .peers import SocketTaken, listen
from .recovery import DONE, NOT_RESTORED, REFUSED, USAGE, ledger_of
from .server import Server
from .service import Clockd

if TYPE_CHECKING:
    from boards.physics import Workload

    from .virtual_load import VirtualLoad

log = logging.getLogger("teg.clockd")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run: which board, where its files begin, where pages, socket and ledger lie, how often to sample."""

    board: str = "auto"
    root: Path = Path("/")
    run_dir: RunDir = RunDir(Path("/run/teg"))  # noqa: RUF009 - frozen
    state_dir: Path | None = None
    """Folder of the ledger; the run directory if not given: both are emptied by a reboot, as the clocks are."""
    rate_hz: float = 20.0
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    faults: Path | None = None
    """What goes wrong on a virtual board; read again whenever it changes."""
    power_limit_w: float | None = None
    """Power limit of an NVML board, in force while a lease is."""


def serve(settings: Settings) -> int:
    """Run clockd until it is told to stop; returns 0, 2 (no such board), 3 (another one runs) or 4 (not restored)."""
    folder = settings.state_dir or settings.run_dir.root
    try:
        settings.run_dir.make()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ledger = ledger_of(settings.board, settings.root, folder)
        if not ledger.lock():
            log.warning("%s: another clockd, or a restorer, is at work", folder)
            return REFUSED
        board, why = _open(settings)
        listener = listen(settings.run_dir.socket)
        page = BoardPage.create(settings.run_dir.board_page)
    except (SocketTaken, OSError) as error:
        log.warning("%s", error)
        return REFUSED
    except ValueError as error:
        log.warning("%s", error)
        return USAGE
    notifier = Notifier(time.monotonic)
    load, begin = _load(settings, board), _power_limit(settings, board)
    clockd = Clockd(board, page, ledger, time.monotonic, load, why, notifier, begin)
    clockd.recover()
    # What lives now lives to the end: the collector need not look at it twenty times a second.
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)
    notifier.ready()
    try:
        group = settings.run_dir.socket.stat().st_gid
        Server(clockd, listener, group, 1 / settings.rate_hz, time.monotonic).run()
    finally:
        notifier.stopping()
        restored = clockd.close()
        listener.close()
        settings.run_dir.socket.unlink(missing_ok=True)
    return DONE if restored else NOT_RESTORED


def _open(settings: Settings) -> tuple[Board | None, str]:
    """The board, or None and why there is none; raises `ValueError` for one that nobody knows."""
    try:
        return open_board(settings.board, settings.root, workloads=settings.workloads), ""
    except NoBoard as error:
        log.warning("observe-only: %s", error)
        return None, str(error)


def _load(settings: Settings, board: Board | None) -> VirtualLoad | None:
    """What drives a virtual board; a real one needs nothing of the kind, nor the memory of its code."""
    if board is None or not board.virtual:
        return None
    from .virtual_load import FaultFile, LoadedBoard, VirtualLoad

    driven: object = board
    if not isinstance(driven, LoadedBoard):
        return None
    faults = FaultFile(settings.faults, driven) if settings.faults else None
    return VirtualLoad(driven, settings.run_dir, faults)


@runtime_checkable
class Limited(Protocol):
    """A board with a power limit."""

    def request_power_limit(self, watts: float) -> float:
        """Ask for a limit; what holds, in watts."""
        ...


def _power_limit(settings: Settings, board: object) -> Callable[[], object] | None:
    """What asks for the power limit of the settings, if there is one to ask for."""
    if settings.power_limit_w is None or not isinstance(board, Limited):
        return None
    return partial(board.request_power_limit, settings.power_limit_w)
