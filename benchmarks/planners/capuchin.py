# SPDX-License-Identifier: Apache-2.0
"""Capuchin's rule (Peng et al., ASPLOS 2020), from its description: page what prefetching hides, recompute on top.

A gap's free time is what is left of it after the write and the read. While RAM is short at its peak, the gap across the
peak with the most free time is paged, as long as the channel can hide all transfers chosen. After that each gap across
the peak is taken as what costs it less time, exposed transfer or recomputation, and the one that saves most bytes per
second goes first. Energy plays no part. Capuchin finds its times by watching a first step; here the costs are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from finetune.problem import Problem
from finetune.replay import replay
from finetune.schedule import Schedule

from .lowering import Choice, Gap, NoSchedule, bring_back, gaps, judged, lower, may, usage

INSTANT_S = 1e-12
"""Stands for no time at all where something is divided by it."""


def capuchin(problem: Problem) -> Schedule:
    """The schedule by that rule; of recomputed tensors kept or dropped at once, whichever fits, or is cheaper."""
    found: list[Schedule] = []
    why = ""
    for retain in (True, False):
        try:
            found.append(judged(problem, _planned(problem, retain)))
        except NoSchedule as error:
            why = str(error)
    if not found:
        raise NoSchedule(why)
    return min(found, key=lambda schedule: replay(problem, schedule).overhead_j)


def _planned(problem: Problem, retain: bool) -> Schedule:
    graph, costs = problem.graph, problem.costs
    clock_s = [0.0]
    for seconds in costs.time_s:
        clock_s.append(clock_s[-1] + seconds)
    left = gaps(graph)
    chosen: dict[Gap, Choice] = {}
    while True:
        schedule = lower(graph, chosen, retain=retain)
        peak, excess = _peak(problem, schedule)
        if excess <= 0:
            return schedule
        across = [gap for gap in left if gap.after < peak < gap.before]
        hidden = [gap for gap in across if may(graph, gap, "page") and _hides(problem, clock_s, [*_paged(chosen), gap])]
        if hidden:
            gap, choice = max(hidden, key=lambda gap: (_free_s(problem, clock_s, gap), gap)), "page"
        else:
            gap, choice = _cheapest(problem, clock_s, across, chosen)
        chosen[gap] = choice  # type: ignore[assignment]
        left.remove(gap)


def _peak(problem: Problem, schedule: Schedule) -> tuple[int, int]:
    """The op whose first run is nearest after the peak, and the bytes above the budget."""
    used = usage(problem, schedule)
    highest = max(range(len(used)), key=used.__getitem__)
    frontier = -1
    for position, entry in enumerate(schedule):
        if entry.act == "C" and entry.number > frontier:
            frontier = entry.number
            if position >= highest:
                break
    return frontier, used[highest] - problem.limits.budget_bytes


def _paged(chosen: Mapping[Gap, Choice]) -> list[Gap]:
    return [gap for gap, choice in chosen.items() if choice == "page"]


def _free_s(problem: Problem, clock_s: list[float], gap: Gap) -> float:
    transfers_s = problem.costs.write_s[gap.storage] + problem.costs.read_s[gap.storage]
    return clock_s[gap.before] - clock_s[gap.after + 1] - transfers_s


def _hides(problem: Problem, clock_s: list[float], paged: list[Gap]) -> bool:
    """Whether one channel carries these transfers, writes as early and reads as late as can be, and nobody waits."""
    costs = problem.costs
    written_s: dict[Gap, float] = {}
    busy_s = 0.0
    for gap in sorted(paged, key=lambda gap: gap.after):
        busy_s = max(busy_s, clock_s[gap.after + 1]) + costs.write_s[gap.storage]
        written_s[gap] = busy_s
    first_s = math.inf
    for gap in sorted(paged, key=lambda gap: -gap.before):
        first_s = min(first_s, clock_s[gap.before]) - costs.read_s[gap.storage]
        if first_s < written_s[gap]:
            return False
    return True


def _cheapest(
    problem: Problem, clock_s: list[float], across: list[Gap], chosen: Mapping[Gap, Choice]
) -> tuple[Gap, Choice]:
    """Most bytes per second of delay; raises `NoSchedule` when there is nothing left to take away at the peak."""
    graph = problem.graph
    best: tuple[float, Gap, Choice] | None = None
    for gap in across:
        size = graph.storages[gap.storage].size_bytes
        options: list[tuple[float, Choice]] = []
        if may(graph, gap, "page"):
            options.append((max(0.0, -_free_s(problem, clock_s, gap)), "page"))
        if may(graph, gap, "recompute") and (seconds := _again_s(problem, gap, chosen)) is not None:
            options.append((seconds, "recompute"))
        for seconds, choice in [min(options)] if options else []:
            worth = size / max(seconds, INSTANT_S)
            if best is None or (worth, gap) > best[:2]:
                best = (worth, gap, choice)
    if best is None:
        raise NoSchedule("nothing is left to evict at the peak")
    return best[1], best[2]


def _again_s(problem: Problem, gap: Gap, chosen: Mapping[Gap, Choice]) -> float | None:
    """Seconds to make a storage again at the end of its gap, with all that is missing then; None if that cannot be."""
    absent = {other.storage for other in chosen if other.after < gap.before < other.before} | {gap.storage}
    stored = {other.storage for other in _paged(chosen) if other.storage != gap.storage}
    try:
        entries = bring_back(problem.graph, [gap.storage], absent, stored)
    except NoSchedule:
        return None
    costs = problem.costs
    return sum(costs.time_s[entry.number] if entry.act == "C" else costs.read_s[entry.number] for entry in entries)
