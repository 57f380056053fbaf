# SPDX-License-Identifier: Apache-2.0
"""Who may compute now: training asks a `Pacer` between operations and waits while inference is in flight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from telemetry.instance_page import InstancePage
from telemetry.trainer_page import TrainerLimits, TrainerPage

POLL_S = 0.0005
"""How often a waiting trainer looks at the gate; bounds how late it resumes, costs under 1 % of a core."""


class Pacer(Protocol):
    """Asked by the executor; `clear` is on the hot path, after every operation."""

    def clear(self) -> bool:
        """Whether training may go on now; no system call, no allocation."""
        ...

    def wait(self) -> float:
        """Block until `clear`, return the seconds waited."""
        ...

    def slice_done(self, busy_s: float) -> None:
        """Account for `busy_s` seconds of training that were not interrupted."""
        ...


class Free:
    """Never waits: training alone on the device."""

    def clear(self) -> bool:
        """Always."""
        return True

    def wait(self) -> float:
        """No time at all."""
        return 0.0

    def slice_done(self, busy_s: float) -> None:
        """Nothing to account for."""


class Gate:
    """Waits while any live instance has a request in flight, and rests between slices as the governor's limits say.

    `pages` are the instance pages of the run directory; one whose owner died no longer holds the gate.
    """

    def __init__(
        self,
        pages: Sequence[InstancePage],
        limits: TrainerPage,
        clock_ns: Callable[[], int],
        sleep: Callable[[float], None],
    ) -> None:
        self._pages = pages
        self._limits = limits
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._rest_until_ns = 0

    def clear(self) -> bool:
        """Whether no instance has a request in flight and no rest is due."""
        for page in self._pages:
            if page.in_flight:
                return False
        return not self._rest_until_ns

    def wait(self) -> float:
        """Block until inference is idle and the rest is over; seconds waited."""
        start_ns = self._clock_ns()
        while self._held(self._clock_ns()):
            self._sleep(POLL_S)
        self._rest_until_ns = 0
        return (self._clock_ns() - start_ns) / 1e9

    def slice_done(self, busy_s: float) -> None:
        """Charge the slice to the trainer's page, and rest so that training keeps to its duty."""
        now_ns = self._clock_ns()
        self._limits.slice_done(int(busy_s * 1e9))
        limits = self._limits.read_limits(now_ns)
        self._rest_until_ns = now_ns + _rest_ns(limits, busy_s) if limits else 0

    def _held(self, now_ns: int) -> bool:
        if now_ns < self._rest_until_ns:
            return True
        return any(page.in_flight and page.alive(now_ns) for page in self._pages)


def _rest_ns(limits: TrainerLimits, busy_s: float) -> int:
    if limits.duty >= 1.0:
        return 0
    return int(busy_s * (1.0 / max(limits.duty, 0.01) - 1.0) * 1e9)
