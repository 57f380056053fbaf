# SPDX-License-Identifier: Apache-2.0
"""How good a schedule can be at best, and often that schedule: the stage-end program, built, solved, read and judged.

The bound holds for every schedule that `replay` can accept, hence for the published class: one fixed order, each stage
ending with the first run of its op. A schedule is returned only if `replay` accepted it. A recomputation or a transfer
that costs more than the hint's whole overhead is left out: no better schedule holds it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..problem import Only, Problem
from ..replay import replay
from ..schedule import Schedule
from .cpsat import Answer, solve
from .crowded import crowded_in, leave_room
from .highs import Relaxed, relax
from .hoist import best_hoisted
from .model import StageEnd
from .moments import Moment, count_at
from .reading import schedule_from
from .stages import stages_of

TOLERANCE = 1e-6
"""A gap is called closed when it is at most this share of the overhead: costs are rounded down to whole units."""
REPAIRS = 8
"""Solves with ever more rows for refused answers."""
INSIDE_OPS = 150
"""Up to here RAM inside the stages is counted too, where that is what keeps a proof open."""
UNITS = 10**9
"""Units of the objective in the cap, so that rounding many costs down stays far below the tolerance."""


@dataclass(frozen=True, slots=True)
class Proof:
    """No schedule's overhead is less than `bound_j`. `schedule` is the best one found, accepted by `replay`, or None.

    `closed`: the best schedule known, this one or the hint, is optimal within `TOLERANCE`. `infeasible` says why there
    is no schedule at all, if that was proven. `effort_spent`: deterministic seconds of the solver.
    """

    bound_j: float
    schedule: Schedule | None
    closed: bool
    effort_spent: float
    infeasible: str = ""


def prove(
    problem: Problem,
    *,
    hint: Schedule | None = None,
    effort: float = 30.0,
    only: Only = "both",
    until_s: float | None = None,
    inside: bool = True,
    progress: Callable[[float | None, float], None] | None = None,
) -> Proof:
    """A lower bound on the overhead, and the best schedule found, within `effort` deterministic seconds.

    `inside`: count RAM inside the stages too, where that keeps the proof of a small step open.
    `until_s`: wall seconds from now after which it stops all the same. `progress` sees the best overhead and the bound,
    in joules, whenever one of them improves. Raises `ScheduleInvalid` for a hint that `replay` refuses.
    """
    search = _Search(problem, hint, only, progress)
    end_s = None if until_s is None else time.monotonic() + until_s

    def left_s() -> float | None:
        return None if end_s is None else max(0.0, end_s - time.monotonic())

    if hint is None and only == "both":
        # Paging alone decides little, is solved at once, and its overhead caps what else is worth a thought.
        search.find("page", effort / 20, left_s())
    if problem.semantics == "real" and search.best_j > 0 and left_s() != 0:
        search.find(only, max(0.0, effort - search.spent) / 2, left_s(), unhurried=True)
    while search.open and search.best_j > 0 and search.spent < effort and left_s() != 0:
        search.prove(effort - search.spent, left_s())
    for _ in range(REPAIRS):
        if search.refused <= search.crowded or search.spent >= effort or left_s() == 0:
            break
        search.repair(effort - search.spent, left_s())
    search.open = inside and bool(search.crowded) and not search.closed and len(problem.graph.ops) <= INSIDE_OPS
    while search.open and search.spent < effort and left_s() != 0:
        search.inside(effort - search.spent, left_s())
    return search.proof()


class _Search:
    """What is known between two solves."""

    def __init__(
        self,
        problem: Problem,
        hint: Schedule | None,
        only: Only,
        progress: Callable[[float | None, float], None] | None,
    ) -> None:
        self.problem, self.only, self.progress = problem, only, progress
        self.best_j = math.inf if hint is None else replay(problem, hint).overhead_j
        self.best: Schedule | None = None
        self.bound_j = 0.0
        self.spent = 0.0
        self.infeasible = ""
        self.open = True
        self.refused: set[Moment] = set()
        self.crowded: set[Moment] = set()
        self.latest: tuple[float, StageEnd, Relaxed | None] | None = None

    def find(self, only: Only, effort: float, seconds: float | None, *, unhurried: bool = False) -> None:
        """Look for good schedules in a part of them."""
        cap_j = self._cap_j(seconds) if unhurried else self.best_j
        program = self._program(cap_j, only, unhurried)
        if not program.model.infeasible:
            self._solve(program, cap_j, None, effort, seconds, gap=0.02 if unhurried else 0.1)

    def prove(self, effort: float, seconds: float | None) -> None:
        """One solve with what is known by now: the schedules of an overhead up to a cap, which grows where none is."""
        cap_j = self._cap_j(seconds)
        program, relaxed = self._relaxed(cap_j, seconds)
        if relaxed is None:
            self._nothing(cap_j, program.model.infeasible)
            return
        unit_j = program.model.unit_j
        answer = self._solve(program, cap_j, relaxed, effort, seconds)
        if answer.bound is None:
            self._nothing(cap_j, "no schedule fits the limits")
            return
        self._raise_bound(answer.bound * unit_j, cap_j)
        self.open = not self.closed and not answer.exhausted

    def repair(self, effort: float, seconds: float | None) -> None:
        """Solve again with rows for the moments at which cheaper answers, read as schedules, exceeded the budget."""
        self.crowded |= self.refused
        self.refused = set()
        program = self._program(self.best_j, self.only, unhurried=self.problem.semantics == "real")
        if not program.model.infeasible:
            leave_room(program, self.crowded)
            self._solve(program, self.best_j, None, effort, seconds)

    def inside(self, effort: float, seconds: float | None) -> None:
        """Solve with RAM counted at the crowded moments too, in whatever order a stage does its work."""
        program = self._program(self.best_j, self.only, every=True)
        if program.model.infeasible:
            return
        for moment in sorted(self.crowded, key=lambda moment: (moment.stage, moment.op)):
            count_at(program, moment)
        self.refused = set()
        relaxed = self._relax(program, self.best_j, seconds)
        answer = self._solve(program, self.best_j, relaxed, max(0.0, effort - relaxed.effort), seconds)
        self._raise_bound(self.best_j if answer.bound is None else answer.bound * program.model.unit_j, self.best_j)
        self.open = not self.closed and answer.exhausted and not self.refused <= self.crowded
        self.crowded |= self.refused

    def _solve(
        self,
        program: StageEnd,
        cap_j: float,
        relaxed: Relaxed | None,
        effort: float,
        seconds: float | None,
        gap: float = 0.0,
    ) -> Answer:
        """Solve a program and judge what comes; with its relaxation, what is bounded counts as proven."""
        unit_j = program.model.unit_j
        most = None if math.isinf(cap_j) else math.floor(cap_j / unit_j)
        answer = solve(
            program.model,
            effort=effort,
            most=most,
            fixed=relaxed.fixed(most) if relaxed and most is not None else None,
            gap=gap,
            seconds=seconds,
            found=lambda values: self._judge(program, values),
            bounded=(lambda bound: self._raise_bound(bound * unit_j, cap_j)) if relaxed else None,
        )
        self.spent += answer.effort
        return answer

    def _nothing(self, cap_j: float, why: str) -> None:
        """No schedule has an overhead up to the cap."""
        self._raise_bound(cap_j, cap_j)
        self.infeasible = why if math.isinf(cap_j) else ""
        self.open = not self.infeasible and not self.closed

    def _cap_j(self, seconds: float | None) -> float:
        """What the next solve looks at: everything up to the best, unless the best may be far off."""
        if math.isinf(self.best_j):
            return self.best_j
        if not self.bound_j:
            self._relaxed(self.best_j, seconds)
        return self.best_j if self.best_j <= 1.5 * self.bound_j else 1.25 * self.bound_j or self.best_j

    def _relaxed(self, cap_j: float, seconds: float | None) -> tuple[StageEnd, Relaxed | None]:
        """The program up to a cap and its relaxation, whose bound counts; None for one that cannot be satisfied."""
        if self.latest is None or self.latest[0] != cap_j:
            program = self._program(cap_j, self.only)
            relaxed = None if program.model.infeasible else self._relax(program, cap_j, seconds)
            self.latest = cap_j, program, relaxed
        return self.latest[1:]

    def _relax(self, program: StageEnd, cap_j: float, seconds: float | None) -> Relaxed:
        """The relaxation of a program up to a cap; its bound counts."""
        relaxed = relax(program.model, seconds)
        self.spent += relaxed.effort
        self._raise_bound(relaxed.bound * program.model.unit_j, cap_j)
        return relaxed

    def _program(self, cap_j: float, only: Only, unhurried: bool = False, every: bool = False) -> StageEnd:
        scale_j = cap_j if math.isfinite(cap_j) else self.problem.base_energy_j
        stages = stages_of(self.problem, cap_j=cap_j, only=only, every=every)
        return StageEnd(self.problem, stages, max(scale_j, 1e-300) / UNITS, unhurried=unhurried)

    def _judge(self, program: StageEnd, values: Sequence[bool]) -> None:
        """Keep the schedule of an assignment, if the judge accepts it and it is better."""
        schedule = schedule_from(program, values)
        found = best_hoisted(self.problem, schedule)
        if found is None:
            self.refused |= crowded_in(self.problem, schedule)
        elif found.replayed.overhead_j < self.best_j:
            self.best_j, self.best = found.replayed.overhead_j, found.schedule
            self._report()

    def _raise_bound(self, bound_j: float, cap_j: float) -> None:
        """What was left out under the cap costs at least the cap."""
        bound_j = min(bound_j, cap_j)
        if bound_j > self.bound_j:
            self.bound_j = bound_j
            self._report()

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(self.best_j if math.isfinite(self.best_j) else None, min(self.bound_j, self.best_j))

    @property
    def closed(self) -> bool:
        """Whether best and bound meet."""
        return math.isfinite(self.best_j) and self.best_j <= self.bound_j * (1 + TOLERANCE)

    def proof(self) -> Proof:
        """What was found."""
        bound_j = math.inf if self.infeasible else min(self.bound_j, self.best_j)
        return Proof(bound_j, self.best, self.closed or self.best_j == 0, self.spent, self.infeasible)
