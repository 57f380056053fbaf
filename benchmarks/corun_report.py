# SPDX-License-Identifier: Apache-2.0
"""What the segments of `make bench-corun` come to: a row per cell of model, arrivals and arm, with intervals; targets.

Arms of one segment saw the same arrivals, so they are compared request block by request block: whole blocks are drawn
again with replacement, the same ones of both arms (a paired block bootstrap), which keeps what queues make of
neighbouring requests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .targets import Target, count

BLOCK = 50
"""Requests that are drawn together: at the loads offered no queue lasts longer."""
DRAWS, COVER = 500, 0.95
FLOOR_LATE = 0.0167
"""Late requests without training under Poisson arrivals in PolyThrottle's Table 5; the limit is set to give that."""
OVER_FLOOR, HARVEST, P99_RATIO = 0.005, 0.8, 1.2
MAPE, OF_REPEAT, HELD = 0.10, 0.03, 0.9
Values = npt.NDArray[np.float64]
Cell = tuple[str, str, str]
"""Model, kind of arrivals, arm."""
Turn = tuple[int, int]
"""Seed of a trace, and which repeat of it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One trace, sent once beside one arm; a request that failed took for ever.

    `idle_share`: of the time, without any request in flight.
    """

    latencies_s: Values
    slo_s: float
    steps_hz: float
    idle_share: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Segment:
        """That of a kept row."""
        latencies_s = np.array([np.inf if one is None else one for one in row["latencies_s"]])
        return cls(latencies_s, row["slo_s"], row["steps"] / row["span_s"], row["idle_share"])

    def blocks(self) -> list[Values]:
        """Its latencies, `BLOCK` at a time."""
        return [self.latencies_s[begin : begin + BLOCK] for begin in range(0, len(self.latencies_s), BLOCK)]


Segments = Mapping[Turn, Segment]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and where it lies with 95 % confidence as far as resampling tells."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Compared:
    """A cell's figures; those that compare it are None for the floor itself and where the other side is not there."""

    model: str
    kind: str
    arm: str
    requests: int
    failed: int
    slo_s: float
    late_share: Interval
    over_floor: Interval | None
    p50_s: float
    p99_s: float
    p50_ratio: Interval | None
    p99_ratio: Interval | None
    steps_hz: float
    harvest_share: Interval | None
    idle_share: float


def cells(rows: Iterable[Mapping[str, Any]]) -> dict[Cell, dict[Turn, Segment]]:
    """The segments of each cell."""
    found: dict[Cell, dict[Turn, Segment]] = defaultdict(dict)
    for row in rows:
        found[row["model"], row["kind"], row["arm"]][row["seed"], row["repeat"]] = Segment.of(row)
    return dict(found)


def compare(found: Mapping[Cell, Segments]) -> list[Compared]:
    """The figures of every cell."""
    limits = {model: limit_s(model, found) for model, _, _ in found}
    return [_compared(cell, found, limits[cell[0]]) for cell in found]


def limit_s(model: str, found: Mapping[Cell, Segments]) -> float:
    """What 1.67 % of the requests of Poisson traces without training exceed; as set beforehand if none was sent."""
    floor = found.get((model, "poisson", "none"))
    if floor:
        return quantile(np.concatenate([segment.latencies_s for segment in floor.values()]), 1 - FLOOR_LATE)
    return next(next(iter(segments.values())).slo_s for cell, segments in found.items() if cell[0] == model)


