# SPDX-License-Identifier: Apache-2.0
"""Deadlines that outlive processes and reboots without a wall clock: what is left is noted, and in which boot.

CLOCK_BOOTTIME runs through suspension and starts anew at each boot (clock_gettime(2)). Time in which the machine was
off between two notes counts for nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Uptime:
    """A moment: which boot, and seconds since it, suspension included."""

    boot: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Noted:
    """Seconds that were left at a moment."""

    left_s: float
    moment: Uptime


def read_uptime(proc: Path = Path("/proc")) -> Uptime:
    """Now; raises `OSError` where the kernel does not say which boot this is."""
    boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
    return Uptime(boot, time.clock_gettime(time.CLOCK_BOOTTIME))


def left_s(noted: Noted, now: Uptime) -> float:
    """Seconds left of what was noted, negative once it is over; of another boot's note nothing has passed yet."""
    if noted.moment.boot != now.boot:
        return noted.left_s
    return noted.left_s - (now.at_s - noted.moment.at_s)
