# SPDX-License-Identifier: Apache-2.0
"""What work draws: from the board's joule counter where that resolves it, otherwise declared."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from telemetry.board_page import BoardReading

RESOLVED = 0.05
"""A power counts as measured when its error is at most this share of it."""


@dataclass(frozen=True, slots=True)
class Power:
    """Watts while the processor computes, while it waits, and how many more a transfer draws; `source` says whence."""

    busy_w: float
    idle_w: float
    transfer_w: float
    source: str


ASSUMED = Power(10.0, 4.0, 1.0, "assumed")
"""For machines of which nothing is known: shares of a step's energy are then shares of its time."""


class Counter(Protocol):
    """Where the joules are read; a `BoardPage` is one."""

    def read(self) -> BoardReading | None:
        """The latest reading, None if there is none."""
        ...


class Meter:
    """The mean power of repeated work, between readings that lie wholly within it."""

    def __init__(self, counter: Counter, limit_s: float = 2.0, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._counter = counter
        self._limit_ns = int(limit_s * 1e9)
        self._clock_ns = clock_ns

    def power_w(self, work: Callable[[], object]) -> float | None:
        """Watts while `work` is done over and over; None if the counter does not resolve them within the limit."""
        start_ns = now_ns = self._clock_ns()
        readings: list[BoardReading] = []
        while now_ns - start_ns < self._limit_ns:
            work()
            reading = self._counter.read()
            # The sensor averages: what it shows at first is still from before.
            if reading is not None and reading.sampled_ns - reading.averaging_s * 1e9 >= start_ns:
                if not readings or reading.sampled_ns > readings[-1].sampled_ns:
                    readings.append(reading)
                found = _resolved_w(readings)
                if found is not None:
                    return found
            now_ns = self._clock_ns()
        return None


def _resolved_w(readings: list[BoardReading]) -> float | None:
    if len(readings) < 3:
        return None
    first, last = readings[0], readings[-1]
    joules = last.energy_j - first.energy_j
    watts = [reading.power_w for reading in readings]
    error_j = last.energy_error_j - first.energy_error_j + last.averaging_s * (max(watts) - min(watts))
    if joules <= 0 or error_j > RESOLVED * joules or last.power_missing_s > first.power_missing_s:
        return None
    return joules / ((last.sampled_ns - first.sampled_ns) / 1e9)