def _compared(cell: Cell, found: Mapping[Cell, Segments], slo_s: float) -> Compared:
    model, kind, arm = cell
    own = found[cell]
    latencies_s = np.concatenate([segment.latencies_s for segment in own.values()])

    def late(drawn: Values) -> float:
        return float(np.mean(drawn > slo_s))

    floor = found.get((model, kind, "none"), {}) if arm != "none" else {}
    naive = found.get((model, kind, "naive"), {}) if arm != "none" else {}
    sides = _paired(own, floor)
    steps = [[np.array([side[turn].steps_hz]) for turn in own if turn in naive] for side in (own, naive)]
    return Compared(
        model=model,
        kind=kind,
        arm=arm,
        requests=len(latencies_s),
        failed=int(np.isinf(latencies_s).sum()),
        slo_s=slo_s,
        late_share=resampled(late, [block for segment in own.values() for block in segment.blocks()]),
        over_floor=resampled(lambda ours, theirs: late(ours) - late(theirs), *sides) if floor else None,
        p50_s=quantile(latencies_s, 0.5),
        p99_s=quantile(latencies_s, 0.99),
        p50_ratio=resampled(lambda ours, theirs: _ratio(ours, theirs, 0.5), *sides) if floor else None,
        p99_ratio=resampled(lambda ours, theirs: _ratio(ours, theirs, 0.99), *sides) if floor else None,
        steps_hz=float(np.mean([segment.steps_hz for segment in own.values()])),
        harvest_share=resampled(lambda ours, theirs: float(ours.sum() / theirs.sum()), *steps) if naive else None,
        idle_share=float(np.mean([segment.idle_share for segment in own.values()])),
    )


def resampled(statistic: Callable[..., float], *sides: Sequence[Values]) -> Interval:
    """A figure of one or more sides' blocks; block n of one side goes with block n of every other."""
    rng = np.random.default_rng(0)
    drawn = [
        statistic(*(np.concatenate([side[one] for one in chosen]) for side in sides))
        for chosen in rng.integers(0, len(sides[0]), (DRAWS, len(sides[0])))
    ]
    low, high = np.quantile(drawn, [(1 - COVER) / 2, (1 + COVER) / 2])
    return Interval(statistic(*(np.concatenate(list(side)) for side in sides)), float(low), float(high))


def quantile(values: Values, q: float) -> float:
    """A value that is there, so that a request that failed makes no other one worse."""
    return float(np.quantile(values, q, method="inverted_cdf"))


def _ratio(ours: Values, theirs: Values, q: float) -> float:
    return quantile(ours, q) / quantile(theirs, q)


def _paired(own: Segments, floor: Segments) -> tuple[list[Values], list[Values]]:
    turns = [turn for turn in own if turn in floor]
    ours = [block for turn in turns for block in own[turn].blocks()]
    return ours, [block for turn in turns for block in floor[turn].blocks()]


def targets(compared: Sequence[Compared], predicted: Sequence[Mapping[str, Any]]) -> list[Target]:
    """What was aimed at: of ours on each trace, and of the predictor on each cell."""
    ours = [(f"{row.model} {row.kind}", row) for row in compared if row.arm == "ours"]
    over = [(name, row.over_floor.value) for name, row in ours if row.over_floor]
    harvest = [(name, row.harvest_share.value) for name, row in ours if row.harvest_share]
    slower = [(name, row.p99_ratio.value) for name, row in ours if row.p99_ratio]
    return [
        count("ours is late at most 0.5 points more often than no training", _at_most(over, OVER_FLOOR)),
        count("ours takes at least 0.8 of naive co-running's steps", [(name, one >= HARVEST) for name, one in harvest]),
        count("p99 beside ours at most 1.2 times that of no training", _at_most(slower, P99_RATIO)),
        count("no request failed beside ours", [(name, not row.failed) for name, row in ours]),
        *_of_predictor(predicted),
    ]


def _of_predictor(predicted: Sequence[Mapping[str, Any]]) -> list[Target]:
    errors = [(row["model"], row["mape"] <= max(MAPE, row["repeat_mape"] + OF_REPEAT)) for row in predicted]
    held = [(row["model"], row["held_share"] >= HELD) for row in predicted]
    return [
        count("the predictor's MAPE is at most 10 %, or within 3 points of that between two repeats", errors),
        count("at least 90 % of its intervals held", held),
    ]


def _at_most(rows: Iterable[tuple[str, float]], limit: float) -> list[tuple[str, bool]]:
    # one request of 200 more is half a point, whatever floats make of 4/200 - 3/200
    return [(name, round(value, 9) <= limit) for name, value in rows]
