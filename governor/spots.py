# SPDX-License-Identifier: Apache-2.0
"""Points where a job may have room: the one held, and the cheapest of those that kept the objective in a trial."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from .lessons import key_of
from .points import Best, Point
from .trial import Feasible
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
    others = sorted((trial for trial in kept if trial.point != held), key=lambda trial: trial.energy_j or 0.0)
    points = [held, *(trial.point for trial in others[:SPOTS] if not tuning.lessons.avoided(trial.point, now_s))]
    return [
        Spot(point, tuning.clocks(point), tuning.batch_limits(point), rate_hz * prices_j.get(key_of(point), usual_j))
        for point in points
    ]
