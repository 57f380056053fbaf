# SPDX-License-Identifier: Apache-2.0
"""The last word on a schedule: the judge's, and under `poet` also that of POET's own rules."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ScheduleInvalid
from ..poet.matrices import Matrices, judge, listed, matrices
from ..problem import Problem
from ..replay import Replayed, replay
from ..schedule import Schedule


@dataclass(frozen=True, slots=True)
class Accepted:
    """A schedule that may be used; under `poet` in POET's order, with its matrices and its peak by POET's count."""

    schedule: Schedule
    replayed: Replayed
    matrices: Matrices | None
    peak_bytes: int


def accept(problem: Problem, schedule: Schedule) -> Accepted | None:
    """The schedule as it may be used; None if it is refused."""
    try:
        replayed = replay(problem, schedule)
        if problem.semantics == "real":
            return Accepted(schedule, replayed, None, replayed.peak_bytes)
        made = matrices(problem.graph, schedule)
        verdict = judge(problem, made)
        if verdict.broken:
            return None
        schedule = listed(problem.graph, made)
        return Accepted(schedule, replay(problem, schedule), made, verdict.peak_bytes)
    except ScheduleInvalid:
        return None
