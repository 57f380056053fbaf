# SPDX-License-Identifier: Apache-2.0
"""What every peer keeps: the grid, what was tried, and the cheapest point seen to keep the limit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from governor.points import Best, Point

FIRST = 5
"""Points that a peer tries before it has an opinion."""


@dataclass
class Seen:
    """Candidates by number, and what was told of them in order."""

    knobs: Mapping[str, Sequence[float]]
    slo_s: float
    told: list[int] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    energies_j: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.points = [
            dict(zip(self.knobs, map(float, values), strict=True)) for values in itertools.product(*self.knobs.values())
        ]
        self._number = {tuple(point.values()): number for number, point in enumerate(self.points)}

    def number(self, point: Mapping[str, float]) -> int:
        """The candidate's number; KeyError if it is none."""
        return self._number[tuple(float(point[name]) for name in self.knobs)]

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """Keep what a trial measured."""
        self.told.append(self.number(point))
        self.latencies_s.append(latency_s)
        self.energies_j.append(energy_j)

    def untried(self, among: Sequence[int] | None = None) -> list[int]:
        """The candidates, or those `among` them, that nobody told of."""
        tried = set(self.told)
        return [number for number in (range(len(self.points)) if among is None else among) if number not in tried]

    def best(self) -> Best | None:
        """The cheapest trial within the limit as measured; these peers offer no other opinion."""
        trials = zip(self.energies_j, self.latencies_s, self.told, strict=True)
        kept = min((trial for trial in trials if trial[1] <= self.slo_s), default=None)
        return Best(self.points[kept[2]], kept[0], kept[1], math.nan) if kept else None

    def features(self) -> npt.NDArray[np.float64]:
        """Log knobs scaled to [0, 1], `n x d`; a knob of one value is a constant 0."""
        low = {name: values[0] for name, values in self.knobs.items()}
        span = {name: math.log(values[-1] / values[0]) or 1.0 for name, values in self.knobs.items()}
        rows = [[math.log(value / low[name]) / span[name] for name, value in point.items()] for point in self.points]
        return np.array(rows)


class Peer:
    """What peers share: they keep all they are told and recommend the cheapest point seen to keep the limit."""

    def __init__(self, knobs: Mapping[str, Sequence[float]], slo_s: float, seed: int, prior: object = None) -> None:
        """`prior` is what was measured of other workloads; no peer uses it."""
        del prior
        self.seen = Seen(knobs, slo_s)
        self.seed = seed

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """Keep what a trial measured."""
        self.seen.tell(point, latency_s, energy_j)

    def best(self) -> Best | None:
        """The cheapest trial within the limit as measured."""
        return self.seen.best()

    def point(self, number: int) -> Point:
        """The knobs' values of a candidate."""
        return dict(self.seen.points[number])
