# SPDX-License-Identifier: Apache-2.0
"""A search that is told of a subject's trials again, in order, and asked what it expects before and after."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UnknownPoint
from ..lessons import table_of
from ..points import Point, Predicted, Table
from ..subjects import SubjectLog
from ..trial import Feasible, TrialRecord
from .opinions import (
    VAGUE,
    Expected,
    Forecaster,
    Price,
    Promise,
    Worth,
    at_top,
    cheapest,
    line,
    promise,
)

ENOUGH = 3
"""Trials measured before surfaces are spoken of."""
REPLAYED = 40
"""So many of the last trials are predicted as before they were tried: each takes a fit."""

log = logging.getLogger("teg.explain")

MakeForecaster = Callable[[Mapping[str, Sequence[float]], float, Sequence[Table], float | None], Forecaster]
"""Makes a search over knobs for a latency limit in seconds, given other workloads and the load in Hz."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One trial, with what was expected of its point before it was told of, and what is now."""

    number: int
    record: TrialRecord
    before: Predicted | None
    now: Predicted | None


@dataclass(frozen=True, slots=True)
class Choice:
    """A point, what is expected of it, and the means of what `trials` trials measured there."""

    point: Point
    expected: Predicted | None
    trials: int
    energy_j: float | None
    latency_s: float | None

    @property
    def expected_j(self) -> float | None:
        """The joules per request expected."""
        return self.expected.energy_j if self.expected else None


