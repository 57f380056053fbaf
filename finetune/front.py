# SPDX-License-Identifier: Apache-2.0
"""What RAM and time cost in joules: the least energy over budgets, and over deadlines, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from .plan import Plan, Progress, plan
from .planning.limits import plain_step
from .planning.smallest import smallest_budget, with_budget
from .problem import Limits, Only, Problem
from .schedule import Schedule

DEADLINES = (1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 2.0)
"""Multiples of the step that keeps everything."""
POINTS = 8


@dataclass(frozen=True, slots=True)
class Front:
    """Plans over growing budgets at the problem's deadline, and over growing deadlines at its budget.

    Energy never grows along either: what fits the tighter limit is offered to the looser one. Plans without a schedule
    stand where none was found.
    """

    memory: tuple[Plan, ...]
    time: tuple[Plan, ...]
    deadlines_s: tuple[float, ...]


def front(
    problem: Problem,
    *,
    budgets: Sequence[int] | None = None,
    deadlines_s: Sequence[float] | None = None,
    seed: int = 0,
    steps: int | None = None,
    effort: float = 0.0,
    only: Only = "both",
    platform: str = "",
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Front:
    """Plan for each budget and for each deadline, by default from the smallest budget to keeping everything.

    `steps` and `effort` are those of `plan`, for each point; by default nothing is proven. Raises what `plan` raises.
    """
    plain = plain_step(problem)
    if budgets is None:
        budgets = _budgets(smallest_budget(problem, seed, only), plain.peak_bytes)
    if deadlines_s is None:
        deadlines_s = [plain.step_time_s * factor for factor in DEADLINES]
    deadlines_s = sorted(deadlines_s)

    def along(problems: Iterable[Problem]) -> tuple[Plan, ...]:
        found: list[Plan] = []
        start: Schedule | None = None
        for one in problems:
            made = plan(
                one,
                seed=seed,
                steps=steps,
                effort=effort,
                only=only,
                start=start,
                platform=platform,
                progress=progress,
                clock=clock,
            )
            start = made.schedule or start
            found.append(made)
        return tuple(found)

    limits = problem.limits
    timed = (replace(problem, limits=Limits(limits.budget_bytes, one, limits.quota_bytes)) for one in deadlines_s)
    return Front(along(with_budget(problem, one) for one in sorted(budgets)), along(timed), tuple(deadlines_s))


def _budgets(least: int | None, most: int) -> list[int]:
    """Evenly from the least to the most; the most alone where no less is known to do."""
    if least is None or least >= most:
        return [most]
    return [least + (most - least) * number // (POINTS - 1) for number in range(POINTS)]
