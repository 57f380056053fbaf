# SPDX-License-Identifier: Apache-2.0
"""The ledger: what the clocks were before we touched them, on disk before the first write to any of them.

Whoever finds a ledger that is not empty restores from it: clockd when a lease ends and when it starts, `teg restore`.
All call `ClockLedger.restore`, which may run any number of times.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from telemetry.durable import AppendLog, decode, quarantine, replace

log = logging.getLogger("teg.clockd")


class Restorable(Protocol):
    """A board whose knobs can be put back."""

    def restore(self, originals: dict[str, int]) -> None:
        """Put the knobs back; missing ones get the board's own range. Raises `BoardError` if one does not follow."""
        ...


class ClockLedger:
    """Originals of one boot in one file. A reboot resets the clocks, so another boot's originals are void."""

    def __init__(self, path: Path, boot_id: str) -> None:
        self.path = path
        self._boot_id = boot_id

    def remember(self, originals: dict[str, int]) -> None:
        """Make the originals durable; does nothing while earlier ones have not been restored. Raises `OSError`."""
        if self.pending():
            return
        log_file = AppendLog(self.path)
        try:
            log_file.append({"boot": self._boot_id, "originals": originals})
        finally:
            log_file.close()

    def pending(self) -> bool:
        """Whether something waits to be restored."""
        return self.path.exists() and self.path.stat().st_size > 0

    def restore(self, board: Restorable) -> bool:
        """Put back what is remembered, then forget it; False if there was nothing to do.

        A record that is damaged is set aside, never deleted; the board's own range then takes its place. Raises
        `BoardError` if a knob does not follow: the ledger stays, so that a later try finds it.
        """
        if not self.pending():
            return False
        records = [decode(line) for line in self.path.read_bytes().splitlines() if line]
        sound = [record for record in records if record is not None]
        mine = [record for record in sound if record.get("boot") == self._boot_id]
        damaged = len(sound) < len(records)
        if mine or damaged:
            originals = mine[0].get("originals", {}) if mine else {}
            board.restore({str(knob): value for knob, value in originals.items() if type(value) is int})
        if damaged:
            log.warning("ledger damaged; set aside as %s", quarantine(self.path))
        replace(self.path, b"")
        return bool(mine or damaged)


def boot_id(root: Path) -> str:
    """The kernel's id of this boot, empty where it has none."""
    path = root / "proc/sys/kernel/random/boot_id"
    return path.read_text().strip() if path.exists() else ""
