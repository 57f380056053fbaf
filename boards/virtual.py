# SPDX-License-Identifier: Apache-2.0
"""The virtual boards: a `JetsonBoard` on a tree in memory, with a load that somebody else really runs.

Inference and training run on the host. Who owns the board (clockd) tells it how long they were busy, and it answers
with power on its rails and with the factor by which each batch is to be slowed down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .backlog import Backlog
from .clocks import ClockPoint
from .jetson import JetsonBoard
from .layout import identify
from .physics import SHIPPED, Watts, Workload, mix, shipped
from .profile import JETPACKS, read_profile
from .virtual_faults import Faults, FaultSwitch
from .virtual_kernel import VirtualKernel
from .virtual_physics import Kind

_PROFILES = {
    "agx-orin": "agx_orin_64gb",
    "agx-orin-32gb": "agx_orin_32gb",
    "orin-nx": "orin_nx_16gb",
    "orin-nx-super": "orin_nx_16gb_super",
    "orin-nano": "orin_nano_8gb",
    "orin-nano-super": "orin_nano_8gb_super",
    "agx-xavier": "agx_xavier",
    "xavier-nx": "xavier_nx",
    "tx2": "tx2",
    "agx-thor": "agx_thor",
}


def _names() -> dict[str, tuple[str, str]]:
    names = {}
    for short, key in _PROFILES.items():
        jetpacks = JETPACKS[key]
        names[f"virtual:{short}"] = (key, jetpacks[max(0, len(jetpacks) - 2)])
        names |= {f"virtual:{short}@{jetpack}": (key, jetpack) for jetpack in jetpacks}
    return names


NAME = "virtual:agx-orin"
NAMES = _names()
"""Every virtual board: its profile and JetPack. Without an @ it is the newest JetPack but one that the board has."""


@dataclass(frozen=True, slots=True)
class Load:
    """Time for which the board was busy: with batches of a workload, or with its training."""

    workload: str
    busy_s: float
    batch: float
    training: bool = False


class VirtualBoard(JetsonBoard):
    """One of the virtual boards in `NAMES`; `faults` may be switched while it runs."""

    virtual = True

    def __init__(
        self,
        spec: str = NAME,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        workloads: Mapping[str, Workload] | None = None,
        faults: Faults | None = None,
    ) -> None:
        key, jetpack = NAMES[spec]
        self.kernel = VirtualKernel(read_profile(key), jetpack, clock, FaultSwitch(faults))
        self.tree = self.kernel.tree
        super().__init__(spec, self.tree, identify(self.tree), clock, sleep)
        self.workloads = {name: shipped(name) for name in SHIPPED} | dict(workloads or {})
        self._backlog = Backlog()

    @property
    def physics(self) -> Kind:
        """Whether power and slow-down follow measurements of this board, or are assumed after another's."""
        return self.kernel.physics.kind

    @property
    def faults(self) -> Faults:
        """What goes wrong now."""
        return self.kernel.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.kernel.faults = faults

    @property
    def backlog_s(self) -> float:
        """Busy time that was reported but has not been charged yet."""
        return self._backlog.pending_s

    def run(self, loads: Iterable[Load], dt_s: float) -> Watts:
        """Let `dt_s` seconds pass; returns the mean power over them.

        There is one GPU, so at most `dt_s` of work is charged; what was reported beyond that (a batch reports when it
        ends, all at once) is charged in the time that follows. Raises `KeyError` for a workload it does not know.
        """
        point = self.kernel.point()
        self._backlog.add(loads)
        busy = [(load.busy_s / dt_s, self._busy(load, point)) for load in self._backlog.take(dt_s)]
        idle = self.kernel.physics.idle(point)
        power = mix([(1 - sum(share for share, _ in busy), idle), *busy])
        self.kernel.feed(power, dt_s, busy=bool(busy))
        return power

    def slowdowns(self, workload: str, batches: Iterable[float], *, training: bool = False) -> tuple[float, ...]:
        """Slow-down against maximum clocks for each batch size, at the clocks that the silicon runs at now."""
        physics, surfaces, point = self.kernel.physics, self.workloads[workload], self.kernel.point()
        return tuple(physics.slowdown(surfaces, point, batch, training=training) for batch in batches)

    def _busy(self, load: Load, point: ClockPoint) -> Watts:
        workload = self.workloads[load.workload]
        return self.kernel.physics.busy(workload, point, load.batch, training=load.training)
