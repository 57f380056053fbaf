# SPDX-License-Identifier: Apache-2.0
"""A virtual discrete GPU: the same `NvmlBoard`, over a driver with state and over assumed physics.

No figure of it was measured. Latency is that of the AGX Orin's surfaces with the card's clocks taken as the same
shares of their maxima and the host at its own maximum; power is `FLOOR_W` plus `SCALE` times what the Orin's GPU and
memory would draw there, and a lower graphics clock where that is above the power limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping

from .backlog import Backlog
from .clocks import ClockPoint
from .nvml import NvmlBoard
from .physics import AGX_ORIN, CORES_MAX, CPU_MAX_HZ, EMC_MAX_HZ, GPU_MAX_HZ, SHIPPED, Watts, Workload, mix, shipped
from .virtual import Load
from .virtual_faults import Faults
from .virtual_nvml_card import GRAPHICS_MHZ, MEMORY_MHZ
from .virtual_nvml_driver import VirtualNvml

NAME = "virtual:nvml"
FLOOR_W = 35.0
"""What the card draws beside GPU and memory: fans, regulators, leakage at the lowest voltage."""
SCALE = 6.0
_AMBIENT_CELSIUS = 30.0
_CELSIUS_PER_W = 0.15
_WARM_UP_S = 20.0


class VirtualNvmlBoard(NvmlBoard):
    """The virtual GPU, with a load that somebody else really runs (as `boards.virtual.VirtualBoard`)."""

    virtual = True
    physics = "assumed"

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        workloads: Mapping[str, Workload] | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.kernel = VirtualNvml(faults)
        """The driver, named as the kernel of other virtual boards is."""
        self.kernel.power_w = IDLE.total_w
        super().__init__(0, clock, sleep, nvml=self.kernel)
        self.name = NAME
        self.notes = ("physics: assumed, no figure of this GPU was measured", *self.notes)
        self.workloads = {name: shipped(name) for name in SHIPPED} | dict(workloads or {})
        self._backlog = Backlog()

    @property
    def faults(self) -> Faults:
        """What goes wrong now; NVML counts no over-current events, so those have no effect."""
        return self.kernel.switch.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.kernel.switch.faults = faults

    @property
    def backlog_s(self) -> float:
        """Busy time that was reported but has not been charged yet."""
        return self._backlog.pending_s

    def run(self, loads: Iterable[Load], dt_s: float) -> Watts:
        """Let `dt_s` seconds pass; returns the mean power over them (the card's floor as the rest).

        Raises `KeyError` for a workload it does not know.
        """
        self._backlog.add(loads)
        taken = self._backlog.take(dt_s)
        self.kernel.busy = bool(taken)
        if taken:
            self._cap(taken)
        mhz = self.kernel.graphics_mhz()
        busy = [(load.busy_s / dt_s, self._busy(load, mhz)) for load in taken]
        power = mix([(1 - sum(share for share, _ in busy), IDLE), *busy])
        self._feed(power.total_w, dt_s)
        return power

    def slowdowns(self, workload: str, batches: Iterable[float], *, training: bool = False) -> tuple[float, ...]:
        """Slow-down against maximum clocks for each batch size, at the clocks that a busy GPU runs at now."""
        surfaces = self.workloads[workload]
        point = _orin_point(self.kernel.graphics_mhz(), self.kernel.memory_mhz())
        return tuple(surfaces.slowdown(point, batch, training=training) for batch in batches)

    def _busy(self, load: Load, graphics_mhz: int) -> Watts:
        """What the card draws while it is busy with `load`."""
        point = _orin_point(graphics_mhz, self.kernel.memory_mhz())
        return _card(self.workloads[load.workload].busy(point, load.batch, training=load.training))

    def _cap(self, loads: list[Load]) -> None:
        """Find the clock at which these loads fit under the power limit; it stays until there is other work."""
        self.kernel.capped_mhz = None
        asked_mhz = self.kernel.graphics_mhz()
        for mhz in reversed([clock for clock in GRAPHICS_MHZ if clock <= asked_mhz]):
            if mhz < asked_mhz:
                self.kernel.capped_mhz = mhz
            if all(1000 * self._busy(load, mhz).total_w <= self.kernel.power_limit_mw for load in loads):
                return

    def _feed(self, power_w: float, dt_s: float) -> None:
        kernel = self.kernel
        kernel.power_w = power_w
        kernel.energy_j += power_w * dt_s
        final = _AMBIENT_CELSIUS + _CELSIUS_PER_W * power_w
        kernel.celsius = final + (kernel.celsius - final) * math.exp(-dt_s / _WARM_UP_S)


def _orin_point(graphics_mhz: int, memory_mhz: int) -> ClockPoint:
    """The AGX Orin's clocks at the same shares of their maxima."""
    gpu_hz = round(GPU_MAX_HZ * graphics_mhz / GRAPHICS_MHZ[-1])
    return ClockPoint(gpu_hz, gpu_hz, round(EMC_MAX_HZ * memory_mhz / MEMORY_MHZ[-1]), CPU_MAX_HZ, CORES_MAX)


def _card(orin: Watts) -> Watts:
    """What the card draws where an AGX Orin would draw `orin`; the host is not on the card."""
    return Watts(0.0, SCALE * orin.gpu_w, SCALE * orin.memory_w, FLOOR_W)


IDLE = _card(AGX_ORIN.idle(_orin_point(GRAPHICS_MHZ[0], MEMORY_MHZ[0])))
