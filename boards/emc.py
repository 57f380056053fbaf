# SPDX-License-Identifier: Apache-2.0
"""The memory controller's clock (EMC): locked through the BPMP firmware's debugfs, which only root sees.

The firmware may report success for a write that it refused (mainline bpmp-debugfs.c), and rounds up without a word.
"""

from __future__ import annotations

import re

from .errors import NodeError
from .layout import Layout
from .tree import Tree, read_int

_TABLES = ("dvfs_table", "dvfs")
"""On Orin and on Thor; TX2 and Xavier list none."""
_TOP_HZ = 2**63 - 1


class Emc:
    """The EMC clock in BPMP debugfs. Frequencies in Hz."""

    def __init__(self, tree: Tree, layout: Layout) -> None:
        self._tree = tree
        self._layout = layout
        folder = layout.emc_folder
        self.rate_path = f"{folder}/rate"
        flags = {"emc.mrq_rate_locked": f"{folder}/mrq_rate_locked", "emc.state": f"{folder}/state"}
        if layout.bwmgr_halt:
            flags["emc.bwmgr_halt"] = layout.bwmgr_halt
        self.flags = {name: path for name, path in flags.items() if tree.exists(path)}
        """Knob name -> file of every switch that belongs to a lock."""
        self.proven = layout.emc_lockable_hz is not None
        """Whether all rates are known to hold."""
        lowest, self.top_hz = (read_int(tree, f"{folder}/{name}") for name in ("min_rate", "max_rate"))
        self._rates = tuple(rate for rate in self._candidates() if lowest <= rate <= self.top_hz)
        self._cap_hz = _TOP_HZ

    @classmethod
    def find(cls, tree: Tree, layout: Layout) -> Emc | None:
        """The EMC clock; None where debugfs is absent or hidden from this user."""
        if not tree.exists(f"{layout.emc_folder}/mrq_rate_locked"):
            return None
        emc = cls(tree, layout)
        emc.rescan()
        return emc

    def rescan(self) -> None:
        """Read the power mode's cap. Neither file says what was not granted; that shows when the rate is read back."""
        self._cap_hz = _TOP_HZ
        for path in (self._layout.emc_cap, self._layout.emc_iso_cap):
            try:
                cap_hz = read_int(self._tree, path)
            except NodeError:
                # Each JetPack has one of the two.
                continue
            if cap_hz > 0:
                self._cap_hz = min(self._cap_hz, cap_hz)

    def frequencies(self) -> tuple[int, ...]:
        """Every rate that can be locked, or tried where none is proven, ascending."""
        return self._rates

    def offered(self) -> tuple[int, ...]:
        """Those under the power mode's cap."""
        return tuple(rate for rate in self._rates if rate <= self._cap_hz)

    def observe(self) -> int:
        """The rate now."""
        return read_int(self._tree, self.rate_path)

    def knobs(self) -> dict[str, int]:
        """The knob files and what they read; an unlocked rate is the firmware's own affair and not among them."""
        values = {name: read_int(self._tree, path) for name, path in self.flags.items()}
        return values | {"emc.rate": self.observe()} if values["emc.mrq_rate_locked"] == 1 else values

    def knob_paths(self) -> list[str]:
        """The files that `knobs` reads."""
        locked = read_int(self._tree, self.flags["emc.mrq_rate_locked"]) == 1
        return [*self.flags.values(), *([self.rate_path] if locked else [])]

    def request(self, rate_hz: int) -> None:
        """Lock the memory controller at a rate: the lock first, for an unlocked rate belongs to the firmware."""
        for path in self.flags.values():
            self._tree.write(path, "1")
        self._tree.write(self.rate_path, str(rate_hz))

    def restore(self, values: dict[str, int]) -> None:
        """Put knob files back: the rate while it is still locked, then the flags."""
        rate_hz = values.get("emc.rate")
        if rate_hz is not None and read_int(self._tree, self.flags["emc.mrq_rate_locked"]):
            self._tree.write(self.rate_path, str(rate_hz))
        for name, path in self.flags.items():
            if name in values:
                self._tree.write(path, str(values[name]))

    def _candidates(self) -> tuple[int, ...]:
        """Proven rates, else whatever the table file lists, else those that boards of this kind are known to list."""
        if self._layout.emc_lockable_hz is not None:
            return self._layout.emc_lockable_hz
        for name in _TABLES:
            try:
                numbers = re.findall(r"\d+", self._tree.read(f"{self._layout.emc_folder}/{name}"))
            except NodeError:
                continue
            # Beside the rates stand row numbers and voltages, which are far below the lowest rate.
            if rates := {int(number) for number in numbers if int(number) >= 10_000_000}:
                return tuple(sorted(rates))
        return self._layout.emc_known_hz
