# SPDX-License-Identifier: Apache-2.0
"""Points of the search space, and what a search must offer. Nothing here needs torch: `search.py` alone does."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from boards.clocks import KNOBS, ClockPoint, ClockTable

from .traffic import batch_values
from .trial import TrialRecord

Point = dict[str, float]


@dataclass(frozen=True, slots=True)
class Best:
    """The point to run at: its joules per request, latency quantile in seconds, and the chance that it is feasible."""

    point: Point
    energy_j: float
    latency_s: float
    probability_feasible: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next point to try, None when the budget is spent or the search is done; the best so far, None if none is."""

    next: Point | None
    best: Best | None
    verdict: str = ""
    """Why there is no best point, in words, once that is certain."""
    insists: bool = False
    """Whether the search has nothing to try but points that are avoided for now: it may be asked again later."""
    strayed: int = 0
    """Points off the table that it proposed before."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a search expects of a point; deviations are those of the logs, so 0.05 is about 5 %."""

    energy_j: float
    latency_s: float
    energy_deviation: float
    latency_deviation: float
    probability_feasible: float


Table = Mapping[str, Any]
"""Measurements as equally long arrays under the knobs' names plus `latency_s`, `energy_j` (J per request) and, where
known, `power_w` and `flagged` (1: suspect); a text `name` beside them, and `rate_hz`, the requests per second offered,
unless batches followed one another without a pause."""


class Searcher(Protocol):
    """What proposes points; `search.Search` in the product."""

    knobs: dict[str, tuple[float, ...]]
    """The values of each knob searched, ascending."""

    def ask(self) -> Point | None:
        """The next point to try, None when no more are worth it; raises `Infeasible`."""
        ...

    def tell(self, point: Mapping[str, float], latency_s: float, energy_j: float) -> None:
        """What a trial measured; raises `UnknownPoint`."""
        ...

    def forget(self) -> None:
        """Forget what was told, to be told again."""
        ...

    def best(self) -> Best | None:
        """The best point so far."""
        ...


@runtime_checkable
class KnowsLoad(Protocol):
    """A search to which the load matters."""

    rate_hz: float | None
    """Requests per second offered to the whole board; told anew, before the trials are, as it is known better."""


class MakeSearch(Protocol):
    """What makes searches."""

    def __call__(
        self,
        knobs: Mapping[str, Sequence[float]],
        slo_s: float,
        seed: int,
        prior: Sequence[Table] | None = None,
        regret: float | None = None,
    ) -> Searcher:
        """A search over `knobs` for a latency limit in seconds, with what was measured of other workloads.

        With `regret` it ends once no point is expected to be better than the best by more than that share.
        """
        ...


def bayesian_search(
    knobs: Mapping[str, Sequence[float]],
    slo_s: float,
    seed: int,
    prior: Sequence[Table] | None = None,
    regret: float | None = None,
) -> Searcher:
    """The product's search; importing torch for it takes seconds, so that it happens no earlier than here."""
    from .search import Search

    return Search(knobs, slo_s, seed, prior, regret)


def is_batch(knob: str) -> bool:
    """Whether a knob is a batch limit: `batch`, or `batch.MODEL` where several models share the board."""
    return knob == "batch" or knob.startswith("batch.")


def clocks_of(point: Mapping[str, float], table: ClockTable) -> ClockPoint:
    """The clocks of a search point. The GPU's lower limit is pinned to its upper one, where the board has one."""
    clocks = {name: int(value) for name, value in point.items() if not is_batch(name)}
    if "gpu_hz" in clocks and table.gpu_min_hz:
        clocks["gpu_min_hz"] = clocks["gpu_hz"]
    return ClockPoint(**clocks)


def knob_values(
    names: Collection[str], table: ClockTable, max_batches: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """The values to search: what the board offers, and the batch limits of each model up to its largest."""
    values: dict[str, tuple[int, ...]] = {
        name: offered for name in names if not is_batch(name) and (offered := getattr(table, name))
    }
    if "batch" in names:
        values |= {batch_knob(model, max_batches): batch_values([top]) for model, top in sorted(max_batches.items())}
    return values


def batch_knob(model: str, models: Collection[str]) -> str:
    """The name of a model's batch limit among the `models` that share the board."""
    return f"batch.{model}" if len(models) > 1 else "batch"


def without(table: ClockTable, knobs: Collection[str]) -> ClockTable:
    """The table without these knobs."""
    return replace(table, **{knob: () for knob in KNOBS if knob in knobs})


def project(records: Sequence[TrialRecord], knobs: Collection[str]) -> list[TrialRecord]:
    """The trials as a search over fewer knobs sees them, with points of these knobs alone.

    Of trials that differ only in knobs left out, those count that had these highest: there a knob stays, within its
    power mode, that nobody asks for.
    """
    dropped = sorted({name for record in records for name in record.point} - set(knobs))
    rows = [
        (
            replace(record, point={name: record.point[name] for name in record.point if name in knobs}),
            tuple(record.point.get(name, math.inf) for name in dropped),
        )
        for record in records
        if set(knobs) <= set(record.point)
    ]
    highest: dict[tuple[tuple[str, float], ...], tuple[float, ...]] = {}
    for record, height in rows:
        key = tuple(sorted(record.point.items()))
        highest[key] = max(height, highest.get(key, height))
    return [record for record, height in rows if height == highest[tuple(sorted(record.point.items()))]]
