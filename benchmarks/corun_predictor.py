# SPDX-License-Identifier: Apache-2.0
"""How well the predictor knows the latency quantile: replayed over the kept segments in the order they were played.

Segments of the first repeat teach it, each predicted before it is learnt from. Each cell of the second repeat is then
predicted as a whole, from its arrivals and from what training did, and held against the quantile of its requests; the
first repeat of the same cell says how far two measurements are apart. PolyThrottle's linear predictor is taught and
asked the same.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from predictor.corun import CoRunModel, Serving, TrainingSlices
from predictor.nnls import CoRun, NnlsPredictor
from predictor.queueing import ServiceTimes, occupied_s, quantile

from .corun_adaptive import Sizes
from .corun_setup import Setup
from .corun_trainers import BATCHES

QUANTILE = 0.99
ARMS = ("none", "ours")
ENOUGH = 2000
"""Requests behind a quantile that a prediction is judged by."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """Segments of one cell, one after the other: arrivals, what training did, and the quantile within the server."""

    kind: str
    arm: str
    serving: Serving
    training: TrainingSlices | None
    measured_s: float
    requests: int

    @classmethod
    def of(cls, rows: Sequence[Row], services: ServiceTimes, batch_limit: int) -> Case:
        """That of rows of one cell; `services` were measured without training."""
        arrivals_s: list[float] = []
        for row in rows:
            begin_s = arrivals_s[-1] if arrivals_s else 0.0
            arrivals_s += sorted(begin_s + served[0] for served in row["served"])
        seen_s = [served[2] - served[0] for row in rows for served in row["served"]]
        first = rows[0]
        serving = Serving(tuple(arrivals_s), services, batch_limit, name=first["model"])
        desks = [row["desk"] for row in rows if "desk" in row]
        stretches_s = [stretch_s for desk in desks for stretch_s in desk["stretches_s"]]
        duty = statistics.mean(desk["duty"] for desk in desks) if desks else 0.0
        training = TrainingSlices(tuple(stretches_s), duty) if stretches_s and duty else None
        return cls(first["kind"], first["arm"], serving, training, quantile(seen_s, QUANTILE), len(seen_s))


class Taught:
    """Both predictors, taught by the segments of the first repeat in the order they were played."""

    def __init__(self, model: str, cases: Iterable[Case]) -> None:
        self._model, self._sizes = model, Sizes.of(model)
        self._known = CoRunModel()
        self.held: list[bool] = []
        """Whether the interval held, of every case predicted so far."""
        samples = []
        for case in cases:
            band = self._known.observe(case.serving, case.training, QUANTILE, case.measured_s, case.requests)
            self.held.append(band.low_s <= case.measured_s <= band.high_s)
            samples.append((self._setting(case), case.measured_s))
        self._linear = NnlsPredictor.fitted(samples)

    def judged(self, case: Case, repeat_s: float) -> dict[str, Any]:
        """A case that taught nothing: what was predicted and measured, and what was measured the first time."""
        band = self._known.predict(case.serving, case.training, QUANTILE)
        self.held.append(band.low_s <= case.measured_s <= band.high_s)
        return {
            "kind": case.kind,
            "arm": case.arm,
            "measured_s": case.measured_s,
            "predicted_s": band.latency_s,
            "low_s": band.low_s,
            "high_s": band.high_s,
            "repeat_s": repeat_s,
            "nnls_s": self._linear.predict_s(self._setting(case)),
        }

    def _setting(self, case: Case) -> CoRun:
        trained = BATCHES[self._model] if case.training else 0
        return CoRun(self._sizes.inference(1), self._sizes.training(trained), 1)


def judge(model: str, rows: Iterable[Row], setup: Setup) -> dict[str, Any] | None:
    """The predictor's error on one model's cells beside that of a repeat; None while there is nothing to judge by."""
    repeats: dict[int, dict[tuple[str, str], list[Row]]] = {0: defaultdict(list), 1: defaultdict(list)}
    played = sorted((row for row in rows if row["arm"] in ARMS), key=lambda row: row["at_s"])
    for row in played:
        repeats[row["repeat"]][row["kind"], row["arm"]].append(row)
    # what a governor has timed last is the load that it is asked about
    services = {kind: alone(own, setup) for (kind, arm), own in repeats[0].items() if arm == "none"}

    def case(own: Sequence[Row]) -> Case:
        return Case.of(own, services.get(own[0]["kind"], setup.service_times), setup.batch_limit)

    pairs = [(case(first), case(repeats[1][cell])) for cell, first in repeats[0].items() if repeats[1][cell]]
    pairs = [pair for pair in pairs if min(case.requests for case in pair) >= ENOUGH]
    if not pairs:
        return None
    taught = Taught(model, (case([row]) for row in played if row["repeat"] == 0))
    cells = [taught.judged(second, first.measured_s) for first, second in pairs]
    return {
        "model": model,
        "quantile": QUANTILE,
        "mape": _mape(cells, "predicted_s"),
        "repeat_mape": _mape(cells, "repeat_s"),
        "nnls_mape": _mape(cells, "nnls_s"),
        "held_share": statistics.mean(taught.held),
        "intervals": len(taught.held),
        "cells": cells,
    }


def alone(rows: Sequence[Row], setup: Setup) -> ServiceTimes:
    """Service times by batch size of segments without training, each batch once, with what passed before it began."""
    sizes: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        free_s = 0.0
        for arrival_s, start_s, end_s, size in row["served"]:
            if end_s > free_s:
                sizes[size].append(occupied_s(arrival_s, start_s, end_s, free_s))
                free_s = end_s
    seconds = {size: tuple(times_s) for size, times_s in sizes.items()}
    return ServiceTimes(seconds) if seconds else setup.service_times


def _mape(cells: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.mean(abs(float(cell[name]) / float(cell["measured_s"]) - 1) for cell in cells)
