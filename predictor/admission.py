# SPDX-License-Identifier: Apache-2.0
"""Whether a fine-tuning job may share the device with inference: admit it, pace it, or refuse it with a way out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .corun import Band, CoRunModel, Serving, TrainingSlices
from .vacations import SLICE_S

DUTIES = (1.0, 0.75, 0.5, 0.25, 0.1)
"""Shares of the idle time that are tried, most first."""

PROBE, KNOWN = 0.025, 128
"""The most that training may take of which little is known: enough to measure something within seconds. And the
stretches from which on it is known: the first ones are a first step's, slow with cold caches and fresh memory."""


AT_LIMIT = 1.05
"""Requests that are close to their limit alone may take so many times as long beside training, for little can be said
of a promise that luck keeps or breaks: windows tell."""

ASKED = 4.0
"""No operation that is known to last so many times as long as a limit is let in for windows to judge."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The promise to inference: this quantile of latency stays below the limit, in seconds."""

    quantile: float
    limit_s: float


Load = tuple[Serving, Objective]


@dataclass(frozen=True, slots=True)
class Job:
    """What is left of a fine-tuning job: steps of `step_s` seconds alone on the device, and the time for them."""

    step_s: float
    steps_left: int
    deadline_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Admit:
    """The job may use every idle moment, and is done in `finish_s` seconds (infinity: not known yet).

    `latency_s` is the quantile predicted beside it, of the model that comes closest to its limit; 0 if none is.
    `sure_duty` is the share at which the whole interval is within the limit; more than that is for windows to grant.
    """

    latency_s: float
    finish_s: float
    sure_duty: float = 1.0

    @property
    def sure(self) -> bool:
        """Whether the interval, too, leaves all of the idle time."""
        return self.sure_duty >= DUTIES[0]


@dataclass(frozen=True, slots=True)
class Pace:
    """The job may use a share `duty` of the idle time, in slices of at most `slice_s` seconds; else as `Admit`."""

    duty: float
    slice_s: float
    latency_s: float
    finish_s: float
    sure_duty: float

    @property
    def sure(self) -> bool:
        """Whether the interval, too, leaves this share."""
        return self.sure_duty >= self.duty


@dataclass(frozen=True, slots=True)
class Refuse:
    """The job may not run now; `reason` says why in words.

    `deadline_s`: the smallest deadline that could be met. `limit_s`: the smallest latency limit that leaves room.
    None where that would not help.
    """

    reason: str
    deadline_s: float | None = None
    limit_s: float | None = None


Decision = Admit | Pace | Refuse


@dataclass(frozen=True, slots=True)
class _Beside:
    """All served models beside training at one duty: the band of each with its objective, training's share of time."""

    duty: float
    bands: tuple[tuple[Band, Objective], ...]
    training_share: float

    @property
    def holds(self) -> bool:
        """Whether the whole interval of each model is within its objective."""
        return all(band.high_s <= objective.limit_s for band, objective in self.bands)

    def may_hold(self, tolerated_s: Sequence[float]) -> bool:
        """Whether each model is predicted to take no longer than this, though its interval says less."""
        return all(band.latency_s <= most_s for (band, _), most_s in zip(self.bands, tolerated_s, strict=True))

    def may_be_asked(self, longest_s: float) -> bool:
        """Whether windows may tell: no interval is wholly beyond its objective, nor `longest_s` far beyond it."""
        return all(
            band.low_s <= objective.limit_s and longest_s <= ASKED * objective.limit_s for band, objective in self.bands
        )

    def finish_s(self, work_s: float) -> float:
        """Seconds until so many seconds of training are done."""
        return work_s / self.training_share if self.training_share else math.inf

    @property
    def tightest(self) -> tuple[Band, Objective]:
        """The model that is closest to its limit."""
        return max(self.bands, key=lambda pair: pair[0].latency_s / pair[1].limit_s)