class Forecast:
    """What a search expects once it was told of a subject's trials one by one.

    Trials from before the search was last opened again measured another world: to the search they are another workload.
    """

    def __init__(self, past: SubjectLog, make: MakeForecaster) -> None:
        self._knobs = past.subject.knobs
        self._slo_s = slo_s(past)
        self._trials = past.since_reopening
        self._search: Forecaster | None = None
        first = len(past.trials) - len(self._trials)
        usable = [number for number, record in enumerate(self._trials) if self._usable(record)]
        if usable:
            earlier = [record for record in past.trials[:first] if self._usable(record)]
            prior = [table_of(earlier, "before", past.rate_hz)] if earlier else []
            try:
                self._search = make(self._knobs, self._slo_s, prior, past.rate_hz)
            except ValueError as error:
                # A history that somebody wrote by hand is told as it is, without surfaces.
                log.warning("nothing can be expected of such knobs: %s", error)
        before = self._replay(usable)
        self._all = self._opinions() if len(usable) >= ENOUGH else []
        self._by_key = {self._key(one.point): one.figures for one in self._all}
        self.tried = tuple(
            Tried(first + number + 1, record, before.get(number), self.expected(record.point))
            for number, record in enumerate(self._trials)
        )

    @property
    def known(self) -> list[Expected]:
        """Of every point whose figures are known within a factor of two."""
        return [one for one in self._all if _known(one.figures)]

    @property
    def best(self) -> Point | None:
        """The best point tried, None if none keeps the SLO."""
        if self._search is not None:
            found = self._search.best()
            return dict(found.point) if found else None
        kept = [record for record in self._trials if isinstance(record.outcome, Feasible)]
        return min(kept, key=lambda record: record.energy_j or math.inf).point if kept else None

    def expected(self, point: Mapping[str, float]) -> Predicted | None:
        """What is expected of a candidate, None if that is vague or not known."""
        figures = self._by_key.get(self._key(point))
        return figures if figures and _known(figures) else None

    def choice(self, point: Point) -> Choice:
        """A point with its figures."""
        there = [record for record in self._trials if record.point == point and record.energy_j is not None]
        energies = [record.energy_j for record in there if record.energy_j is not None]
        latencies = [record.latency_s for record in there if record.latency_s is not None]
        return Choice(point, self.expected(point), len(there), _mean(energies), _mean(latencies))

    def top(self) -> Point | None:
        """Maximum clocks at the cheapest batch limit expected to keep the SLO, else at the fastest one."""
        expected = [one for one in self.known if one.point in at_top([one.point], self._knobs)]
        likely = cheapest(expected, self._slo_s)
        if likely is not None:
            return likely.point
        tried = [
            record
            for record in self._trials
            if record.latency_s is not None and at_top([record.point], self._knobs) and self._usable(record)
        ]
        kept = [record for record in tried if isinstance(record.outcome, Feasible)]
        if kept:
            return min(kept, key=lambda record: record.energy_j or math.inf).point
        return min(tried, key=lambda record: record.latency_s or math.inf).point if tried else None

    def worths(self, point: Point) -> tuple[Worth, ...]:
        """What each knob is worth at this point; knobs of one value are worth nothing."""
        found = []
        for name, values in self._knobs.items():
            there = self.expected({**point, name: float(values[-1])})
            if len(values) > 1 and there is not None:
                found.append(Worth(name, point[name], float(values[-1]), there))
        return tuple(found)

    def along(self, point: Point, knob: str) -> tuple[Expected, ...]:
        """What is expected along one knob through a point, where it is known."""
        figures = [(other, self.expected(other)) for other in line(point, knob, self._knobs)]
        return tuple(Expected(other, there) for other, there in figures if there is not None)

    def price(self, factor: float) -> Price:
        """The cheapest point if the SLO were `factor` times what it is."""
        limit_s = factor * self._slo_s
        return Price(factor, limit_s, cheapest(self.known, limit_s))

    def promise(self, point: Point) -> Promise | None:
        """What the untried point that promises most has over `point`; None without surfaces."""
        expected = self.expected(point)
        if expected is None:
            return None
        tried = {self._key(record.point) for record in self._trials if record.energy_j is not None}
        untried = [one for one in self._all if self._key(one.point) not in tried]
        return promise(untried, expected.energy_j)

    def _replay(self, usable: Sequence[int]) -> dict[int, Predicted]:
        """Tell of trials again in order; what was expected of each just before, by its number."""
        before: dict[int, Predicted] = {}
        if self._search is None:
            return before
        for number in usable:
            record = self._trials[number]
            if number in usable[-REPLAYED:] and number != usable[0]:
                figures = self._search.predict([record.point])[0]
                if _known(figures):
                    before[number] = figures
            try:
                self._search.tell(record.point, record.latency_s or math.nan, record.energy_j or math.nan)
            except (UnknownPoint, ValueError) as error:
                log.warning("trial %d teaches nothing: %s", number + 1, error)
        return before

    def _opinions(self) -> list[Expected]:
        if self._search is None:
            return []
        points = self._search.points
        found = map(Expected, map(dict, points), self._search.predict(points))
        return [one for one in found if _sane(one.figures)]

    def _usable(self, record: TrialRecord) -> bool:
        """Whether a trial measured something at a candidate."""
        measured = record.energy_j is not None and record.latency_s is not None
        offered = [record.point.get(name) in values for name, values in self._knobs.items()]
        return measured and all(offered) and len(offered) == len(record.point)

    def _key(self, point: Mapping[str, float]) -> tuple[float | None, ...]:
        return tuple(point.get(name) for name in self._knobs)


def slo_s(log: SubjectLog) -> float:
    """The latency limit of the trials' figures: with several models, all are in the first one's seconds."""
    return log.subject.slos[0].limit_s


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _sane(figures: Predicted) -> bool:
    positive = figures.energy_j > 0 and figures.latency_s > 0
    deviations = figures.energy_deviation, figures.latency_deviation
    finite = all(map(math.isfinite, (figures.energy_j, figures.latency_s, *deviations)))
    return positive and finite and min(deviations) >= 0 and 0 <= figures.probability_feasible <= 1


def _known(figures: Predicted) -> bool:
    return _sane(figures) and max(figures.energy_deviation, figures.latency_deviation) <= VAGUE
