# SPDX-License-Identifier: Apache-2.0
"""What trials showed a search, and how well each figure is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..points import Point
from .calibration import noise_of
from .surfaces import Told


@dataclass(frozen=True, slots=True)
class Observation:
    """What one trial showed, and how well: standard deviations of the logs, None where nobody says.

    Raises `ValueError` for figures that are not finite and positive, and for deviations that are none.
    """

    index: int
    """The number of its point."""
    latency_s: float
    energy_j: float
    latency_deviation: float | None = None
    energy_deviation: float | None = None

    def __post_init__(self) -> None:
        for name in ("latency_s", "energy_j"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be finite and positive, got {value}; an unmeasured trial is not told")
        for name in ("latency_deviation", "energy_deviation"):
            deviation = getattr(self, name)
            if deviation is not None and not 0 <= deviation < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {deviation}")


def told_of(seen: Sequence[Observation]) -> Told:
    """The observations as surfaces are fitted to them."""
    return Told(
        [one.index for one in seen],
        torch.tensor([one.latency_s for one in seen], dtype=torch.float64).log(),
        torch.tensor([one.energy_j for one in seen], dtype=torch.float64).log(),
        noise_of([one.latency_deviation for one in seen] + [one.energy_deviation for one in seen]),
    )


def kept_cheapest(seen: Sequence[Observation], slo_s: float) -> int | None:
    """Which of the observations was the cheapest of those within the limit."""
    kept = [number for number, one in enumerate(seen) if one.latency_s <= slo_s]
    return min(kept, key=lambda number: seen[number].energy_j, default=None)


def unmoved(seen: Sequence[Observation], points: Sequence[Point], knobs: Mapping[str, Sequence[float]]) -> torch.Tensor:
    """The points a step away along the first knob that no observation moved (bool, `n`); none if all were moved."""
    for name, values in knobs.items() if seen else ():
        if len(values) > 1 and len({points[one.index][name] for one in seen}) == 1:
            at = values.index(points[seen[0].index][name])
            beside = (*values[max(0, at - 1) : at], *values[at + 1 : at + 2])
            return torch.tensor([point[name] in beside for point in points])
    return torch.zeros(len(points), dtype=torch.bool)
