# SPDX-License-Identifier: Apache-2.0
"""What `teg restore` does: put back what a clockd that died left behind, with nothing but the ledger and the board."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from boards.discover import open_board
from boards.errors import BoardError

from .ledger import ClockLedger, boot_id
from .peers import in_use

log = logging.getLogger("teg.clockd")

DONE, USAGE, REFUSED, NOT_RESTORED = 0, 2, 3, 4


def ledger_of(board: str, root: Path, folder: Path) -> ClockLedger:
    """The ledger of a board in a folder; a virtual board boots anew with every process."""
    virtual = board.startswith("virtual:")
    boot = f"virtual-{os.getpid()}-{time.monotonic_ns()}" if virtual else boot_id(root)
    return ClockLedger(folder / "clocks.ledger", boot, board)


def restore(board: str | None, root: Path, socket: Path, folder: Path, *, to_board_range: bool = False) -> int:
    """Returns 0, 2 (no such board), 3 (a live clockd will do it) or 4 (not restored).

    Without `board` it is the one that the ledger names. Without a ledger there is nothing to do, unless
    `to_board_range` asks for the whole range of every knob.
    """
    ledger = ledger_of(board or "auto", root, folder)
    try:
        if in_use(socket) or (folder.is_dir() and not ledger.lock()):
            log.warning("clockd runs: it restores the clocks itself")
            return REFUSED
        if not ledger.pending() and not to_board_range:
            return DONE
        remembered = ledger.read() if ledger.pending() else None
        if board is None and remembered is not None:
            ledger = ledger_of(remembered.board, root, folder)
        opened = open_board(ledger.board, root)
        if not ledger.restore(opened) and to_board_range:
            opened.restore({})
    except ValueError as error:
        log.warning("%s", error)
        return USAGE
    except (BoardError, OSError) as error:
        log.warning("clocks not restored: %s", error)
        return NOT_RESTORED
    return DONE
