# SPDX-License-Identifier: Apache-2.0
"""Joules per request at the offered load, idle energy included, and how well a window knows them.

A few seconds of Poisson traffic hold more luck than signal: at 15 requests a second, a five-second window sees 75 +- 9
arrivals, and idle energy per request varies as much. Power, however, is close to linear in the device's busy share, so
a line through the window's segments gives it at the busy share which the long-run load implies. A power sensor that
shows the mean over the past is compared with a busy share averaged in the same way.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .sequential import Line, fit_line

SEGMENT_S = 0.5
"""Length of the segments whose power is compared with their busy share, at least the sensor's averaging time."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Counters at one moment: CLOCK_MONOTONIC seconds, joules, and per-board sums of busy seconds and requests."""

    at_s: float
    energy_j: float
    busy_s: float
    requests: int
    error_j: float = 0.0
    """Bound on what sampling may have missed of the joules."""
    power_w: float = 0.0
    missing_s: float = 0.0
    """Seconds without a power reading."""
    others_s: float = 0.0
    """Busy seconds, among those of the board, of instances that nobody tunes."""


@dataclass(frozen=True, slots=True)
class Joules:
    """Joules per request, and the relative half-width of the interval in which they lie."""

    per_request_j: float
    half_width: float


def energy_per_request(
    ticks: Sequence[Tick], rate_hz: float, busy: float, averaging_s: float = 0.0, busy_half_width: float = 0.0
) -> Joules:
    """Joules per request at `rate_hz`, with the device busy for a share `busy` of the time.

    `averaging_s` is the power sensor's, `busy_half_width` says how well that share is known. Raises `ValueError` if the
    window holds no time, or the rate is 0.
    """
    if len(ticks) < 2 or rate_hz <= 0:
        raise ValueError("no energy per request without time and load")
    line = power_line(ticks, averaging_s)
    power_w = line.at(min(1.0, busy))
    missed_w = (ticks[-1].error_j - ticks[0].error_j) / (ticks[-1].at_s - ticks[0].at_s)
    # of one another they know nothing, and add up in squares
    busy_w = line.slope * busy_half_width if line.slope else 0.0
    half_width_w = math.hypot(line.half_width(busy), busy_w, missed_w)
    return Joules(power_w / rate_hz, half_width_w / power_w if power_w > 0 else 0.0)


def power_line(ticks: Sequence[Tick], averaging_s: float = 0.0) -> Line:
    """Watts over busy share through the window's segments; `ValueError` if it holds no time.

    The first `averaging_s` of the window say only how busy the device was: until then the sensor shows the past.
    """
    begin_s, end_s = ticks[0].at_s + averaging_s, ticks[-1].at_s
    if end_s <= begin_s:
        raise ValueError("no power without time")
    count = max(1, int((end_s - begin_s) / max(SEGMENT_S, averaging_s) + 1e-6))
    segment_s = (end_s - begin_s) / count
    times_s = [begin_s + segment_s * number for number in range(count + 1)]
    looked_s = [tick.at_s for tick in ticks]
    energy_j = _at([tick.energy_j for tick in ticks], looked_s, times_s)
    busy_s = _averaged([tick.busy_s for tick in ticks], looked_s, times_s, averaging_s)
    return fit_line(_rates(busy_s, segment_s), _rates(energy_j, segment_s))


def _averaged(
    counts: Sequence[float], looked_s: Sequence[float], times_s: Sequence[float], averaging_s: float
) -> list[float]:
    """A counter at these times as the power sensor would show it: its mean over the `averaging_s` before."""
    if not averaging_s:
        return _at(counts, looked_s, times_s)
    areas = [0.0]
    for (before_s, after_s), (before, after) in zip(pairwise(looked_s), pairwise(counts), strict=True):
        areas.append(areas[-1] + (after_s - before_s) * (before + after) / 2)
    upper = _at(areas, looked_s, times_s)
    lower = _at(areas, looked_s, [time_s - averaging_s for time_s in times_s])
    return [(high - low) / averaging_s for high, low in zip(upper, lower, strict=True)]


def _at(counts: Sequence[float], looked_s: Sequence[float], times_s: Sequence[float]) -> list[float]:
    """A counter at these times, between the looks around them."""
    values = []
    for time_s in times_s:
        after = min(max(1, bisect_left(looked_s, time_s)), len(looked_s) - 1)
        share = (time_s - looked_s[after - 1]) / (looked_s[after] - looked_s[after - 1])
        values.append(counts[after - 1] + min(1.0, max(0.0, share)) * (counts[after] - counts[after - 1]))
    return values


def _rates(counts: Sequence[float], segment_s: float) -> list[float]:
    return [(after - before) / segment_s for before, after in pairwise(counts)]
