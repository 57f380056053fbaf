# SPDX-License-Identifier: Apache-2.0
"""The report on one subject: what was tried, what is held, and what the fitted surfaces say of the rest. Pure data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ..points import Point
from ..subjects import Hold, SubjectLog
from ..trial import TrialRecord
from .forecast import Choice, Forecast, MakeForecaster, Tried, slo_s
from .opinions import Expected, Price, Promise, Worth, cheapest, frontier, likely_s

FACTORS = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
"""Multiples of the SLO that are priced."""


class Answer(Enum):
    """What the history comes to."""

    KEPT = "kept"
    """A point tried keeps the SLO."""
    BROKEN = "broken"
    """No point tried does."""
    UNMEASURED = "unmeasured"
    """Every trial was invalid."""
    EMPTY = "empty"
    """Nothing was tried."""


@dataclass(frozen=True, slots=True)
class Saving:
    """Share of joules per request that the chosen point saves against maximum clocks.

    As the surfaces expect, and as trials measured where both points were tried; None where that is not known.
    """

    expected: float | None
    measured: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Why this point. What rests on surfaces is empty, or None, before `ENOUGH` trials were measured."""

    log: SubjectLog
    slo_s: float
    damaged: int
    """Records of the whole history that could not be read."""
    others: tuple[SubjectLog, ...]
    """The history's other subjects."""
    answer: Answer
    trials: tuple[Tried, ...]
    best: Choice | None
    """The best point that these trials alone name."""
    chosen: Choice | None
    """The point this report is about: the one held now, else the best."""
    top: Choice | None
    """Maximum clocks at their best batch limit."""
    saving: Saving | None
    worths: tuple[Worth, ...]
    slices: Mapping[str, tuple[Expected, ...]]
    """Through the chosen point, along each knob that has more than one value."""
    frontier: tuple[Expected, ...]
    prices: tuple[Price, ...]
    free: Expected | None
    """The cheapest point expected if there were no SLO."""
    promise: Promise | None
    fastest: TrialRecord | None
    """The trial with the lowest latency."""
    reachable: Expected | None
    """The point expected to be the fastest; `likely_s` is an SLO that it would keep."""

    @property
    def virtual(self) -> bool:
        """Whether every figure is one of a virtual board."""
        return self.log.subject.virtual

    @property
    def quantile(self) -> str:
        """The quantile that the SLO constrains, such as p95."""
        return f"p{self.log.subject.slos[0].quantile * 100:g}"

    @property
    def hold(self) -> Hold | None:
        """The last hold since the search was last opened."""
        return _last_hold(self.log)

    @property
    def held_now(self) -> bool:
        """Whether no trial has come since the last hold."""
        return self.hold is not None and self.hold.trials == len(self.log.trials)

    @property
    def chance(self) -> float | None:
        """Probability that the chosen point keeps the SLO, by the surfaces."""
        expected = self.chosen.expected if self.chosen else None
        return expected.probability_feasible if expected else None


def make_report(log: SubjectLog, make: MakeForecaster, damaged: int = 0, others: Sequence[SubjectLog] = ()) -> Report:
    """The report on a subject; raises `ValueError` on one without an SLO."""
    if not log.subject.slos:
        raise ValueError("a subject without an SLO cannot be explained")
    knobs = log.subject.knobs
    forecast = Forecast(log, make)
    hold = _last_hold(log)
    held = hold.point if hold and hold.feasible and hold.trials == len(log.trials) else None
    chosen = held or forecast.best
    chosen_choice, best_choice, top_choice = (
        forecast.choice(point) if point else None for point in (chosen, forecast.best, forecast.top())
    )
    measured = [tried.record for tried in forecast.tried if tried.record.latency_s is not None]
    return Report(
        log=log,
        slo_s=slo_s(log),
        damaged=damaged,
        others=tuple(others),
        answer=_answer(forecast.tried, measured, chosen),
        trials=forecast.tried,
        best=best_choice,
        chosen=chosen_choice,
        top=top_choice,
        saving=_saving(chosen_choice, top_choice),
        worths=forecast.worths(chosen) if chosen else (),
        slices={name: forecast.along(chosen, name) for name in knobs if len(knobs[name]) > 1} if chosen else {},
        frontier=tuple(frontier(forecast.known)),
        prices=tuple(forecast.price(factor) for factor in FACTORS) if forecast.known else (),
        free=cheapest(forecast.known),
        promise=forecast.promise(chosen) if chosen else None,
        fastest=min(measured, key=lambda record: record.latency_s or math.inf, default=None),
        reachable=min(forecast.known, key=lambda one: likely_s(one.figures), default=None),
    )


def _last_hold(log: SubjectLog) -> Hold | None:
    """The last hold, None if the search was opened again since."""
    if not log.holds:
        return None
    hold = log.holds[-1]
    over = any((opened.trials, opened.at_s) >= (hold.trials, hold.at_s) for opened in log.reopenings)
    return None if over else hold


def _answer(tried: Sequence[Tried], measured: Sequence[TrialRecord], chosen: Point | None) -> Answer:
    if chosen is not None:
        return Answer.KEPT
    if measured:
        return Answer.BROKEN
    return Answer.UNMEASURED if tried else Answer.EMPTY


def _saving(chosen: Choice | None, top: Choice | None) -> Saving | None:
    if chosen is None or top is None:
        return None
    expected = _share(chosen.expected_j, top.expected_j)
    measured = _share(chosen.energy_j, top.energy_j)
    return None if expected is None and measured is None else Saving(expected, measured)


def _share(energy_j: float | None, top_j: float | None) -> float | None:
    return None if energy_j is None or top_j is None else 1 - energy_j / top_j
