# SPDX-License-Identifier: Apache-2.0
"""Planning a step: a fast search for a good schedule, a proof of how good it is, and the judge's word on the result.

How the parts fit, and what each figure means: `plan.md` beside this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from .planning.accepted import Accepted, accept
from .planning.coarse import coarsen
from .planning.paging import page_everything
from .planning.smallest import impossible, smallest
from .poet.matrices import Matrices
from .problem import Only, Problem, Semantics
from .schedule import Schedule, keep_everything

Status = Literal["optimal", "bounded", "feasible", "infeasible", "unknown"]
"""`optimal`: the gap is closed. `bounded`: a bound above zero is proven. `feasible`: nothing is proven of the schedule.
`infeasible`: no schedule exists. `unknown`: none was found, and none is proven not to exist."""

CLOSED = 1e-6
"""A gap that counts as closed, as a share of the overhead: the programs round each cost down at the ninth digit."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How planning stands; `phase` is `search` or `proof`, None what is not known yet."""

    elapsed_s: float
    phase: str
    best_overhead_j: float | None
    bound_overhead_j: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule and what is known of it; without a schedule, `why` there is none, and RAM with which there is one.

    `costs_from`: what the joules rest on. `overhead_j`: joules above every op once and nothing else; `bound_j`: what no
    schedule of the class can undercut; `overhead_gap`: their distance as a share of the overhead. `matrices`: the same
    schedule in POET's terms, under `poet`. `workspace_bytes`: of each op, under `real`; with it a plan made elsewhere
    runs within its budget. `in_pieces`: ops computed in pieces because there is no room for their workspace.
    """

    status: Status
    semantics: Semantics
    graph_digest: str
    platform: str
    costs_from: str
    budget_bytes: int
    bound_j: float
    schedule: Schedule = ()
    energy_j: float | None = None
    overhead_j: float | None = None
    overhead_gap: float | None = None
    peak_bytes: int | None = None
    activation_peak_bytes: int | None = None
    step_time_s: float | None = None
    solve_s: float = 0.0
    cut_off: bool = False
    why: str = ""
    smallest_budget_bytes: int | None = None
    workspace_bytes: tuple[int, ...] = ()
    in_pieces: tuple[str, ...] = ()
    matrices: Matrices | None = None


def plan(
    problem: Problem,
    *,
    seed: int = 0,
    steps: int | None = None,
    effort: float | None = None,
    only: Only = "both",
    wall_s: float | None = None,
    start: Schedule | None = None,
    platform: str = "",
    costs_from: str = "",
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """The best schedule found, its proven distance from the best there is, or why there is none.

    `start`: a schedule to do at least as well as, if it is accepted. `steps` of search and `effort` in the solvers' own
    deterministic seconds (None: by the problem's size) decide the result: same problem, seed and effort, same plan,
    unless `wall_s` cut it, which `cut_off` tells. Raises `SolverMissing` where the extra `solver` is not installed and
    the step does not fit as it is.
    """
    run = _Run(problem, seed, only, wall_s, progress, clock)
    found = run.plan(start, steps, default_effort(problem) if effort is None else effort)
    return replace(found, platform=platform, costs_from=costs_from)


def default_effort(problem: Problem) -> float:
    """Seconds of proof: 60 up to 200 ops, and less the larger the step, so that a plan stays a matter of seconds."""
    return 60.0 * min(1.0, (200 / max(1, len(problem.graph.ops))) ** 3)


class _Run:
    """One planning: the best so far, the bound so far, and the wall."""

    def __init__(
        self,
        problem: Problem,
        seed: int,
        only: Only,
        wall_s: float | None,
        progress: Callable[[Progress], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.problem, self.seed, self.only = problem, seed, only
        self._progress, self._clock, self._begin_s = progress, clock, clock()
        self._end_s = None if wall_s is None else self._begin_s + wall_s
        self._cut = False
        self.best: Accepted | None = None
        self.bound_j = 0.0

    def plan(self, start: Schedule | None, steps: int | None, effort: float) -> Plan:
        """All of it."""
        why = impossible(self.problem)
        if why:
            return self._refusal("infeasible", why)
        self._offer(keep_everything(self.problem.graph))
        if self.best:
            return self._report(self.best, self.best.replayed.overhead_j)
        self._offer(start)
        if self.only != "recompute":
            self._offer(page_everything(self.problem.graph))
        self._search(steps)
        why = self._prove(effort) if effort > 0 and not self._over() else ""
        if self.best:
            return self._report(self.best, self.bound_j)
        if why:
            return self._refusal("infeasible", why)
        return self._refusal("unknown", "no schedule was found, and none is proven not to exist")

    def _offer(self, schedule: Schedule | None) -> bool:
        """Take a schedule if it is accepted and the best so far; whether it was accepted."""
        found = None if schedule is None else accept(self.problem, schedule)
        if found and (self.best is None or found.replayed.overhead_j < self.best.replayed.overhead_j):
            self.best = found
        return found is not None

    def _search(self, steps: int | None) -> None:
        """Search on the problem without what is too small to matter, else on the whole."""
        coarse = coarsen(self.problem) if self.problem.semantics == "real" else None
        if coarse and len(coarse.problem.graph.ops) < len(self.problem.graph.ops):
            schedule = self._anneal(coarse.problem, steps)
            if schedule is not None and self._offer(coarse.expand(schedule)):
                return
        self._offer(self._anneal(self.problem, steps))

    def _anneal(self, problem: Problem, steps: int | None) -> Schedule | None:
        from .planning.anneal import anneal

        return anneal(
            problem,
            seed=self.seed,
            steps=steps,
            only=self.only,
            until=self._over,
            progress=lambda best_j: self._tell("search", best_j, None),
        )

    def _prove(self, effort: float) -> str:
        """Run the proof; why no schedule exists, if that is what it found."""
        from .planning.stage_end import prove

        proof = prove(
            self.problem,
            hint=self.best.schedule if self.best else None,
            effort=effort,
            only=self.only,
            until_s=None if self._end_s is None else max(0.0, self._end_s - self._clock()),
            progress=lambda best_j, bound_j: self._tell("proof", best_j, bound_j),
        )
        self._over()
        self._offer(proof.schedule)
        self.bound_j = max(self.bound_j, proof.bound_j)
        return proof.infeasible

    def _over(self) -> bool:
        """Whether the wall limit is reached."""
        over = self._end_s is not None and self._clock() >= self._end_s
        self._cut = self._cut or over
        return over

    def _tell(self, phase: str, best_j: float | None, bound_j: float | None) -> None:
        if self._progress is None:
            return
        if self.best is not None:
            known_j = self.best.replayed.overhead_j
            best_j = known_j if best_j is None else min(best_j, known_j)
        self._progress(Progress(self._clock() - self._begin_s, phase, best_j, bound_j))

    def _report(self, found: Accepted, bound_j: float) -> Plan:
        overhead_j = found.replayed.overhead_j
        bound_j = min(bound_j, overhead_j)
        gap = (overhead_j - bound_j) / overhead_j if overhead_j else 0.0
        closed = gap <= CLOSED
        return replace(
            self._plan("optimal" if closed else "bounded" if bound_j else "feasible", bound_j),
            schedule=found.schedule,
            energy_j=found.replayed.energy_j,
            overhead_j=overhead_j,
            overhead_gap=0.0 if closed else gap,
            peak_bytes=found.peak_bytes,
            activation_peak_bytes=found.peak_bytes - found.replayed.peak_bytes + found.replayed.activation_peak_bytes,
            step_time_s=found.replayed.step_time_s,
            workspace_bytes=self.problem.costs.workspace_bytes if self.problem.semantics == "real" else (),
            matrices=found.matrices,
        )

    def _refusal(self, status: Status, why: str) -> Plan:
        """No schedule, and the least RAM with which there is one; a plan after all where that search ends in budget."""
        found = smallest(self.problem, self.seed, self.only)
        if found and found.peak_bytes <= self.problem.limits.budget_bytes:
            return self._report(found, self.bound_j)
        return replace(self._plan(status, 0.0), why=why, smallest_budget_bytes=found.peak_bytes if found else None)

    def _plan(self, status: Status, bound_j: float) -> Plan:
        problem = self.problem
        return Plan(
            status,
            problem.semantics,
            problem.graph.digest,
            "",
            "",
            problem.limits.budget_bytes,
            bound_j,
            solve_s=self._clock() - self._begin_s,
            cut_off=self._cut,
        )
