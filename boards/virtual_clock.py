# SPDX-License-Identifier: Apache-2.0
"""What all clocks of a virtual board have in common: steps, numbers written as text, and time to settle."""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Callable

from .virtual_tree import os_error

GPU_SETTLE_S, EMC_SETTLE_S, CPU_SETTLE_S = 0.005, 0.008, 0.001
"""Measured on Orin Nano under R36 (arXiv 2606.16106); assumed for the others."""


class Settling:
    """A clock that takes `settle_s` to follow what it was told."""

    __slots__ = ("_now", "_ready_s", "_settle_s", "_target", "_value")

    def __init__(self, value: int, settle_s: float, now: Callable[[], float]) -> None:
        self._value = self._target = value
        self._ready_s = 0.0
        self._settle_s = settle_s
        self._now = now

    def tell(self, target: int) -> None:
        """Set where the clock is to go."""
        if target != self._target:
            self._value, self._target = self.value, target
            self._ready_s = self._now() + self._settle_s

    @property
    def value(self) -> int:
        """Where the clock is now."""
        return self._target if self._now() >= self._ready_s else self._value


def step_above(value: int, steps: tuple[int, ...]) -> int:
    """The lowest step that is not below the value; the top one if none is."""
    return steps[min(bisect_left(steps, value), len(steps) - 1)]


def step_below(value: int, steps: tuple[int, ...]) -> int:
    """The highest step that is not above the value; the lowest one if none is."""
    return steps[max(bisect_right(steps, value) - 1, 0)]


def parse_number(text: str) -> int:
    """A whole number as the kernel parses it; raises EINVAL."""
    try:
        return int(text)
    except ValueError as error:
        raise os_error(errno.EINVAL) from error
