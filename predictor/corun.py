# SPDX-License-Identifier: Apache-2.0
"""The latency quantile of inference beside training, with an interval, calibrated while it is used.

q = exp(b) * quantile(replay(arrivals, service times at these clocks, training in the gaps))

The replay is a queue with vacations (`vacations`), its unknowns are terms of interference (`interference`), both follow
what is measured (`calibrate`). PolyThrottle's predictor, against which this is measured, is in `nnls`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .calibrate import Conformal, Filter, Outlook
from .interference import TERMS, Interference, centred
from .queueing import Replay, ServiceTimes, quantile, replay
from .typical import typical
from .vacations import SLICE_S, Vacations

TARGET = 0.92
"""Share of windows whose measured quantile the interval is to hold: nine in ten are promised, after few windows too."""

WINDOWS = 200
"""Windows over which the model's error is published."""

_DELTA, _COLDER = 0.1, 0.25
_BLOCKS = 25


@dataclass(frozen=True, slots=True)
class Serving:
    """One served model: a trace of arrivals in seconds, its service times measured *without* training, its batching.

    `slowdown` is how many times longer a batch takes at the clocks asked about than at those it was measured at.
    Calibration is kept apart for each `name`. Raises `ValueError` where a figure makes no sense.
    """

    arrivals_s: Sequence[float]
    services: ServiceTimes
    batch_limit: int
    batch_wait_s: float = 0.0
    slowdown: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if self.batch_limit < 1:
            raise ValueError(f"batch_limit must be at least 1, not {self.batch_limit}")
        if not 0 < self.slowdown < math.inf:
            raise ValueError(f"slowdown must be positive and finite, not {self.slowdown}")


@dataclass(frozen=True, slots=True)
class TrainingSlices:
    """Training as the gate lets it run: stretches in seconds that cannot be interrupted, duty, and resource mix.

    `mix` is the share of its time that memory traffic bounds. `slice_s` is the longest it goes before it rests as its
    duty asks. `slowdown` as in `Serving`, for the stretches.
    """

    stretches_s: Sequence[float]
    duty: float = 1.0
    mix: float = 0.5
    slice_s: float = SLICE_S
    slowdown: float = 1.0


@dataclass(frozen=True, slots=True)
class Band:
    """A latency quantile in seconds, the interval for what will be measured, and the share of time training gets."""

    latency_s: float
    low_s: float
    high_s: float
    training_share: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelError:
    """How wrong the model was: mean absolute relative error, share of intervals that held, over so many windows."""

    mape: float
    held_share: float
    windows: int


class CoRunModel:
    """Predicts the latency quantile of served models beside training; each measured window makes it better."""

    def __init__(self, target: float = TARGET) -> None:
        self._target = target
        self._filters: dict[str, Filter] = {}
        self._intervals: dict[str, Conformal] = {}
        self._past: deque[tuple[float, bool]] = deque(maxlen=WINDOWS)

    def predict(
        self, serving: Serving, training: TrainingSlices | None, quantile: float, requests: int | None = None
    ) -> Band:
        """The `quantile` of latency; the interval is for a measurement over `requests`, by default as many as arrive.

        `training` None asks about serving alone. Raises `ValueError` without arrivals.
        """
        return self._banded(serving, *self._outlook(serving, training, quantile, requests))

    def late_alone(self, serving: Serving, limit_s: float, since_s: float = -math.inf) -> float:
        """The share of requests from `since_s` on that take longer without training, at the least; 0 without any.

        Those before count as whom others waited for. What requests took longer than replayed is left out: it was learnt
        beside training, too. Safe beside `observe` in a thread. Raises `ValueError` without arrivals.
        """
        found = _replayed(replace(serving, services=typical(serving.services)), None, 1.0, 0.0, 0.0)
        quicker = math.exp(min(0.0, self.interference(serving.name)["bias"]))
        own_s = found.latencies_s[bisect_left(serving.arrivals_s, since_s) :]
        return sum(quicker * latency_s > limit_s for latency_s in own_s) / max(1, len(own_s))

    def observe(
        self, serving: Serving, training: TrainingSlices | None, quantile: float, measured_s: float, requests: int
    ) -> Band:
        """Learn from a window whose `requests` had this quantile; returns what had been predicted for it."""
        if not (0 < measured_s < math.inf and requests > 0):
            raise ValueError(f"a quantile of {measured_s} s over {requests} requests is no measurement")
        outlook, found = self._outlook(serving, training, quantile, requests)
        band = self._banded(serving, outlook, found)
        residual = math.log(measured_s) - outlook.log_s
        held = band.low_s <= measured_s <= band.high_s
        filtered = self._filter(serving)
        self._interval(serving).learn(residual / filtered.deviation(outlook), held)
        filtered.learn(outlook, residual)
        self._past.append((abs(band.latency_s / measured_s - 1), held))
        return band

    @property
    def error(self) -> ModelError:
        """The error over the latest windows, each predicted before it was learnt from; NaN before the first."""
        count = len(self._past)
        if not count:
            return ModelError(math.nan, math.nan, 0)
        return ModelError(sum(off for off, _ in self._past) / count, sum(held for _, held in self._past) / count, count)

    def interference(self, name: str = "") -> Interference:
        """The terms as calibrated for one served model."""
        return self._filters.get(name, Filter()).terms

    def _filter(self, serving: Serving) -> Filter:
        return self._filters.setdefault(serving.name, Filter())

    def _interval(self, serving: Serving) -> Conformal:
        return self._intervals.setdefault(serving.name, Conformal(self._target))

    def _outlook(
        self, serving: Serving, training: TrainingSlices | None, quantile: float, requests: int | None
    ) -> tuple[Outlook, Replay]:
        return _outlook(self._filter(serving).terms, serving, training, quantile, requests or len(serving.arrivals_s))

    def _banded(self, serving: Serving, outlook: Outlook, found: Replay) -> Band:
        low, high = self._interval(serving).bounds
        sd, usual_s = self._filter(serving).deviation(outlook), math.exp(outlook.log_s)
        return Band(usual_s, usual_s * math.exp(low * sd), usual_s * math.exp(high * sd), found.training_share)


