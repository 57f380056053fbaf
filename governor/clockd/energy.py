# SPDX-License-Identifier: Apache-2.0
"""The joule counter: power over time by the trapezoid rule, or the hardware's own count, and what may be missed.

How far a trapezoid may be off: the sensor shows the mean over its window W, a(t) = 1/W · ∫ p from t-W to t, so
a'(t) = (p(t) - p(t-W)) / W. With p between `lowest` and `highest`, a(t) changes by at most s = (highest - lowest) / W
a second. Two samples dt <= W apart hold a(t) between two cones of slope s; the curve furthest from their chord is a
tent over two equal samples, dt/2 wide on each side and s·dt/2 high, so the area missed is at most
s·dt²/4 = (highest - lowest) · dt² / (4 W). With dt > W, or no averaging, power may have been either sample's all the
time: half their difference times dt. Beyond `GAP_S` nothing is known: the highest power times dt.

The range is that of the readings of the last minute or two; a load that alternates faster than the window shows less
of it, and moves the mean as much less. What averaging itself shifts across the ends of an interval is not in here: the
page's reader adds `averaging_s · (highest - lowest)` once.
"""

from __future__ import annotations

from dataclasses import dataclass

GAP_S = 0.5
"""Two samples further apart than this, and than the sensor's window, say nothing of what was between them."""
RANGE_S = 60.0
"""The range of readings is kept over this time and the one before: only power inside the window can move the mean."""
SPIKE = 4.0
"""A reading this many times the last one is believed when the next one says the same. A window of 0.4 s cannot rise
so far between two samples, and a mode switch stays."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Watts at a time (monotonic seconds), `since_s` after the sample before."""

    at_s: float
    power_w: float
    since_s: float = 0.0


def sampling_error_j(before: Sample, after: Sample, range_w: float, highest_w: float, window_s: float) -> float:
    """Bound in joules on how far the trapezoid between two samples is off (see the module's docstring)."""
    dt_s = after.at_s - before.at_s
    if dt_s <= window_s:
        return range_w * dt_s**2 / (4 * window_s)
    return dt_s * (highest_w if dt_s > GAP_S else abs(after.power_w - before.power_w) / 2)


class Range:
    """Lowest and highest of the values of the last `RANGE_S` to `2 RANGE_S` seconds."""

    def __init__(self) -> None:
        self._now = self._before = (float("inf"), 0.0)
        self._since_s = 0.0

    def take(self, at_s: float, value: float) -> None:
        """One more value."""
        if at_s - self._since_s >= RANGE_S:
            self._before = self._now if at_s - self._since_s < 2 * RANGE_S else (value, value)
            self._now, self._since_s = (value, value), at_s
        self._now = min(self._now[0], value), max(self._now[1], value)

    @property
    def lowest(self) -> float:
        """The lowest, infinite before the first."""
        return min(self._now[0], self._before[0])

    @property
    def highest(self) -> float:
        """The highest, 0 before the first."""
        return max(self._now[1], self._before[1])


class EnergyMeter:
    """Counts joules. `window_s` is the sensor's averaging window, 0 if it does not average."""

    def __init__(self, window_s: float = 0.0) -> None:
        self.window_s = window_s
        self.joules = 0.0
        self.error_j = 0.0
        """Bound on what sampling has missed so far; it only grows, so its growth bounds an interval."""
        self.missing_s = 0.0
        """Time without a reading that could be trusted."""
        self.power_w = 0.0
        """The last reading that was trusted."""
        self._trusted: Sample | None = None
        self._doubted: Sample | None = None
        self._range = Range()
        self._taken_s: float | None = None
        self._counted_j: float | None = None
        self._counts = False

    def take(self, at_s: float, power_w: float | None, counted_j: float | None = None) -> bool:
        """One sample: the power read, None if there was none, and the hardware's own count where it keeps one.

        Returns whether a reading, this one or the one before, proved to be none.
        """
        since_s = 0.0 if self._taken_s is None else max(0.0, at_s - self._taken_s)
        self._taken_s = at_s
        self._count(counted_j)
        sound_w = power_w if power_w is not None and 0 < power_w < float("inf") else None
        rejected = not self._settle_doubt(sound_w) or (power_w is not None and sound_w is None)
        if sound_w is None:
            self.missing_s += since_s
        elif self._trusted is None or sound_w > SPIKE * self._trusted.power_w:
            self._doubted = Sample(at_s, sound_w, since_s)
        else:
            self._trust(Sample(at_s, sound_w, since_s))
        return rejected

    def _settle_doubt(self, power_w: float | None) -> bool:
        """Trust the sample in doubt after all if this one is as high; the very first one, unless this is far lower."""
        doubted, self._doubted = self._doubted, None
        if doubted is None:
            return True
        bar_w = SPIKE * self._trusted.power_w if self._trusted else doubted.power_w / SPIKE
        if power_w is not None and power_w > bar_w:
            self._trust(doubted)
            return True
        self.missing_s += doubted.since_s
        return False

    def _trust(self, sample: Sample) -> None:
        self._range.take(sample.at_s, sample.power_w)
        before, self._trusted, self.power_w = self._trusted, sample, sample.power_w
        if before is None or self._counts or sample.at_s <= before.at_s:
            return
        self.joules += (sample.at_s - before.at_s) * (before.power_w + sample.power_w) / 2
        range_w = self._range.highest - self._range.lowest
        self.error_j += sampling_error_j(before, sample, range_w, self._range.highest, self.window_s)

    def _count(self, counted_j: float | None) -> None:
        """Take over what the hardware has counted since the last sample, unless it began anew: then power counts."""
        step_j = -1.0 if counted_j is None or self._counted_j is None else counted_j - self._counted_j
        self._counted_j = counted_j
        self._counts = 0 <= step_j < float("inf")
        if self._counts:
            self.joules += step_j
