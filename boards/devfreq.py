# SPDX-License-Identifier: Apache-2.0
"""The GPU's clock: a devfreq device under /sys/class/devfreq (Linux drivers/devfreq/devfreq.c, nvgpu scale.c)."""

from __future__ import annotations

from bisect import bisect_left

from .errors import NodeError, SensorUnavailable
from .layout import Layout
from .limits import Limits
from .tree import Tree, read_int, read_ints

_CLASS = "/sys/class/devfreq"


class Gpu:
    """The devfreq device of the GPU. Frequencies in Hz, as the kernel counts them here."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self._tree = tree
        self.folder = folder
        self.range = Limits(tree, f"{folder}/min_freq", f"{folder}/max_freq")
        self._steps: tuple[int, ...] = ()
        self._clock_path = f"{folder}/cur_freq"
        self._clocked = True

    @classmethod
    def find(cls, tree: Tree, layout: Layout) -> Gpu | None:
        """The devfreq device of the GPU; None early in boot, before its first power-up registers it."""
        folder = _folder(tree, layout)
        if folder is None:
            return None
        gpu = cls(tree, folder)
        gpu.rescan()
        return gpu

    def rescan(self) -> None:
        """Read the table, and the limits as they stand at rest."""
        path = f"{self.folder}/available_frequencies"
        steps = tuple(sorted(read_ints(self._tree, path)))
        if not steps:
            raise SensorUnavailable(path, "lists no frequencies")
        self._steps = steps
        self._clocked = self._tree.exists(self._clock_path)
        self.range.rescan()

    def frequencies(self) -> tuple[int, ...]:
        """Every step of the table, ascending."""
        return self._steps

    def offered(self) -> tuple[int, ...]:
        """The steps that the upper limit at rest lets through: one between two steps stands for the higher (nvgpu)."""
        _, highest = self.range.rest or (0, self._steps[-1])
        return self._steps[: bisect_left(self._steps, highest) + 1]

    def limits(self) -> tuple[int, int]:
        """Lower and upper limit as they read back."""
        return self.range.read()

    def knobs(self) -> dict[str, int]:
        """The knob files and what they read."""
        return dict(zip(("gpu.min_freq", "gpu.max_freq"), self.limits(), strict=True))

    def observe(self) -> tuple[int, int]:
        """Lower and upper limit, corrected by the clock itself: one outside its limits gives the lie to the nearer."""
        lowest, highest = self.limits()
        if not self._clocked:
            return lowest, highest
        try:
            current = read_int(self._tree, self._clock_path)
        except NodeError:
            return lowest, highest
        if current > highest:
            return lowest, current
        # 0 is a GPU without power, which keeps its limits.
        if 0 < current < lowest:
            return current, max(current, min(highest, current))
        return lowest, highest

    def ask(self, gpu_hz: int | None, gpu_min_hz: int | None) -> None:
        """Ask for an upper limit, a lower one, or both; a lower one that is not asked for is that at rest."""
        highest = gpu_hz if gpu_hz is not None else max(self.limits()[1], gpu_min_hz or 0)
        self.request(gpu_min_hz if gpu_min_hz is not None else self.range.lowest_below(highest), highest)

    def request(self, lowest_hz: int, highest_hz: int) -> None:
        """Ask for a range."""
        self.range.request(lowest_hz, highest_hz)


def _folder(tree: Tree, layout: Layout) -> str | None:
    for path in tree.glob(f"{_CLASS}/*/device/of_node/name"):
        try:
            if tree.read(path) in layout.gpu_of_names:
                return path.removesuffix("/device/of_node/name")
        except NodeError:
            # Another device that is just going away does not hide this one.
            continue
    found = tree.glob(f"{_CLASS}/{layout.gpu_class}") if layout.gpu_class else []
    return found[0] if found else None
