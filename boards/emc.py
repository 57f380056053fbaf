# SPDX-License-Identifier: Apache-2.0
"""The memory controller's clock (EMC): locked through the BPMP firmware's debugfs, which only root sees.

The firmware may report success for a write that it refused (mainline bpmp-debugfs.c), and rounds up without a word.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import NodeError
from .tree import Tree, read_int


@dataclass(frozen=True, slots=True)
class EmcState:
    """What must be put back to undo a lock."""

    rate_hz: int
    locked: int
    enabled: int
    """The file `state`: whether the clock has a vote of ours."""


class Emc:
    """The EMC clock in BPMP debugfs. Frequencies in Hz."""

    def __init__(self, tree: Tree, folder: str, lockable_hz: tuple[int, ...], cap: str) -> None:
        self._tree = tree
        self.folder = folder
        self._lockable_hz = lockable_hz
        self._cap = cap

    @classmethod
    def find(cls, tree: Tree, folder: str, lockable_hz: tuple[int, ...], cap: str) -> Emc | None:
        """The EMC clock; None where debugfs is absent or hidden from this user."""
        return cls(tree, folder, lockable_hz, cap) if tree.exists(f"{folder}/mrq_rate_locked") else None

    def frequencies(self) -> tuple[int, ...]:
        """Rates that can be locked under the cap in force, ascending."""
        lowest, highest = self._read("min_rate"), self._read("max_rate")
        try:
            highest = min(highest, read_int(self._tree, self._cap))
        except NodeError:
            # JetPack 5 keeps its cap elsewhere; what was not granted shows when the rate is read back.
            highest = self._read("max_rate")
        return tuple(rate for rate in self._lockable_hz if lowest <= rate <= highest)

    def observe(self) -> int:
        """The rate now."""
        return self._read("rate")

    def request(self, rate_hz: int) -> None:
        """Lock the memory controller at a rate: the lock first, for an unlocked rate belongs to the firmware."""
        for name, value in (("mrq_rate_locked", 1), ("state", 1), ("rate", rate_hz)):
            self._write(name, value)

    def state(self) -> EmcState:
        """What must be put back to undo a lock."""
        return EmcState(self._read("rate"), self._read("mrq_rate_locked"), self._read("state"))

    def restore(self, state: EmcState) -> None:
        """Put a state back: the rate while it is still locked, then the flags."""
        if self._read("mrq_rate_locked"):
            self._write("rate", state.rate_hz)
        self._write("mrq_rate_locked", state.locked)
        self._write("state", state.enabled)

    def _read(self, name: str) -> int:
        return read_int(self._tree, f"{self.folder}/{name}")

    def _write(self, name: str, value: int) -> None:
        self._tree.write(f"{self.folder}/{name}", str(value))
