# SPDX-License-Identifier: Apache-2.0
"""The joule counter: power over time by the trapezoid rule, and a bound on what that may have missed."""

from __future__ import annotations

from dataclasses import dataclass

GAP_S = 0.5
"""Two samples further apart than this say nothing of what was between them."""


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules up to the sample at `at_s` (monotonic seconds).

    `missed_j` bounds the sampling: between two samples the power may have been either one all the time, half the
    difference times the interval away from the trapezoid; over a gap the whole interval is in doubt. The sensor's
    averaging shifts energy by at most one window, so it adds `window · (highest - lowest)` and does not grow.
    """

    joules: float = 0.0
    missed_j: float = 0.0
    at_s: float = 0.0
    power_w: float = 0.0
    lowest_w: float = float("inf")
    highest_w: float = 0.0

    def then(self, at_s: float, power_w: float) -> Energy:
        """The counter after one more sample. The first one only starts it."""
        lowest, highest = min(self.lowest_w, power_w), max(self.highest_w, power_w)
        if self.lowest_w > self.highest_w:
            return Energy(0.0, 0.0, at_s, power_w, lowest, highest)
        dt_s = max(0.0, at_s - self.at_s)
        joules = self.joules + dt_s * (self.power_w + power_w) / 2
        doubt_w = highest if dt_s > GAP_S else abs(power_w - self.power_w) / 2
        return Energy(joules, self.missed_j + dt_s * doubt_w, at_s, power_w, lowest, highest)

    def error_j(self, window_s: float) -> float:
        """Bound on what sampling and an averaging window may have hidden so far, in joules."""
        return self.missed_j + window_s * max(0.0, self.highest_w - self.lowest_w)
