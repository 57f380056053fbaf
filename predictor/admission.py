# SPDX-License-Identifier: Apache-2.0
"""Whether a fine-tuning job may share the device with inference: admit it, pace it, or refuse it with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .queueing import ServiceTimes, Vacation, replay

DUTIES = (1.0, 0.75, 0.5, 0.25, 0.1)
"""Shares of the idle time that are tried, most first."""


@dataclass(frozen=True, slots=True)
class InferenceLoad:
    """One served model: a trace of its arrivals in seconds, its measured service times, and its batch limit."""

    arrivals_s: Sequence[float]
    services: ServiceTimes
    batch_limit: int


@dataclass(frozen=True, slots=True)
class Objective:
    """The promise to inference: this quantile of latency stays below the limit, in seconds."""

    quantile: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class Admit:
    """The job may use every idle moment; `latency_s` is the quantile predicted beside it."""

    latency_s: float


@dataclass(frozen=True, slots=True)
class Pace:
    """The job may use a share `duty` of the idle time, in slices of at most `slice_s` seconds."""

    duty: float
    slice_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """The job may not run now; `reason` says why in words."""

    reason: str


Decision = Admit | Pace | Refuse


def decide(load: InferenceLoad, objective: Objective, slice_s: float) -> Decision:
    """The largest share of idle time that slices of `slice_s` seconds may take with the objective still met.

    A slice cannot be interrupted, so an arrival waits for what is left of it (a server with vacations).
    """
    alone_s = replay(load.arrivals_s, load.services, load.batch_limit).quantile_s(objective.quantile)
    if alone_s > objective.limit_s:
        return Refuse(f"the objective is missed without training: {alone_s:.4f} s of {objective.limit_s:.4f} s")
    for duty in DUTIES:
        beside = replay(load.arrivals_s, load.services, load.batch_limit, vacation=Vacation(slice_s, duty))
        latency_s = beside.quantile_s(objective.quantile)
        if latency_s <= objective.limit_s:
            return Admit(latency_s) if duty == DUTIES[0] else Pace(duty, slice_s, latency_s)
    return Refuse(f"slices of {slice_s:.4f} s leave no room below {objective.limit_s:.4f} s")
