# SPDX-License-Identifier: Apache-2.0
"""The virtual AGX Orin: a `JetsonBoard` on a tree in memory, with a load that somebody else really runs.

Inference and training run on the host. Who owns the board (clockd) tells it how long they were busy, and it answers
with power on its rails and with the factor by which each batch is to be slowed down.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .clocks import ClockPoint
from .jetson import JetsonBoard
from .layout import identify
from .physics import AGX_ORIN, SHIPPED, Watts, Workload, mix, shipped
from .virtual_kernel import Faults, VirtualOrin
from .virtual_sensors import VirtualRails, VirtualThermal
from .virtual_tree import VirtualTree

NAME = "virtual:agx-orin"


@dataclass(frozen=True, slots=True)
class Load:
    """Time for which the board was busy: with batches of a workload, or with its training."""

    workload: str
    busy_s: float
    batch: float
    training: bool = False


class VirtualBoard(JetsonBoard):
    """The virtual AGX Orin; `faults` may be switched while it runs."""

    virtual = True

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        workloads: Mapping[str, Workload] | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.kernel = VirtualOrin(clock, faults)
        power = AGX_ORIN.idle(self.kernel.point())
        self._rails = VirtualRails(lambda: self.kernel.faults, power)
        self._thermal = VirtualThermal(lambda: self.kernel.faults, power)
        self.tree = VirtualTree(self.kernel.nodes() | self._rails.nodes() | self._thermal.nodes())
        super().__init__(NAME, self.tree, identify(self.tree), clock, sleep)
        self.workloads = {name: shipped(name) for name in SHIPPED} | dict(workloads or {})
        self._backlog: deque[Load] = deque()

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
        return sum(load.busy_s for load in self._backlog)

    def run(self, loads: Iterable[Load], dt_s: float) -> Watts:
        """Let `dt_s` seconds pass; returns the mean power over them.

        There is one GPU, so at most `dt_s` of work is charged; what was reported beyond that (a batch reports when it
        ends, all at once) is charged in the time that follows. Raises `KeyError` for a workload it does not know.
        """
        point = self.kernel.point()
        self._backlog.extend(load for load in loads if load.busy_s > 0)
        busy = self._work(point, dt_s)
        idle = AGX_ORIN.idle(point)
        power = mix([(1 - sum(share for share, _ in busy), idle), *busy])
        self.kernel.gpu.busy = bool(busy)
        self._rails.feed(power, dt_s)
        self._thermal.feed(power, dt_s)
        return power

    def slowdowns(self, workload: str, batches: Iterable[float], *, training: bool = False) -> tuple[float, ...]:
        """Slow-down against maximum clocks for each batch size, at the clocks that the silicon runs at now."""
        surfaces, point = self.workloads[workload], self.kernel.point()
        return tuple(surfaces.slowdown(point, batch, training=training) for batch in batches)

    def _work(self, point: ClockPoint, dt_s: float) -> list[tuple[float, Watts]]:
        """Take up to `dt_s` of the backlog: share of `dt_s` and power of each piece."""
        taken: list[tuple[float, Watts]] = []
        left_s = dt_s
        while self._backlog and left_s > 0:
            load = self._backlog.popleft()
            busy_s = min(load.busy_s, left_s)
            left_s -= busy_s
            if load.busy_s > busy_s:
                rest = Load(load.workload, load.busy_s - busy_s, load.batch, load.training)
                self._backlog.appendleft(rest)
            power = self.workloads[load.workload].busy(point, load.batch, training=load.training)
            taken.append((busy_s / dt_s, power))
        return taken
