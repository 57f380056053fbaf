# SPDX-License-Identifier: Apache-2.0
"""The window of a trial while it is being measured: its counters, why it cannot be trusted, and how well it knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from telemetry.board_page import BoardReading

from .demand import Demand
from .joules import SEGMENT_S, Tick
from .latency import is_broken
from .reader import Snapshot
from .trial import Evidence, TrialRecord
from .trust import WINDOWS, energy_error_j, frozen, still, throttled, too_short, unread

ENERGY = 0.08
"""Joules per request are known well enough at this relative half-width; it is some four of their standard errors."""

LATENCY = 0.1
"""So is a latency quantile at this one, or as soon as it lies on one side of the limit for sure."""

SHORTEST_S = 1.0
"""However short trials are to be, none is given up before: the average of an INA3221 over 430 ms says nothing yet."""

LOOKS = 10.0
"""A window is looked at anew when it has grown by a segment, and by a tenth."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a window knows so far."""

    known: bool = False
    """Joules and latency, both well enough."""
    broken: bool = False
    """The requests seen prove the objective broken."""


class Window:
    """Begins with a snapshot, grows with each `add`; `changed_s` is when the clocks were last changed."""

    def __init__(self, now: Snapshot, trial_s: float, changed_s: float, governed: Collection[str]) -> None:
        self._begin = self._board = board_of(now)
        self._governed = governed
        self._ticks = [counters(now, governed)]
        self._trial_s = trial_s
        self._changed_s = changed_s
        self._standing, self._look_s = Standing(), SEGMENT_S

    def add(self, now: Snapshot) -> str | None:
        """Take in one more look; the reason why the trial is lost, None if it is not."""
        self._board = board_of(now)
        if (tick := counters(now, self._governed)).at_s > self._ticks[-1].at_s:
            self._ticks.append(tick)
        if throttled(self._begin, self._board):
            return "throttled"
        if unread(self._ticks, self._trial_s):
            return "sensor"
        since_change_s = self._ticks[-1].at_s - self._changed_s
        return "frozen" if frozen(self._ticks, self._board.power_same_s, self._trial_s, since_change_s) else None

    @property
    def span_s(self) -> float:
        """Seconds measured."""
        return self._ticks[-1].at_s - self._ticks[0].at_s

    @property
    def in_doubt(self) -> bool:
        """Whether the joules cannot be trusted yet: shifted by too much, read too seldom, or by a sensor that rests."""
        return (
            too_short(self._ticks, self._board.averaging_s)
            or unread(self._ticks)
            or still(self._ticks, self._board.power_same_s)
        )

    @property
    def may_end(self) -> bool:
        """Whether it is long enough to be enough."""
        return self.span_s >= self._trial_s / WINDOWS

    @property
    def may_be_cut(self) -> bool:
        """Whether it is long enough to say anything about joules."""
        return self.span_s >= self._board.averaging_s + SEGMENT_S

    @property
    def may_go_on(self) -> bool:
        """Whether the trial may measure on."""
        return self.span_s < max(WINDOWS * self._trial_s, SHORTEST_S)

    def standing(self, demand: Demand, limits: Mapping[str, int]) -> Standing:
        """What it knows; looked at anew as it grows, the longer it is the less often."""
        if self.span_s >= self._look_s:
            self._look_s = self.span_s + max(SEGMENT_S, self.span_s / LOOKS)
            begin_s, end_s = self._ticks[0].at_s, self._ticks[-1].at_s
            broken = any(is_broken(model, begin_s, end_s) for model in demand.windows(limits).values())
            self._standing = Standing(self.may_end and demand.known and self._knows(demand, limits), broken)
        return self._standing

    def evidence(self, demand: Demand, limits: Mapping[str, int], *, broken: bool = False) -> Evidence:
        """What the window held, with the batch limits by instance that were in force."""
        error_j = energy_error_j(self._ticks, self._board.averaging_s)
        brief = self._board.brief_throttles - self._begin.brief_throttles
        trusted = error_j, brief, self._board.averaging_s, broken
        return Evidence(tuple(self._ticks), demand.windows(limits), demand.failed, *trusted)

    def _knows(self, demand: Demand, limits: Mapping[str, int]) -> bool:
        """Joules first: replaying latencies costs far more."""
        evidence = self.evidence(demand, limits)
        try:
            if evidence.joules().half_width > ENERGY:
                return False
        except ValueError:
            return False
        return known(evidence.bounded().record({}), next(iter(evidence.models.values())).slo.limit_s)


def known(record: TrialRecord, limit_s: float) -> bool:
    """Whether a trial that ended now would know its joules and its latency well enough."""
    doubt = record.latency_half_width
    if record.energy_half_width is None or record.latency_s is None or doubt is None:
        return False
    kept = record.latency_s * (1 + doubt) <= limit_s
    missed = record.latency_s * (1 - doubt) > limit_s
    return record.energy_half_width <= ENERGY and (kept or missed or doubt <= LATENCY)


def board_of(now: Snapshot) -> BoardReading:
    """The board of a snapshot; `ValueError` without one."""
    if now.board is None:
        raise ValueError("no board, no counters")
    return now.board


def counters(now: Snapshot, governed: Collection[str] | None = None) -> Tick:
    """Energy, busy time and requests of the whole board at one moment; `ValueError` without a board.

    Busy time of instances that are not among those `governed`, all if None, is told apart.
    """
    board = board_of(now)
    busy_ns = sum(view.busy_ns for view in now.instances)
    others_ns = sum(view.busy_ns for view in now.instances if governed and view.info.instance not in governed)
    requests = sum(view.requests for view in now.instances)
    energy = (board.energy_error_j, board.power_w, board.power_missing_s)
    return Tick(board.sampled_ns / 1e9, board.energy_j, busy_ns / 1e9, requests, *energy, others_ns / 1e9)
