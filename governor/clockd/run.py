# SPDX-License-Identifier: Apache-2.0
"""Put clockd together and run it; what `teg clockd` and `teg restore` call."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from boards.discover import open_board
from boards.errors import BoardError, NoBoard
from boards.jetson import JetsonBoard
from boards.physics import Workload
from boards.virtual import VirtualBoard
from telemetry.board_page import BoardPage
from telemetry.rundir import RunDir

from .ledger import ClockLedger, boot_id
from .peers import SocketTaken, in_use, listen
from .server import Server
from .service import Clockd
from .virtual_load import VirtualLoad

log = logging.getLogger("teg.clockd")

DONE, REFUSED, NOT_RESTORED = 0, 3, 4


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

    def ledger(self) -> ClockLedger:
        """The ledger of this board; a virtual board boots anew with every process."""
        virtual = self.board.startswith("virtual:")
        boot = f"virtual-{os.getpid()}-{time.monotonic_ns()}" if virtual else boot_id(self.root)
        return ClockLedger((self.state_dir or self.run_dir.root) / "clocks.ledger", boot)

    def open(self) -> JetsonBoard:
        """The board; raises `NoBoard` where there is none."""
        return open_board(self.board, self.root, workloads=self.workloads)


def serve(settings: Settings) -> int:
    """Run clockd until it is told to stop; returns 0, 3 (another one runs) or 4 (clocks not restored)."""
    settings.run_dir.make()
    if settings.state_dir is not None:
        settings.state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        listener = listen(settings.run_dir.socket)
    except SocketTaken as error:
        log.warning("%s", error)
        return REFUSED
    try:
        board: JetsonBoard | None = settings.open()
        why = ""
    except NoBoard as error:
        board, why = None, str(error)
        log.warning("observe-only: %s", error)
    load = VirtualLoad(board, settings.run_dir) if isinstance(board, VirtualBoard) else None
    page = BoardPage.create(settings.run_dir.board_page)
    clockd = Clockd(board, page, settings.ledger(), time.monotonic, load, why)
    clockd.recover()
    try:
        Server(clockd, listener, 1 / settings.rate_hz, time.monotonic).run()
    finally:
        restored = clockd.close()
        listener.close()
        settings.run_dir.socket.unlink(missing_ok=True)
    return DONE if restored else NOT_RESTORED


def restore(settings: Settings) -> int:
    """Put back what a clockd that died left behind; returns 0, 3 (a live clockd will do it) or 4 (not restored)."""
    ledger = settings.ledger()
    if in_use(settings.run_dir.socket):
        log.warning("clockd runs: it restores the clocks itself")
        return REFUSED
    if not ledger.pending():
        return DONE
    try:
        ledger.restore(settings.open())
    except (BoardError, OSError) as error:
        log.warning("clocks not restored: %s", error)
        return NOT_RESTORED
    return DONE