def _outlook(
    terms: Interference, serving: Serving, training: TrainingSlices | None, q: float, requests: int
) -> tuple[Outlook, Replay]:
    """The replay at these terms, and how its quantile moves with each of them (finite differences)."""
    log_slowdown, trains = math.log(serving.slowdown), training is not None and training.duty > 0
    stretch = terms.stretch(serving.slowdown)
    known = sum(map(len, serving.services.seconds.values()))
    serving = replace(serving, services=typical(serving.services))
    slopes = dict.fromkeys(TERMS, 0.0) | {"bias": 1.0}
    block = cold = 0.0
    if training is not None and trains:
        block, cold = terms.block(training.mix), terms.cold(training.mix, log_slowdown)
    found = _replayed(serving, training, stretch, block, cold)
    base = math.log(found.quantile_s(q))

    def moved(stretch: float, block: float, cold: float) -> float:
        return math.log(_replayed(serving, training, stretch, block, cold).quantile_s(q)) - base

    if log_slowdown:
        slopes["clock"] = moved(stretch * math.exp(_DELTA), block, cold) / _DELTA * log_slowdown
    if training is not None and trains:
        # not the slope here but the way to the bound: beyond it the cost grows no further
        delta = 1 - block if block <= 1 - _DELTA else -_DELTA
        by_block, by_cold = moved(stretch, block + delta, cold) / delta, moved(stretch, block, cold + _COLDER) / _COLDER
        mix = centred(training.mix)
        slopes |= {"beside": 1.0, "block": by_block, "block_mix": by_block * mix}
        slopes |= {"cold": by_cold, "cold_mix": by_cold * mix, "cold_clock": by_cold * log_slowdown}
    log_s = base + terms["bias"] + (terms["beside"] if trains else 0.0)
    return Outlook(log_s, tuple(slopes.values()), _sampling_variance(found, q, requests, known)), found


def _replayed(serving: Serving, training: TrainingSlices | None, stretch: float, block: float, cold: float) -> Replay:
    services = serving.services if stretch == 1 else serving.services.stretched(stretch, serving.services.lean)
    vacations = None
    if training is not None and training.duty > 0:
        stretches_s = tuple(training.slowdown * stretch_s for stretch_s in training.stretches_s)
        vacations = Vacations(stretches_s, training.duty, training.slice_s, block, cold)
    return replay(serving.arrivals_s, services, serving.batch_limit, serving.batch_wait_s, vacations)


def _sampling_variance(found: Replay, q: float, requests: int, known: int) -> float:
    """Variance of the log quantile of `requests` requests around the replay's, which was made of `known` service times.

    Ranks are binomial, were requests independent; late ones come in rows, so that fewer count than were seen.
    """
    latencies_s = found.latencies_s
    count, limit_s = len(latencies_s), found.quantile_s(q)
    size = max(1, count // _BLOCKS)
    shares = [
        sum(latency_s > limit_s for latency_s in latencies_s[begin : begin + size]) / size
        for begin in range(0, count - size + 1, size)
    ]
    mean = sum(shares) / len(shares)
    between = sum((share - mean) ** 2 for share in shares) / max(1, len(shares) - 1)
    alone = q * (1 - q) / size
    crowding = max(1.0, between / alone) if alone else 1.0
    spread = math.sqrt(q * (1 - q) * crowding * (1 / requests + 1 / count + 1 / known))
    low_s, high_s = quantile(latencies_s, max(0.0, q - spread)), quantile(latencies_s, min(1.0, q + spread))
    return (math.log(high_s / low_s) / 2) ** 2
