# SPDX-License-Identifier: Apache-2.0
"""What NVML's clock locks mean: which range a request asks for, and whether a clock that is read tells that it holds.

A lock cannot be read back. What can be read is the clock at this moment and why it is there, so:

    above the range           the lock does not hold: the clock is reported as it is
    within it                 the lock holds: its own limits are reported
    below it, GPU idle        an idle GPU rests below its lock and rises when work comes: it holds
    below it, otherwise       heat, power or the driver took the clock: it is reported as it is
"""

from __future__ import annotations

from dataclasses import dataclass

from .clocks import ClockPoint, ClockTable
from .nvml_calls import Reason

ALERTS = {
    Reason.HW_SLOWDOWN: "hw-slowdown",
    Reason.SW_THERMAL_SLOWDOWN: "sw-thermal-slowdown",
    Reason.HW_THERMAL_SLOWDOWN: "hw-thermal-slowdown",
    Reason.HW_POWER_BRAKE: "power-brake",
}
"""Reasons that somebody has to do something about. The software power cap is none: it is the power limit at work, as
its owner set it, and many cards meet it whenever they are busy at full clocks. It shows as a clock below its lock."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What NVML says about the clocks at one moment; None for a clock that this GPU does not report."""

    graphics_hz: int | None
    memory_hz: int | None
    idle: bool


def effective(asked: ClockPoint, latest: ClockPoint, table: ClockTable) -> tuple[int, int] | None:
    """The lowest and highest graphics clock to lock for everything asked so far, None if nothing was.

    Where the limits cross, the one in `latest`, the newest request, wins; the other comes back when it fits again.
    """
    if asked.gpu_hz is None and asked.gpu_min_hz is None:
        return None
    lowest = asked.gpu_min_hz or table.gpu_min_hz[0]
    highest = asked.gpu_hz or table.gpu_hz[-1]
    if lowest > highest:
        return (highest, highest) if latest.gpu_hz is not None else (lowest, lowest)
    return lowest, highest


def overlaid(asked: ClockPoint, latest: ClockPoint) -> ClockPoint:
    """Everything asked for so far: the newest request over the earlier ones."""
    return ClockPoint(
        latest.gpu_hz or asked.gpu_hz,
        latest.gpu_min_hz or asked.gpu_min_hz,
        latest.emc_hz or asked.emc_hz,
    )


def observed(gpu_range: tuple[int, int] | None, memory_hz: int | None, seen: Seen) -> ClockPoint:
    """The clock point that `seen` shows under a lock of the graphics range and of the memory clock.

    Without a lock there is no limit to report: the graphics and memory clocks of this moment are.
    """
    graphics, memory = seen.graphics_hz, seen.memory_hz
    lowest, highest = gpu_range or (None, graphics)
    if graphics is not None and lowest is not None and highest is not None:
        highest = max(highest, graphics)
        lowest = lowest if seen.idle else min(lowest, graphics)
    if memory is not None and memory_hz is not None and seen.idle:
        memory = max(memory, memory_hz)
    return ClockPoint(highest, lowest, memory)


def alerts(reasons: Reason) -> tuple[str, ...]:
    """The names of the alerts in force."""
    return tuple(name for reason, name in ALERTS.items() if reason & reasons)
