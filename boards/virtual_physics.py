# SPDX-License-Identifier: Apache-2.0
"""The physics of any virtual board, from those measured on the AGX Orin.

Every other board is taken for an AGX Orin whose clocks stand at the same shares of their maximum, and whose power is
scaled by the modules' power classes. That is an assumption and says so: no saving is reported from such a board.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .clocks import ClockPoint
from .physics import AGX_ORIN, CORES_MAX, CPU_MAX_HZ, EMC_MAX_HZ, GPU_MAX_HZ, Watts, Workload, mix
from .profile import Profile

MEASURED = "agx_orin_64gb"
MEASURED_CLASS_W = 60.0
Kind = Literal["measured", "assumed"]


@dataclass(frozen=True, slots=True)
class Physics:
    """A board's clocks and watts against those of the AGX Orin."""

    kind: Kind
    maximum: ClockPoint
    share: float
    """Watts of this board per watt of the AGX Orin at the same shares of the clocks."""

    @classmethod
    def of(cls, profile: Profile) -> Physics:
        """The physics of a board."""
        if profile.key == MEASURED:
            return cls("measured", profile.maximum(), 1.0)
        return cls("assumed", profile.maximum(), profile.class_w / MEASURED_CLASS_W)

    def as_orin(self, point: ClockPoint) -> ClockPoint:
        """The AGX Orin's point at the same shares of its maximum."""
        top = self.maximum
        return ClockPoint(
            _scaled(point.gpu_hz, top.gpu_hz, GPU_MAX_HZ),
            _scaled(point.gpu_min_hz, top.gpu_hz, GPU_MAX_HZ),
            _scaled(point.emc_hz, top.emc_hz, EMC_MAX_HZ),
            _scaled(point.cpu_hz, top.cpu_hz, CPU_MAX_HZ),
            _scaled(point.cores, top.cores, CORES_MAX),
        )

    def idle(self, point: ClockPoint) -> Watts:
        """Power at rest at a point of this board."""
        return mix([(self.share, AGX_ORIN.idle(self.as_orin(point)))])

    def busy(self, workload: Workload, point: ClockPoint, batch: float, *, training: bool = False) -> Watts:
        """Power while batches run back to back at a point of this board."""
        return mix([(self.share, workload.busy(self.as_orin(point), batch, training=training))])

    def slowdown(self, workload: Workload, point: ClockPoint, batch: float, *, training: bool = False) -> float:
        """Latency relative to this board's maximum clocks."""
        return workload.slowdown(self.as_orin(point), batch, training=training)


def _scaled(value: int | None, top: int | None, orin_top: int) -> int | None:
    """A knob's value on the AGX Orin; at least 1, for the formulas divide by it."""
    return None if value is None or not top else max(1, round(value * orin_top / top))
