# SPDX-License-Identifier: Apache-2.0
"""Heat that shows only after a trial's end: throttle counters are read once a second and move in batches."""

from __future__ import annotations

LATE_S = 3.0
"""Throttle events that show up so long after a trial belong to it: counters move every 2 s and are read each second."""


class AfterHeat:
    """Follows the throttle counter after the last trial that measured something."""

    def __init__(self) -> None:
        self._throttles = 0
        self._ended: tuple[float, int] | None = None
        """When that trial ended, and the events counted by then."""
        self._too_hot = False

    def trial_ended(self, now_s: float, *, measured: bool) -> None:
        """A trial has ended."""
        self._ended = (now_s, self._throttles) if measured else None

    def look(self, now_s: float, throttles: int) -> None:
        """The counter now."""
        self._throttles = throttles
        if self._ended is not None:
            ended_s, before = self._ended
            self._too_hot |= throttles > before
            if self._too_hot or now_s - ended_s >= LATE_S:
                self._ended = None

    def shows(self) -> bool:
        """Whether the trial turned out too hot; said once."""
        shows, self._too_hot = self._too_hot, False
        return shows
