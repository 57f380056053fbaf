# SPDX-License-Identifier: Apache-2.0
"""Whether a step can be planned at all, and the least RAM with which it can."""

from __future__ import annotations

from dataclasses import replace

from ..problem import Only, Problem
from ..schedule import keep_everything
from .accepted import Accepted, accept
from .limits import ROOMY
from .paging import page_everything, working_set

HALVINGS = 8
"""The smallest budget is searched to a part in 256 of the range in question."""
STEPS = 3000
"""Of search for each budget tried: enough to find some schedule, if not a good one."""


def impossible(problem: Problem) -> str:
    """Why no schedule can exist, as far as it can be told without a search; empty if it cannot be told."""
    limits, needed = problem.limits, working_set(problem)
    if limits.deadline_s is not None and problem.base_time_s > limits.deadline_s * (1 + 1e-9):
        return f"computing alone takes {problem.base_time_s:.6g} s, the deadline is {limits.deadline_s:.6g} s"
    if needed.bytes > limits.budget_bytes:
        return f"{needed.what} alone needs {needed.bytes} bytes, the budget is {limits.budget_bytes}"
    return ""


def smallest_budget(problem: Problem, seed: int = 0, only: Only = "both") -> int | None:
    """The fewest bytes with which a schedule is at hand; None where no budget helps."""
    found = smallest(problem, seed, only)
    return None if found is None else found.peak_bytes


def smallest(problem: Problem, seed: int = 0, only: Only = "both") -> Accepted | None:
    """The schedule at hand of the fewest bytes; None where no budget helps.

    Exact where paging everything comes down to what the largest op needs; else the least of a short search. That search
    has more room than the problem gives to begin with, and with it can end within what the problem gives.
    """
    roomy = with_budget(problem, ROOMY)
    best = accept(roomy, keep_everything(problem.graph))
    if best is None:
        return None
    paged = accept(roomy, page_everything(problem.graph)) if only != "recompute" else None
    if paged and paged.peak_bytes < best.peak_bytes:
        best = paged
    # Where the budget would do for the largest op, a longer search at the budget itself has found nothing.
    least = max(working_set(problem).bytes, problem.limits.budget_bytes)
    return _halve(problem, least, best, seed, only)


def _halve(problem: Problem, least: int, best: Accepted, seed: int, only: Only) -> Accepted:
    """The schedule of the smallest budget from `least` to what `best` needs for which a short search finds one."""
    from .anneal import anneal

    for _ in range(HALVINGS):
        if least >= best.peak_bytes:
            break
        tried = with_budget(problem, (least + best.peak_bytes) // 2)
        schedule = anneal(tried, seed=seed, steps=STEPS, only=only)
        found = accept(tried, schedule) if schedule is not None else None
        if found:
            best = found
        else:
            least = tried.limits.budget_bytes + 1
    return best


def with_budget(problem: Problem, budget_bytes: int) -> Problem:
    """The same problem with another budget."""
    return replace(problem, limits=replace(problem.limits, budget_bytes=budget_bytes))