def decide(model: CoRunModel, loads: Sequence[Load], training: TrainingSlices, job: Job) -> Decision:
    """The largest share of idle time that training may take with every objective met, and the job done in time.

    The prediction has to meet an objective, or come close to what requests take alone where that is at the limit. The
    share at which its whole interval meets it is `sure_duty`, where the closed loop (`pacing`) begins. Training of
    which no stretch was measured yet, or few and too long, is let in for so little of the time that half of the
    requests that may be late never meet it. Where requests alone surely keep their objective, and the interval beside
    the least share does not rule that out, that share is granted for windows to judge: a job that is refused for a
    belief teaches nothing better. `training.duty` and its `slice_s` are ignored. Loads without arrivals have nobody
    who waits.
    """
    loads = [(serving, objective) for serving, objective in loads if serving.arrivals_s]
    tolerated_s, sure_alone = [], True
    for serving, objective in loads:
        alone = model.predict(serving, None, objective.quantile)
        if alone.low_s > objective.limit_s:
            missed = f"the objective is missed without training: {_ms(alone.latency_s)} of {_ms(objective.limit_s)}"
            return Refuse(_named(serving, missed), limit_s=alone.latency_s)
        sure_alone = sure_alone and alone.high_s <= objective.limit_s
        tolerated_s.append(max(objective.limit_s, AT_LIMIT * alone.latency_s))
    work_s = training.slowdown * job.step_s * job.steps_left
    if not training.stretches_s:
        return _probe(loads, work_s, job.deadline_s)
    longest_s = training.slowdown * max(training.stretches_s)
    slice_s = max(SLICE_S, longest_s)
    tried: list[_Beside] = []
    for duty in DUTIES:
        tried.append(_beside(model, loads, replace(training, duty=duty, slice_s=slice_s)))
        if tried[-1].holds:
            break
    found = next((beside for beside in tried if beside.may_hold(tolerated_s)), None)
    if found is None:
        if len(training.stretches_s) < KNOWN:
            return _probe(loads, work_s, job.deadline_s)
        if not (sure_alone and tried[-1].may_be_asked(longest_s)):
            return _no_room(tried[-1])
        found = tried[-1]
    sure_duty = tried[-1].duty if tried[-1].holds else 0.0
    return _in_time(found, sure_duty, slice_s, work_s, job.deadline_s)


def _probe(loads: Sequence[Load], work_s: float, deadline_s: float) -> Decision:
    if work_s > deadline_s:
        return Refuse(f"{work_s:.1f} s of training, the deadline is in {deadline_s:.1f} s", deadline_s=work_s)
    may_be_late = min((1 - objective.quantile for _, objective in loads), default=1.0)
    return Pace(min(PROBE, may_be_late / 2), SLICE_S, 0.0, math.inf, 0.0)


def _beside(model: CoRunModel, loads: Sequence[Load], training: TrainingSlices) -> _Beside:
    bands = tuple((model.predict(serving, training, objective.quantile), objective) for serving, objective in loads)
    # training needs all models idle at once, which are busy independently
    idle = math.prod(band.training_share / training.duty for band, _ in bands)
    return _Beside(training.duty, bands, training.duty * idle)


def _in_time(found: _Beside, sure_duty: float, slice_s: float, work_s: float, deadline_s: float) -> Decision:
    finish_s = found.finish_s(work_s)
    if finish_s > deadline_s:
        beside = f"{work_s:.1f} s of training take {finish_s:.1f} s beside this load"
        return Refuse(f"{beside}, the deadline is in {deadline_s:.1f} s", deadline_s=finish_s)
    latency_s = found.tightest[0].latency_s if found.bands else 0.0
    if found.duty == DUTIES[0]:
        return Admit(latency_s, finish_s, sure_duty)
    return Pace(found.duty, slice_s, latency_s, finish_s, sure_duty)


def _no_room(found: _Beside) -> Refuse:
    band, objective = found.tightest
    return Refuse(
        f"stretches of training leave no room below {_ms(objective.limit_s)}: {_ms(band.latency_s)} expected even at a "
        f"duty of {found.duty:.0%}",
        limit_s=band.latency_s,
    )


def _ms(latency_s: float) -> str:
    return f"{1e3 * latency_s:.3g} ms"


def _named(serving: Serving, text: str) -> str:
    return f"{serving.name}: {text}" if serving.name else text
