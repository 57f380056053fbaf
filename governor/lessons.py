# SPDX-License-Identifier: Apache-2.0
"""What the trials of one subject teach: which of them measured the world as it is, and which points broke a promise.

A trial of this run can be judged again, because its window is in memory: while the search goes on, every one is brought
to the load as it is known by now. Once a hold has ended because the world changed, its trials become prior tables. They
are judged at the new load first, but batches that nobody has seen, or a device busier than ever, are extrapolated then,
and what is extrapolated must lose against what is measured. What earlier runs measured under another load cannot be
judged again and becomes a prior as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .demand import load_changed
from .history import LONG_AGO
from .latency import surprise
from .points import Best, Table
from .trial import Evidence, Feasible, Invalid, TrialRecord, Violated

AVOIDED_S = 3600.0
"""A point that broke the objective is not tried again for so long."""

MOVED = 0.05
"""All is judged again once the load has moved by as much."""


@dataclass(slots=True)
class Lesson:
    """One trial: when it ended (CLOCK_MONOTONIC), the load by instance that it was judged at, and what its window held.

    `outdated` says what has changed since; it is empty while the trial counts.
    """

    record: TrialRecord
    at_s: float
    load_hz: Mapping[str, float]
    evidence: Evidence | None = None
    outdated: str = ""
    resumed: bool = False
    """Whether an earlier run made it."""


class Lessons:
    """The trials of one subject, oldest first."""

    def __init__(self) -> None:
        self.all: list[Lesson] = []
        self._broke: dict[tuple[tuple[str, float], ...], float] = {}
        """When each point last broke the objective."""
        self._reference_s: Mapping[str, tuple[float, ...]] = {}
        """The arrivals by instance under which the trials of this run are judged."""
        self._surprises: dict[str, float] = {}
        self._unjudged: list[Lesson] = []

    def add(self, lesson: Lesson) -> None:
        """Take in a finished trial."""
        self.all.append(lesson)
        self._unjudged.append(lesson)
        if isinstance(lesson.record.outcome, Violated):
            self.avoid(lesson.record.point, lesson.at_s)

    def avoid(self, point: Mapping[str, float], at_s: float) -> None:
        """Remember that a point broke the objective."""
        self._broke[key_of(point)] = at_s

    def avoided(self, point: Mapping[str, float], now_s: float) -> bool:
        """Whether a point broke the objective less than an hour ago."""
        return 0 <= now_s - self._broke.get(key_of(point), float("-inf")) < AVOIDED_S

    def retract(self, reason: str) -> None:
        """Something has come out that makes the last trial invalid."""
        last = self.all[-1]
        last.record, last.evidence = last.record.invalidated(reason), None
        self._broke.pop(key_of(last.record.point), None)

    def reopen(self, why: str) -> None:
        """From now on the trials so far measured another world; of those before them only the store knows."""
        for lesson in self.all:
            if lesson.outdated:
                lesson.evidence, lesson.outdated = None, LONG_AGO
            else:
                lesson.outdated = why

    def outdate(self, arrivals_s: Mapping[str, tuple[float, ...]]) -> bool:
        """Whether some trial of an earlier run turns out to be of another load than these arrivals by instance."""
        found = [
            lesson for lesson in self.all
            if not lesson.outdated and lesson.evidence is None and other_load(lesson.load_hz, arrivals_s)
        ]  # fmt: skip
        for lesson in found:
            lesson.outdated = "load"
        return bool(found)

    def judge_again(self, arrivals_s: Mapping[str, tuple[float, ...]]) -> bool:
        """Bring every trial of this run to the same load, so that early and late ones can be compared.

        Whether any was judged. Those that were are not judged again while the load is known no better than the last
        time: a replay takes milliseconds.
        """
        if any(len(trace_s) < 2 for trace_s in arrivals_s.values()):
            return False  # the load has just changed; what was judged before stands until more is known
        if self._moved(arrivals_s):
            self._reference_s, self._unjudged = arrivals_s, self.all
            known = [lesson.evidence.under(arrivals_s, {}) for lesson in self.all if lesson.evidence is not None]
            self._surprises = {name: surprise([one.models[name] for one in known]) for name in arrivals_s}
        load_hz = load_of(self._reference_s)
        judged = [(lesson, lesson.evidence) for lesson in self._unjudged if lesson.evidence is not None]
        for lesson, evidence in judged:
            lesson.load_hz = load_hz
            lesson.record = evidence.under(self._reference_s, self._surprises).record(lesson.record.point)
        self._unjudged = []
        return bool(judged)

    def _moved(self, arrivals_s: Mapping[str, tuple[float, ...]]) -> bool:
        """Whether the load is known by twice as many arrivals, was forgotten since, or is another one."""
        judged_hz = load_of(self._reference_s)
        for name, rate_hz in load_of(arrivals_s).items():
            count, before = len(arrivals_s[name]), len(self._reference_s.get(name, ()))
            if not before <= count < 2 * before or abs(rate_hz - judged_hz[name]) > MOVED * judged_hz[name]:
                return True
        return False

    @property
    def current(self) -> list[TrialRecord]:
        """The trials that measured the world as it is."""
        return [lesson.record for lesson in self.all if not lesson.outdated]

    @property
    def spent(self) -> int:
        """Trials of the budget that are spent; invalid ones of earlier runs cost this one nothing."""
        return sum(
            not (lesson.outdated or (lesson.resumed and isinstance(lesson.record.outcome, Invalid)))
            for lesson in self.all
        )

    @property
    def earlier(self) -> list[Table]:
        """What the world was like before it last changed, as prior tables."""
        reasons = dict.fromkeys(lesson.outdated for lesson in self.all if lesson.outdated not in ("", LONG_AGO))
        tables = (self._table_before(why) for why in reasons)
        return [table for table in tables if table]

    def _table_before(self, why: str) -> Table:
        """The trials that a change made outdated, at the load of the last of them."""
        lessons = [lesson for lesson in self.all if lesson.outdated == why]
        rate_hz = sum(lessons[-1].load_hz.values())
        return table_of([lesson.record for lesson in lessons], f"before a change of {why}", rate_hz)

    def cheapest(self, now_s: float) -> Best | None:
        """The cheapest trial that kept the objective, at a point that is not avoided."""
        kept = [
            record for record in self.current
            if isinstance(record.outcome, Feasible) and not self.avoided(record.point, now_s)
        ]  # fmt: skip
        rows = [(record.energy_j or 0.0, record.latency_s or 0.0, dict(record.point)) for record in kept]
        energy_j, latency_s, point = min(rows, key=lambda row: row[:2], default=(0.0, 0.0, {}))
        return Best(point, energy_j, latency_s, 1.0) if rows else None


def table_of(records: Sequence[TrialRecord], name: str = "", rate_hz: float | None = None) -> Table:
    """The trials that measured something as a table at this load, one row per trial; empty without any."""
    rows = [record for record in records if measured(record)]
    if not rows:
        return {}
    knobs = [knob for knob in rows[-1].point if all(knob in record.point for record in rows)]
    columns: dict[str, object] = {knob: [record.point[knob] for record in rows] for knob in knobs}
    return columns | {
        "latency_s": [record.latency_s for record in rows],
        "energy_j": [record.energy_j for record in rows],
        "name": name,
        **({"rate_hz": rate_hz} if rate_hz else {}),
    }


def measured(record: TrialRecord) -> bool:
    """Whether both figures of a trial are there, finite and positive."""
    figures = (record.energy_j, record.latency_s)
    return all(figure is not None and 0 < figure < math.inf for figure in figures)


def load_of(arrivals_s: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    """Requests per second by instance, of those with two arrivals or more."""
    return {
        name: (len(trace_s) - 1) / (trace_s[-1] - trace_s[0])
        for name, trace_s in arrivals_s.items()
        if len(trace_s) > 1 and trace_s[-1] > trace_s[0]
    }


def other_load(load_hz: Mapping[str, float], arrivals_s: Mapping[str, tuple[float, ...]]) -> bool:
    """Whether these arrivals by instance are another load, by more than a fifth and more than luck."""
    return any(
        load_changed(load_hz[name], len(trace_s) - 1, trace_s[-1] - trace_s[0])
        for name, trace_s in arrivals_s.items()
        if name in load_hz and len(trace_s) > 1
    )


def key_of(point: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """A point as a key."""
    return tuple(sorted(point.items()))
