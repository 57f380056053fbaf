# SPDX-License-Identifier: Apache-2.0
"""What a Jetson is made of, as far as it was found: GPU, memory controller, CPUs, rails, thermal zones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from .clocks import ClockTable
from .cpu import Cpus
from .devfreq import Gpu
from .emc import Emc
from .errors import NodeError
from .layout import Layout
from .rails import Rails
from .thermal import Thermal
from .tree import Tree

Name = Literal["gpu", "emc", "cpus"]
NAMES: tuple[Name, ...] = ("gpu", "emc", "cpus")
_Part = TypeVar("_Part")
_WHY_MISSING: dict[Name, str] = {
    "gpu": "no GPU clock: its devfreq device is not there (nvgpu registers it at the first power-up)",
    "emc": "no memory clock: BPMP's debugfs is not there, or hidden from this user (root sees it)",
    "cpus": "no CPU clock: no cpufreq policy is there",
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What was discovered of a board; None where it is missing, or hidden from this user."""

    gpu: Gpu | None
    emc: Emc | None
    cpus: Cpus
    rails: Rails
    thermal: Thermal

    @classmethod
    def find(cls, tree: Tree, layout: Layout) -> Parts:
        """Look for every part. One whose files cannot be read counts as missing."""
        return cls(
            _found(lambda: Gpu.find(tree, layout)),
            _found(lambda: Emc.find(tree, layout)),
            _found(lambda: Cpus.find(tree)) or Cpus(tree),
            Rails.find(tree, layout),
            Thermal.find(tree),
        )

    def missing(self) -> tuple[Name, ...]:
        """Parts with clocks that are not there."""
        there = {"gpu": self.gpu, "emc": self.emc, "cpus": self.cpus.policies}
        return tuple(name for name in NAMES if not there[name])

    def without(self, name: Name, tree: Tree) -> Parts:
        """The others."""
        if name == "gpu":
            return replace(self, gpu=None)
        return replace(self, emc=None) if name == "emc" else replace(self, cpus=Cpus(tree))

    def completed(self, tree: Tree, layout: Layout) -> Parts:
        """With what was missing looked for again; what is there stays as it was scanned."""
        found = Parts.find(tree, layout)
        return Parts(
            self.gpu or found.gpu,
            self.emc or found.emc,
            self.cpus if self.cpus.policies else found.cpus,
            found.rails if self.rails.missing() else self.rails,
            found.thermal,
        )

    def table(self) -> ClockTable:
        """The values on offer within the power mode that was in force at rest."""
        gpu = self.gpu.offered() if self.gpu else ()
        emc = self.emc.offered() if self.emc else ()
        return ClockTable(gpu, gpu, emc, self.cpus.offered(), self.cpus.core_counts())

    def notes(self, layout: Layout) -> Iterator[str]:
        """What is missing, unknown or assumed about them."""
        yield from (_WHY_MISSING[name] for name in self.missing())
        if self.emc and not self.emc.proven:
            yield "memory rates are unproven on this board: one that does not read back is withdrawn"
        if self.cpus.policies and not self.cpus.frequencies():
            yield "no CPU clock: the driver lists no steps (scaling_available_frequencies)"
        if missing := self.rails.missing():
            yield f"no power: rail {', '.join(missing)} was not found"
        elif self.rails.window_assumed:
            yield f"power monitors do not say over what they average: {1000 * self.rails.window_s:g} ms is assumed"
        yield f"module power above {layout.ceiling_w:g} W counts as a sensor fault ({layout.ceiling_source})"
        if not self.thermal.counters:
            yield "no over-current counter: only clocks and thermal alerts show throttling"


def _found(find: Callable[[], _Part | None]) -> _Part | None:
    try:
        return find()
    except NodeError:
        return None
