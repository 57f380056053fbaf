# SPDX-License-Identifier: Apache-2.0
"""What a window of live traffic says about one point: joules per request at the offered load, and a latency quantile.

A few seconds of Poisson traffic hold more luck than signal: at 15 requests a second, a five-second window sees 75 +- 9
arrivals, and idle energy per request varies as much. Both figures are therefore brought to the load offered over the
whole run. Energy: power is close to linear in the device's busy share, so a line through the window's segments gives it
at the busy share which the long-run load implies. Latency: the window's service times are replayed against the arrivals
of the whole run (`predictor.queueing`), which also makes trials comparable with one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from predictor.queueing import ServiceTimes, quantile, replay
from telemetry.instance_page import Sample, Status

from .guard import Slo

SEGMENT_S = 0.5
"""Length of the segments whose power is compared with their busy share; longer than the INA3221's 430 ms average."""

HOPELESS = 4.0
"""Latencies beyond this multiple of the limit are reported as this multiple: how far beyond says nothing useful."""


ENOUGH_REQUESTS = 150
"""Before as many requests the tail of what was seen says nothing about that of the replay."""


TRAFFIC = frozenset({"load", "idle", "backlog"})
"""Reasons of invalid trials that lie in the traffic: it changed, there was none, or too much of it was waiting."""

REQUEST_FAILED = frozenset({"clocks", "denied", "busy", "missing", "refused"})
"""Those of trials whose clocks did not follow, or could not be asked for."""


@dataclass(frozen=True, slots=True)
class Feasible:
    """The point keeps the SLO."""


@dataclass(frozen=True, slots=True)
class Violated:
    """The point breaks the SLO."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """Nobody could measure the point, for this reason; such a trial is kept but never learnt from."""

    reason: str


Outcome = Feasible | Violated | Invalid


@dataclass(frozen=True, slots=True)
class Tick:
    """Counters at one moment: CLOCK_MONOTONIC seconds, joules, and per-board sums of busy seconds and requests."""

    at_s: float
    energy_j: float
    busy_s: float
    requests: int
    error_j: float = 0.0
    """Bound on what sampling may have missed of the joules."""
    power_w: float = 0.0
    missing_s: float = 0.0
    """Seconds without a power reading."""


@dataclass(frozen=True, slots=True)
class ModelWindow:
    """One model's traffic: requests finished in the window, and arrivals (seconds) of the whole run so far."""

    samples: tuple[Sample, ...]
    arrivals_s: tuple[float, ...]
    slo: Slo
    batch_limit: int
    batch_wait_s: float = 0.0
    surprise: float = 1.0
    """How much longer than replayed requests were seen to take; see `surprise`."""

    @property
    def rate_hz(self) -> float:
        """Requests per second offered over the whole run; 0 with fewer than two arrivals."""
        if len(self.arrivals_s) < 2:
            return 0.0
        return (len(self.arrivals_s) - 1) / (self.arrivals_s[-1] - self.arrivals_s[0])


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One finished trial; `latency_s`: the constrained quantile at the offered load of the model nearest its limit."""

    point: dict[str, float]
    outcome: Outcome
    energy_j: float | None = None
    latency_s: float | None = None
    window_s: float = 0.0
    requests: int = 0
    measured_latency_s: float | None = None
    """The window's own quantile, luck included."""
    energy_error_j: float = 0.0
    """Bound on the error of all the window's joules."""
    brief_throttles: int = 0
    """Brief over-current events in the window, too few to spoil it."""

    def invalidated(self, reason: str) -> TrialRecord:
        """The same trial as one that measured nothing that can be trusted."""
        return TrialRecord(self.point, Invalid(reason), window_s=self.window_s, requests=self.requests)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a trial's window held: enough to judge the trial again once more of the load is known."""

    ticks: tuple[Tick, ...]
    models: Mapping[str, ModelWindow]
    """By instance."""
    failed: int = 0
    energy_error_j: float = 0.0
    brief_throttles: int = 0

    def under(self, arrivals_s: Mapping[str, tuple[float, ...]], surprises: Mapping[str, float]) -> Evidence:
        """The same evidence under other arrivals and surprises, by instance."""
        models = {
            name: replace(window, arrivals_s=arrivals_s[name], surprise=surprises.get(name, 1.0))
            for name, window in self.models.items()
        }
        return replace(self, models=models)

    def record(self, point: dict[str, float]) -> TrialRecord:
        """The record of the trial."""
        record = conclude(point, self.ticks, list(self.models.values()), self.failed)
        return replace(record, energy_error_j=self.energy_error_j, brief_throttles=self.brief_throttles)


