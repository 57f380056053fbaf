# SPDX-License-Identifier: Apache-2.0
"""Service times of batch sizes that were seldom seen, made likely by those of the others.

A replay draws from what was measured of a size. Where that is one batch which happened to stall, every batch of that
size would stall. So a size seen fewer than `ENOUGH` times takes after the line through the medians of all sizes, the
more so the fewer it has, and draws its deviation from those of all sizes together.
"""

from __future__ import annotations

from statistics import median

from .queueing import ServiceTimes

ENOUGH = 30
"""Batches of one size after which it speaks for itself."""
WEIGHT = 5
"""Batches that the line through all sizes counts for."""
LEAST = 0.5
"""No batch takes less than this share of the median of its size."""


def typical(services: ServiceTimes) -> ServiceTimes:
    """The service times with those of seldom sizes made likely; one size alone stays as it is."""
    seen = {size: times for size, times in services.seconds.items() if times}
    if len(seen) < 2 or all(len(times) >= ENOUGH for times in seen.values()):
        return services
    medians = {size: median(times) for size, times in seen.items()}
    base_s, each_s = _line({size: (medians[size], len(times)) for size, times in seen.items()})
    deviations_s = [time_s - medians[size] for size, times in seen.items() for time_s in times]
    likely = {}
    for size, times in seen.items():
        if len(times) >= ENOUGH:
            likely[size] = times
            continue
        own = len(times) / (len(times) + WEIGHT)
        usual_s = own * medians[size] + (1 - own) * (base_s + each_s * size)
        likely[size] = tuple(max(LEAST * usual_s, usual_s + deviation_s) for deviation_s in deviations_s)
    return ServiceTimes(likely, services.lean)


def _line(points: dict[int, tuple[float, int]]) -> tuple[float, float]:
    """Intercept and slope, neither below 0, of the line by least squares; each point counts as often as it was seen."""
    weight = sum(count for _, count in points.values())
    middle = sum(size * count for size, (_, count) in points.items()) / weight
    mean_s = sum(time_s * count for time_s, count in points.values()) / weight
    spread = sum(count * (size - middle) ** 2 for size, (_, count) in points.items())
    slope = sum(count * (size - middle) * (time_s - mean_s) for size, (time_s, count) in points.items()) / spread
    slope = min(max(slope, 0.0), mean_s / middle)
    return mean_s - slope * middle, slope
