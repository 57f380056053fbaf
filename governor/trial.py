# SPDX-License-Identifier: Apache-2.0
"""Trials: what became of one, the evidence that its window held, and the verdict on a point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from predictor.queueing import quantile

from .joules import Joules, Tick, energy_per_request
from .latency import HOPELESS, ModelWindow, busy_at_load, latency_at_load_s, latency_bounds

BEYOND = 1.1
"""Times its limit: told of a point that was proved to break its objective while the replay still thinks it keeps it."""

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
    energy_half_width: float | None = None
    """Relative, of the interval in which `energy_j` lies; None if the window was too short to tell."""
    latency_half_width: float | None = None
    """The same of `latency_s`, of its wider side."""

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
    averaging_s: float = 0.0
    """Of the power sensor."""
    broken: bool = False
    """Whether the requests seen prove the objective broken, however the replay judges the point."""

    def under(self, arrivals_s: Mapping[str, tuple[float, ...]], surprises: Mapping[str, float]) -> Evidence:
        """The same evidence under other arrivals and surprises, by instance."""
        models = {
            name: replace(window, arrivals_s=arrivals_s[name], surprise=surprises.get(name, 1.0))
            for name, window in self.models.items()
        }
        return replace(self, models=models)

    def record(self, point: dict[str, float]) -> TrialRecord:
        """The record of the trial; `Invalid` if a model served nothing (`idle`) or no joules were counted (`energy`).

        A failed request is a violation: the share of them lifts the latency from the limit towards a hopeless one. With
        several models the latency is that of the one nearest its limit, expressed in the first model's seconds.
        """
        models = list(self.models.values())
        requests = sum(len(model.samples) for model in models)
        span_s = self.ticks[-1].at_s - self.ticks[0].at_s if len(self.ticks) > 1 else 0.0
        try:
            joules = self.joules()
            shares = [latency_at_load_s(model) / model.slo.limit_s for model in models]
        except ValueError:
            return TrialRecord(point, Invalid("idle"), window_s=span_s, requests=requests)
        if not (math.isfinite(joules.per_request_j) and joules.per_request_j > 0):
            return TrialRecord(point, Invalid("energy"), window_s=span_s, requests=requests)
        share, measured = max(shares), max(_measured(model) for model in models)
        width = _half_width(shares, models)
        if self.broken:
            share = max(share, measured, BEYOND)
        if self.failed:
            share = max(share, 1.0 + (HOPELESS - 1.0) * self.failed / (self.failed + requests))
        unit_s = models[0].slo.limit_s
        return TrialRecord(
            point,
            Violated() if share > 1.0 else Feasible(),
            joules.per_request_j,
            share * unit_s,
            span_s,
            requests,
            measured * unit_s,
            self.energy_error_j,
            self.brief_throttles,
            joules.half_width if math.isfinite(joules.half_width) else None,
            width,
        )

    def bounded(self) -> Evidence:
        """The same evidence with what it leaves open of the latencies."""
        return replace(self, models={name: latency_bounds(window) for name, window in self.models.items()})

    def joules(self) -> Joules:
        """Joules per request when every model's load is the long-run one, and others' on the board are as they were.

        Raises `ValueError` if there was no time, or a model was not served.
        """
        models = list(self.models.values())
        busy = [busy_at_load(model) for model in models]
        span_s = self.ticks[-1].at_s - self.ticks[0].at_s if self.ticks else 0.0
        if span_s <= 0:
            raise ValueError("no energy per request without time")
        share = sum(one.share for one in busy) + (self.ticks[-1].others_s - self.ticks[0].others_s) / span_s
        rate_hz, doubt = sum(model.rate_hz for model in models), sum(one.half_width for one in busy)
        return energy_per_request(self.ticks, rate_hz, share, self.averaging_s, doubt)


def _half_width(shares: Sequence[float], models: Sequence[ModelWindow]) -> float | None:
    """Of the largest of these quantiles, as far as all of them are known."""
    bounds = [model.bounds for model in models]
    lowest = [share * bound[0] for share, bound in zip(shares, bounds, strict=True) if bound]
    highest = [share * bound[1] for share, bound in zip(shares, bounds, strict=True) if bound]
    if len(lowest) < len(models):
        return None
    return max(0.0, max(highest) / max(shares) - 1, 1 - max(lowest) / max(shares))


def _measured(window: ModelWindow) -> float:
    """The window's own quantile as a share of the limit."""
    return quantile([sample.latency_s for sample in window.samples], window.slo.quantile) / window.slo.limit_s