def energy_per_request_j(ticks: Sequence[Tick], rate_hz: float) -> float:
    """Joules per request at `rate_hz`, idle energy included; `ValueError` if the window holds no request or no time."""
    span_s = ticks[-1].at_s - ticks[0].at_s
    requests = ticks[-1].requests - ticks[0].requests
    if span_s <= 0 or requests <= 0 or rate_hz <= 0:
        raise ValueError("no energy per request without time, requests and load")
    power_w = (ticks[-1].energy_j - ticks[0].energy_j) / span_s
    busy = (ticks[-1].busy_s - ticks[0].busy_s) / span_s
    implied = min(1.0, rate_hz * (ticks[-1].busy_s - ticks[0].busy_s) / requests)
    return (power_w + _slope_w(ticks) * (implied - busy)) / rate_hz


def _slope_w(ticks: Sequence[Tick]) -> float:
    """Watts per unit of busy share: least squares over segments, never negative, 0 if they do not differ."""
    rows, first = [], ticks[0]
    for tick in ticks[1:]:
        if (span_s := tick.at_s - first.at_s) >= SEGMENT_S:
            rows.append(((tick.busy_s - first.busy_s) / span_s, (tick.energy_j - first.energy_j) / span_s))
            first = tick
    if len(rows) < 3:
        return 0.0
    mean_busy = sum(busy for busy, _ in rows) / len(rows)
    mean_w = sum(power for _, power in rows) / len(rows)
    spread = sum((busy - mean_busy) ** 2 for busy, _ in rows)
    together = sum((busy - mean_busy) * (power - mean_w) for busy, power in rows)
    return max(0.0, together / spread) if spread > 1e-6 else 0.0


def service_times(samples: Sequence[Sample]) -> ServiceTimes:
    """Service times by batch size, each batch counted once; `ValueError` if no request was served."""
    served = sorted((sample for sample in samples if sample.status is Status.OK), key=lambda sample: sample.start_ns)
    batches = list({sample.start_ns: sample for sample in served}.values())
    sizes: dict[int, list[float]] = {}
    for sample in batches:
        sizes.setdefault(sample.batch, []).append(sample.service_s)
    # where the next batch waited already, what passed before it began is the server's own
    between = [
        (after.start_ns - before.end_ns) / 1e9
        for before, after in pairwise(batches)
        if after.arrival_ns < before.end_ns <= after.start_ns
    ]
    turnaround_s = sum(between) / len(between) if between else 0.0
    return ServiceTimes({size: tuple(times) for size, times in sizes.items()}, turnaround_s)


def latency_at_load_s(window: ModelWindow) -> float:
    """The SLO's quantile of latency when the whole run's arrivals meet this window's service times, in seconds."""
    replayed = replay(window.arrivals_s, service_times(window.samples), window.batch_limit, window.batch_wait_s)
    return min(replayed.quantile_s(window.slo.quantile) * window.surprise, HOPELESS * window.slo.limit_s)


def surprise(windows: Sequence[ModelWindow]) -> float:
    """The factor by which one instance's real latencies exceed the replay at the SLO's quantile; never below 1.

    Real service times come in slow and fast spells, which a replay that draws them one by one does not know. Pooled
    over all trials that kept the SLO: the quantile of latency over replayed quantile; 1 before `ENOUGH_REQUESTS`.
    """
    ratios: list[float] = []
    for window in windows:
        replayed_s = latency_at_load_s(replace(window, surprise=1.0))
        if replayed_s <= window.slo.limit_s:
            ratios += [sample.latency_s / replayed_s for sample in window.samples]
    if len(ratios) < ENOUGH_REQUESTS:
        return 1.0
    return max(1.0, quantile(ratios, windows[0].slo.quantile))


def conclude(
    point: dict[str, float], ticks: Sequence[Tick], models: Sequence[ModelWindow], failed: int = 0
) -> TrialRecord:
    """The record of one trial; `Invalid` if a model served nothing (`idle`) or no joules were counted (`energy`).

    A failed request is a violation: the share of them lifts the latency from the limit towards a hopeless one. With
    several models the latency is that of the one nearest its limit, expressed in the first model's seconds.
    """
    requests = sum(len(model.samples) for model in models)
    span_s = ticks[-1].at_s - ticks[0].at_s if len(ticks) > 1 else 0.0
    try:
        energy_j = energy_per_request_j(ticks, sum(model.rate_hz for model in models))
        predicted = max(latency_at_load_s(model) / model.slo.limit_s for model in models)
    except (ValueError, IndexError):
        return TrialRecord(point, Invalid("idle"), window_s=span_s, requests=requests)
    if not (math.isfinite(energy_j) and energy_j > 0):
        return TrialRecord(point, Invalid("energy"), window_s=span_s, requests=requests)
    if failed:
        predicted = max(predicted, 1.0 + (HOPELESS - 1.0) * failed / (failed + requests))
    outcome = Violated() if predicted > 1.0 else Feasible()
    measured = max(_measured_s(model) / model.slo.limit_s for model in models)
    unit_s = models[0].slo.limit_s
    return TrialRecord(point, outcome, energy_j, predicted * unit_s, span_s, requests, measured * unit_s)


def _measured_s(window: ModelWindow) -> float:
    return quantile([sample.latency_s for sample in window.samples], window.slo.quantile)
