# SPDX-License-Identifier: Apache-2.0
"""The ledger: what the clocks were before we touched them, on disk before the first write to any of them.

One file with one record, put there whole and taken away when everything is as it was: a ledger that exists asks to be
restored from. clockd does so when a lease ends and when it starts, `teg restore` when clockd has died. All call
`ClockLedger.restore`, which may run any number of times and be killed at any instant.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from boards.errors import BoardError, NoBoard
from telemetry.durable import decode, encode, quarantine, replace, sync_folder

log = logging.getLogger("teg.clockd")

FORMAT = 1
_LONGEST_BYTES = 65_536
_NOT_FOLLOWED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Restorable(Protocol):
    """A board whose knobs can be put back."""

    def read_knobs(self) -> dict[str, int]:
        """The value of every knob file, by name; those of a part that has gone are missing."""
        ...

    def restore(self, originals: dict[str, int], keep: frozenset[str] = frozenset()) -> None:
        """Put the knobs back, missing ones to the board's own range; raises `BoardError` if one does not follow."""
        ...


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a sound ledger holds: for which boot and board (as `open_board` knows it), and the knobs."""

    boot: str
    board: str
    originals: dict[str, int]


class ClockLedger:
    """Originals of one boot in one file. A reboot resets the clocks, so another boot's originals are void."""

    def __init__(self, path: Path, boot_id: str, board: str = "auto") -> None:
        self.path = path
        self._boot_id = boot_id
        self.board = board

    def remember(self, originals: dict[str, int]) -> None:
        """Make the originals durable; does nothing while earlier ones have not been restored. Raises `OSError`."""
        if not self.pending():
            record = {"format": FORMAT, "boot": self._boot_id, "board": self.board, "originals": originals}
            replace(self.path, encode(record))

    def pending(self) -> bool:
        """Whether something waits to be restored."""
        return os.path.lexists(self.path)

    def read(self) -> Remembered | None:
        """What the file holds; None if that is damaged, of another format, or cannot be read: then nothing is known."""
        try:
            record = decode(_read(self.path).rstrip(b"\n")) or {}
        except OSError as error:
            log.warning("ledger not readable: %s", error)
            return None
        boot, board, originals = record.get("boot"), record.get("board"), record.get("originals")
        if record.get("format") != FORMAT or not isinstance(boot, str) or not isinstance(board, str):
            return None
        if not isinstance(originals, dict):
            return None
        # A value that is no number is as good as missing: its knob gets the board's own range.
        return Remembered(boot, board, {knob: value for knob, value in originals.items() if type(value) is int})

    def restore(self, board: Restorable | None, keep: frozenset[str] = frozenset()) -> bool:
        """Put back what is remembered, all but `keep`, then forget it; False if there was nothing to do.

        Where the ledger is damaged the board's own range takes its place, and it is set aside, never deleted. Raises
        `BoardError` if a knob does not follow, or the board is not the ledger's: the ledger stays for a later try.
        """
        if not self.pending():
            return False
        remembered = self.read()
        # Where either boot is not known (a tree of plain files) it may be this one.
        boots = {remembered.boot, self._boot_id} - {""} if remembered else ()
        void = len(boots) > 1
        if not void:
            if board is None or (remembered and remembered.board != self.board):
                raise NoBoard(f"clocks of board {remembered.board if remembered else 'unknown'} wait to be restored")
            board.restore(remembered.originals if remembered else {}, keep | self.settled(board))
        if remembered is None:
            log.warning("ledger damaged: the board's own range restored, the ledger kept as %s", quarantine(self.path))
        else:
            self.path.unlink()
            sync_folder(self.path.parent)
        return not void

    def settled(self, board: Restorable) -> frozenset[str]:
        """Knob files that read as remembered; they are not written again: one that refuses may never have moved."""
        remembered = self.read() if self.pending() else None
        originals = remembered.originals if remembered else {}
        try:
            now = board.read_knobs()
        except BoardError as error:
            log.warning("knobs not read: %s", error)
            return frozenset()
        return frozenset(name for name, value in originals.items() if now.get(name) == value)

    def damaged(self) -> int:
        """How many damaged ledgers were set aside."""
        return sum(1 for _ in self.path.parent.glob(f"{self.path.name}.corrupt-*"))

    def lock(self) -> bool:
        """Whether the ledger is ours now, until this process ends: clockd's while it runs, a restorer's while it works.

        So nobody restores, and forgets, under the feet of a clockd that has just granted a lease. Only who may write
        the ledger may hold the lock.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path.with_suffix(".lock"), flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        return True


def _read(path: Path) -> bytes:
    """The file's beginning; nothing of what is no file. Never follows a link, never waits."""
    descriptor = os.open(path, _NOT_FOLLOWED)
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, _LONGEST_BYTES) if regular else b""
    finally:
        os.close(descriptor)


def boot_id(root: Path) -> str:
    """The kernel's id of this boot, empty where it has none."""
    path = root / "proc/sys/kernel/random/boot_id"
    return path.read_text().strip() if path.exists() else ""
