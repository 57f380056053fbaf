# SPDX-License-Identifier: Apache-2.0
"""One planner held against another's best: as little RAM at its speed, as much speed in its RAM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.plan import Plan, plan
from finetune.problem import Problem
from finetune.replay import replay

from .plan_instances import Instance
from .planners.lowering import NoSchedule
from .planners.pofo import pofo

SECONDS = 1.5
HALVINGS = 6


def versus_pofo(instance: Instance, problem: Problem, data: Path) -> dict[str, Any]:
    """The quickest step of rotor/POFO in the budget; ours no slower in less RAM, and ours faster in the same RAM."""
    try:
        theirs = replay(problem, pofo(problem, "time"))
    except NoSchedule as error:
        return {"status": "none", "why": str(error)}
    base_s, fixed = problem.base_time_s, theirs.peak_bytes - theirs.activation_peak_bytes
    found: dict[str, Any] = {
        "status": "feasible",
        "their_step_time": theirs.step_time_s / base_s,
        "their_activation_peak_bytes": theirs.activation_peak_bytes,
        "their_overhead_pct": 100 * theirs.overhead_j / problem.base_energy_j,
    }

    def within(bytes_: float, seconds: float) -> Plan | None:
        limits = dataclasses.replace(problem.limits, budget_bytes=int(bytes_), deadline_s=seconds)
        made = plan(dataclasses.replace(problem, limits=limits), effort=0.0, wall_s=SECONDS)
        return made if made.schedule else None

    smallest = _least(fixed, theirs.peak_bytes, lambda bytes_: within(bytes_, theirs.step_time_s))
    quickest = _least(base_s, theirs.step_time_s, lambda seconds: within(theirs.peak_bytes, seconds))
    if smallest:
        found["our_activation_peak_bytes"] = smallest.activation_peak_bytes
        found["peak_saved"] = 1 - (smallest.activation_peak_bytes or 0) / theirs.activation_peak_bytes
        found["overhead_pct_at_smallest"] = 100 * (smallest.overhead_j or 0.0) / problem.base_energy_j
    if quickest and quickest.step_time_s:
        found["our_step_time"] = quickest.step_time_s / base_s
        found["throughput_gained"] = theirs.step_time_s / quickest.step_time_s - 1
        found["overhead_pct_at_quickest"] = 100 * (quickest.overhead_j or 0.0) / problem.base_energy_j
    return found


def _least(low: float, high: float, made: Callable[[float], Plan | None]) -> Plan | None:
    """The plan at the smallest limit that bisection finds one for; None if there is none at the largest."""
    best = made(high)
    if best is None:
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = made(middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best
