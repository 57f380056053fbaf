# SPDX-License-Identifier: Apache-2.0
"""Planners that go by a rule of thumb: keep everything, page everything, Chen's checkpoints, page-only greedy."""

from __future__ import annotations

import math

import numpy as np

from finetune.problem import Problem
from finetune.schedule import Schedule, keep_everything

from .lowering import Choice, Gap, NoSchedule, gaps, judged, lower, may, saved, usage


def keep(problem: Problem) -> Schedule:
    """Nothing is dropped; fits only when the budget is no limit."""
    return judged(problem, keep_everything(problem.graph))


def page_everything(problem: Problem) -> Schedule:
    """All that the forward pass saves for the backward pass is written at once and read when it is needed."""
    graph = problem.graph
    return judged(problem, lower(graph, {gap: "page" for gap in saved(graph) if may(graph, gap, "page")}))


def chen_sqrt(problem: Problem) -> Schedule:
    """Training deep nets with sublinear memory cost (Chen et al., arXiv:1604.06174), linearised.

    Of n saved storages every sqrt(n)-th is kept; a segment between two is made again once, when its gradients need it.
    """
    return judged(problem, _checkpointed(problem, math.isqrt(len(saved(problem.graph)) - 1) + 1))


def chen_any(problem: Problem) -> Schedule:
    """The same with the segment length whose schedule is cheapest of all that the judge accepts."""
    best: tuple[float, Schedule] | None = None
    for length in range(2, len(saved(problem.graph)) + 1):
        try:
            found = judged(problem, _checkpointed(problem, length))
        except NoSchedule:
            continue
        extra_j = math.fsum(problem.costs.energy_j[entry.number] for entry in found if entry.act == "C")
        if best is None or extra_j < best[0]:
            best = (extra_j, found)
    if best is None:
        raise NoSchedule("no segment length fits")
    return best[1]


def _checkpointed(problem: Problem, length: int) -> Schedule:
    graph = problem.graph
    dropped: dict[Gap, Choice] = {}
    for number, gap in enumerate(saved(graph)):
        if number % length and may(graph, gap, "recompute"):
            dropped[gap] = "recompute"
    return lower(graph, dropped)


def page_greedy(problem: Problem) -> Schedule:
    """Page what saves most excess bytes per joule until all fits; then give back what turned out unneeded.

    Nothing is computed twice. Excess is counted over the ops of the step, not in time.
    """
    graph, costs, budget = problem.graph, problem.costs, problem.limits.budget_bytes
    left = [gap for gap in gaps(graph) if may(graph, gap, "page")]
    used = np.array(_by_op(problem, {}))
    chosen: dict[Gap, Choice] = {}

    def worth(gap: Gap) -> float:
        size = graph.storages[gap.storage].size_bytes
        excess = float(np.clip(used[gap.after + 1 : gap.before] - budget, 0, size).sum())
        joules = costs.read_j[gap.storage]
        if not any(other.storage == gap.storage for other in chosen):
            joules += costs.write_j[gap.storage]
        return excess / max(joules, 1e-300)

    while used.max() > budget:
        gap = max(left, key=worth, default=None)
        if gap is None or not worth(gap):
            raise NoSchedule("paging alone does not get within the budget")
        left.remove(gap)
        chosen[gap] = "page"
        used[gap.after + 1 : gap.before] -= graph.storages[gap.storage].size_bytes
    for gap in sorted(chosen, key=lambda gap: -costs.read_j[gap.storage]):
        fewer = {other: choice for other, choice in chosen.items() if other != gap}
        if max(usage(problem, lower(graph, fewer))) <= budget:
            chosen = fewer
    return judged(problem, lower(graph, chosen))


def _by_op(problem: Problem, choices: dict[Gap, Choice]) -> list[int]:
    """Planned bytes while each op runs for the first time."""
    schedule = lower(problem.graph, choices)
    used = dict.fromkeys(range(len(problem.graph.ops)), 0)
    for entry, held in zip(schedule, usage(problem, schedule), strict=True):
        if entry.act == "C":
            used[entry.number] = max(used[entry.number], held)
    return list(used.values())
