# SPDX-License-Identifier: Apache-2.0
"""What a search expects of points that it never tried, and what that says: pure functions of `Predicted`.

Energies and latencies are lognormal: `Predicted` holds medians and the deviations of the logs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..points import Best, Point, Predicted, is_batch

SURE = 0.75
"""Chance of keeping a limit above which a point counts as one that keeps it."""

QUARTILE = 0.6744897501960817
"""Standard deviations above the median that a normal variable stays below with the chance `SURE`."""

VAGUE = math.log(2.0)
"""A deviation of the log beyond which nothing is said: the figure is not known within a factor of two."""


class Forecaster(Protocol):
    """A search that can be asked what it expects; `search.Search` in the product."""

    @property
    def points(self) -> Sequence[Point]:
        """Every candidate."""
        ...

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """What a trial measured; raises `UnknownPoint` or `ValueError`."""
        ...

    def predict(self, points: Sequence[Mapping[str, float]]) -> list[Predicted]:
        """What it expects of points."""
        ...

    def best(self) -> Best | None:
        """The best point told of."""
        ...


@dataclass(frozen=True, slots=True)
class Expected:
    """A point and what is expected of it."""

    point: Point
    figures: Predicted


@dataclass(frozen=True, slots=True)
class Worth:
    """One knob of a point: what would be expected with that knob alone at its top."""

    knob: str
    value: float
    top: float
    there: Predicted


@dataclass(frozen=True, slots=True)
class Price:
    """The cheapest point expected to keep a limit, `factor` times the SLO; None if none is."""

    factor: float
    limit_s: float
    cheapest: Expected | None


@dataclass(frozen=True, slots=True)
class Promise:
    """The untried point that promises most: how much cheaper than the best it is expected to be, as a share."""

    expected: Expected
    share: float


def chance(figures: Predicted, limit_s: float) -> float:
    """Probability that the latency stays within a limit."""
    distance = math.log(limit_s / figures.latency_s)
    if figures.latency_deviation <= 0:
        return float(distance >= 0)
    return _below(distance / figures.latency_deviation)


def likely_s(figures: Predicted) -> float:
    """The latency that is not exceeded with the chance `SURE`."""
    return figures.latency_s * math.exp(QUARTILE * figures.latency_deviation)


def cheapest(all_expected: Iterable[Expected], limit_s: float = math.inf) -> Expected | None:
    """The cheapest point expected to keep a limit; None if none is."""
    within = [one for one in all_expected if limit_s == math.inf or chance(one.figures, limit_s) >= SURE]
    return min(within, key=lambda one: one.figures.energy_j, default=None)


def frontier(all_expected: Iterable[Expected]) -> list[Expected]:
    """The points than which no faster one is cheaper, the fastest first."""
    front: list[Expected] = []
    for one in sorted(all_expected, key=lambda one: (one.figures.latency_s, one.figures.energy_j)):
        if not front or one.figures.energy_j < front[-1].figures.energy_j:
            front.append(one)
    return front


def promise(untried: Iterable[Expected], best_j: float) -> Promise | None:
    """What the best untried point promises; None if there is none.

    Expected improvement of log energy, times the chance of being feasible [Gardner et al., ICML 2014].
    """
    promises = [Promise(one, _improvement(one.figures, best_j) * one.figures.probability_feasible) for one in untried]
    return max(promises, key=lambda one: one.share, default=None)


def line(point: Point, knob: str, knobs: Mapping[str, Sequence[float]]) -> list[Point]:
    """The points that differ from `point` in this knob alone, ascending; itself among them."""
    return [{**point, knob: float(value)} for value in knobs[knob]]


def at_top(points: Iterable[Point], knobs: Mapping[str, Sequence[float]]) -> list[Point]:
    """The points at maximum clocks: one per batch limit."""
    clocks = [name for name in knobs if not is_batch(name)]
    return [point for point in points if all(point[name] == knobs[name][-1] for name in clocks)]


def _improvement(figures: Predicted, best_j: float) -> float:
    gain = math.log(best_j / figures.energy_j)
    deviation = figures.energy_deviation
    if deviation <= 0:
        return max(0.0, gain)
    z = gain / deviation
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return max(0.0, deviation * (z * _below(z) + density))


def _below(z: float) -> float:
    """Probability that a standard normal variable is below `z`."""
    return math.erfc(-z / math.sqrt(2)) / 2
