# SPDX-License-Identifier: Apache-2.0
"""The GPU's clock: a devfreq device under /sys/class/devfreq (Linux drivers/devfreq/devfreq.c, nvgpu scale.c)."""

from __future__ import annotations

from .errors import NodeError
from .tree import Tree, read_int


class Gpu:
    """The devfreq device of the GPU. Frequencies in Hz, as the kernel counts them here."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self._tree = tree
        self.folder = folder

    @classmethod
    def find(cls, tree: Tree, of_names: frozenset[str]) -> Gpu | None:
        """The devfreq device whose device-tree node bears one of these names; None early in boot, before power-up."""
        for path in tree.glob("/sys/class/devfreq/*/device/of_node/name"):
            if tree.read(path) in of_names:
                return cls(tree, path.removesuffix("/device/of_node/name"))
        return None

    def frequencies(self) -> tuple[int, ...]:
        """The steps of the table, ascending."""
        return tuple(sorted(int(word) for word in self._tree.read(f"{self.folder}/available_frequencies").split()))

    def limits(self) -> tuple[int, int]:
        """Lower and upper limit as they read back: the range in force, other users' limits included."""
        return read_int(self._tree, f"{self.folder}/min_freq"), read_int(self._tree, f"{self.folder}/max_freq")

    def observe(self) -> tuple[int, int]:
        """Lower and upper limit, corrected by the clock itself: one outside its limits gives the lie to the nearer."""
        lowest, highest = self.limits()
        try:
            current = read_int(self._tree, f"{self.folder}/cur_freq")
        except NodeError:
            return lowest, highest
        if current > highest:
            return lowest, current
        # 0 is a GPU without power, which keeps its limits.
        if 0 < current < lowest:
            return current, max(current, min(highest, current))
        return lowest, highest

    def request(self, lowest_hz: int, highest_hz: int) -> None:
        """Ask for a range.

        Growing upwards the upper limit goes first, else the lower: 4.9 kernels refuse an inverted range with EINVAL,
        and later ones let the upper limit win.
        """
        _, current_highest = self.limits()
        order = ("max_freq", "min_freq") if highest_hz >= current_highest else ("min_freq", "max_freq")
        values = {"min_freq": lowest_hz, "max_freq": highest_hz}
        for name in order:
            self._tree.write(f"{self.folder}/{name}", str(values[name]))
