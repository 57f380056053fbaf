# SPDX-License-Identifier: Apache-2.0
"""Histories made by hand, and a search that expects what a formula says of every point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from governor.explain.opinions import chance
from governor.guard import Slo
from governor.history import HOLD, History, Subject
from governor.points import Best, Point, Predicted, Table
from governor.subjects import SubjectLog, read_subjects
from governor.trial import Feasible, Invalid, Outcome, TrialRecord, Violated

SLO_S = 0.050
KNOBS = {"gpu_hz": (300e6, 600e6, 900e6), "batch": (1.0, 2.0, 4.0)}
SUBJECT = Subject("virtual:agx-orin", True, ("resnet18",), (Slo(0.95, SLO_S),), KNOBS, ("1",))


def point(gpu_mhz: float, batch: float) -> Point:
    return {"gpu_hz": gpu_mhz * 1e6, "batch": batch}


TOP, CHEAP, SLOW = point(900, 1), point(600, 2), point(300, 4)


def energy_j(at: Mapping[str, float]) -> float:
    """1.5 J at 900 MHz and batch 1; less at lower clocks and larger batches."""
    return (0.6 + at["gpu_hz"] / 1e9) / at.get("batch", 1.0) ** 0.25


def latency_s(at: Mapping[str, float]) -> float:
    """20 ms at 900 MHz and batch 1; more at lower clocks and larger batches."""
    return 0.018 / (at["gpu_hz"] / 1e9) * at.get("batch", 1.0) ** 0.5


def trial(at: Point, outcome: Outcome | None = None) -> TrialRecord:
    """A trial that measured exactly what the formulas say, judged by the SLO."""
    if isinstance(outcome, Invalid):
        return TrialRecord(at, outcome, window_s=1.5)
    verdict = outcome or (Feasible() if latency_s(at) <= SLO_S else Violated())
    return TrialRecord(at, verdict, energy_j(at), latency_s(at), 6.0, 91, latency_s(at), 0.0, 0, 0.02, 0.1)


class Formula:
    """Expects what the formulas say, the surer the more it was told."""

    def __init__(
        self,
        knobs: Mapping[str, Sequence[float]],
        slo_s: float,
        prior: Sequence[Table] = (),
        rate_hz: float | None = None,
    ) -> None:
        self.points = [dict(zip(knobs, values, strict=True)) for values in itertools.product(*knobs.values())]
        self.prior, self.rate_hz = prior, rate_hz
        self.told: list[Point] = []
        self._slo_s = slo_s

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        if not (latency_s > 0 and energy_j > 0):
            raise ValueError("not a measurement")
        self.told.append(dict(point))

    def predict(self, points: Sequence[Mapping[str, float]]) -> list[Predicted]:
        deviation = 0.2 / len(self.told) if self.told else 2.0
        found = [Predicted(energy_j(at), latency_s(at), deviation, deviation / 2, math.nan) for at in points]
        return [replace(one, probability_feasible=chance(one, self._slo_s)) for one in found]

    def best(self) -> Best | None:
        kept = [at for at in self.told if latency_s(at) <= self._slo_s]
        best = min(kept, key=energy_j, default=None)
        return best and Best(best, energy_j(best), latency_s(best), 1.0)


def written(folder: Path, rows: Sequence[TrialRecord | tuple[str, dict[str, Any]]], subject: Subject = SUBJECT) -> Path:
    """A history of these trials and notes, in this order, in `folder`; its file."""
    history = History(folder, subject)
    try:
        for number, row in enumerate(rows):
            if isinstance(row, TrialRecord):
                history.add(row, float(number), {"a": 15.0, "b": 5.0})
            else:
                history.note(row[0], float(number), **row[1])
    finally:
        history.close()
    return history.path


def held(at: Point, *, feasible: bool = True) -> tuple[str, dict[str, Any]]:
    return HOLD, {"point": at, "feasible": feasible}


def log_of(folder: Path, *rows: TrialRecord | tuple[str, dict[str, Any]]) -> SubjectLog:
    return read_subjects(written(folder, rows))[-1]
