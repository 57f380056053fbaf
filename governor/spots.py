# SPDX-License-Identifier: Apache-2.0
"""Points where a job may have room: the one held, and some of those that kept the objective in a trial.

The cheapest ones alone would all have low clocks, at which training is slow too; so they are spread from the cheapest
to the quickest, along those that nothing beats in both, and the fastest point is always among them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from .lessons import key_of
from .points import Best, Point
from .trial import Feasible, TrialRecord
from .tuning import Tuning

SPOTS = 6
"""Points besides the one held."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A point: its clocks, batch limits by instance, and watts of serving there alone."""

    point: Point
    clocks: Hashable
    batch_limits: Mapping[str, int]
    serving_w: float


def spots_of(tuning: Tuning, held: Point, best: Best | None, rate_hz: float, now_s: float) -> list[Spot]:
    """The spots of a tuning at this load in requests per second, the point held first."""
    kept = [trial for trial in tuning.lessons.current if isinstance(trial.outcome, Feasible)]
    prices_j = {key_of(trial.point): trial.energy_j or 0.0 for trial in kept}
    usual_j = best.energy_j if best else 0.0
    others = [trial for trial in kept if trial.point != held and not tuning.lessons.avoided(trial.point, now_s)]
    points = [held, *(trial.point for trial in _spread(_front(others, tuning)))]
    return [
        Spot(point, tuning.clocks(point), tuning.batch_limits(point), rate_hz * prices_j.get(key_of(point), usual_j))
        for point in points
    ]


def _front(trials: Sequence[TrialRecord], tuning: Tuning) -> list[TrialRecord]:
    """Those that no other trial beats in joules and in latency, the cheapest first; and any at the fastest clocks."""
    fastest, front = tuning.clocks(tuning.fastest()), list[TrialRecord]()
    quickest_s = math.inf
    for trial in sorted(trials, key=lambda trial: trial.energy_j or 0.0):
        latency_s = trial.latency_s or math.inf
        if latency_s < quickest_s or tuning.clocks(trial.point) == fastest:
            front.append(trial)
        quickest_s = min(quickest_s, latency_s)
    return front


def _spread(front: Sequence[TrialRecord]) -> list[TrialRecord]:
    """At most so many of them, both ends included."""
    if len(front) <= SPOTS:
        return list(front)
    return [front[round(number * (len(front) - 1) / (SPOTS - 1))] for number in range(SPOTS)]
