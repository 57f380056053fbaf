# SPDX-License-Identifier: Apache-2.0
"""Whether a step can be planned at all, and the least RAM with which it can."""

from __future__ import annotations

from dataclasses import replace

from ..problem import Only, Problem
from ..schedule import keep_everything
from .accepted import accept
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
    """The fewest bytes with which a schedule is at hand; None where no budget helps.

    Exact where paging everything comes down to what the largest op needs; else the least of a short search.
    """
    roomy = with_budget(problem, ROOMY)
    kept = accept(roomy, keep_everything(problem.graph))
    if kept is None:
        return None
    least, most = working_set(problem).bytes, kept.peak_bytes
    paged = accept(roomy, page_everything(problem.graph)) if only != "recompute" else None
    if paged:
        most = min(most, paged.peak_bytes)
    if problem.limits.budget_bytes >= least:
        least = min(problem.limits.budget_bytes, most)  # at the budget itself a longer search found nothing
    return _halve(problem, least, most, seed, only)


def _halve(problem: Problem, least: int, most: int, seed: int, only: Only) -> int:
    """The smallest budget from `least` to `most` for which a short search finds a schedule; `most` is known to do."""
    from .anneal import anneal

    for _ in range(HALVINGS):
        if least >= most:
            break
        tried = with_budget(problem, (least + most) // 2)
        schedule = anneal(tried, seed=seed, steps=STEPS, only=only)
        found = accept(tried, schedule) if schedule is not None else None
        if found:
            most = found.peak_bytes
        else:
            least = tried.limits.budget_bytes + 1
    return most


def with_budget(problem: Problem, budget_bytes: int) -> Problem:
    """The same problem with another budget."""
    return replace(problem, limits=replace(problem.limits, budget_bytes=budget_bytes))
