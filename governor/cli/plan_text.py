# SPDX-License-Identifier: Apache-2.0
"""`teg plan` for people: how planning stands while it lasts, and what came of it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status

if TYPE_CHECKING:
    from finetune.plan import Plan, Progress
    from finetune.problem import Problem

PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


class PlanProgress:
    """One line on a terminal: the best so far and the bound so far; nothing where nobody watches."""

    def __init__(self, problem: Problem, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._base_j = problem.base_energy_j
        self._line: Status | None = console.status("planning") if console.is_terminal and not quiet else None

    def __enter__(self) -> PlanProgress:
        if self._line:
            self._line.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._line:
            self._line.stop()

    def update(self, progress: Progress) -> None:
        """Show where planning stands."""
        if self._line:
            best, bound = self._overhead(progress.best_overhead_j), self._overhead(progress.bound_overhead_j)
            self._line.update(f"{progress.phase}  {progress.elapsed_s:5.1f} s  overhead {best}  no less than {bound}")

    def _overhead(self, joules: float | None) -> str:
        return "not known yet" if joules is None else overhead_text(joules, self._base_j)


def render(problem: Problem, plan: Plan) -> str:
    """What came of it, in a few lines."""
    lines = [f"{problem.graph.name} on {plan.platform}, {plan.semantics} rules: {plan.status}"]
    if plan.overhead_j is None or plan.energy_j is None or plan.step_time_s is None:
        lines.append(f"  {plan.why}")
        if plan.smallest_budget_bytes is not None:
            lines.append(f"  the smallest budget with a plan: {plan.smallest_budget_bytes} bytes")
        return "\n".join(lines)
    overhead = overhead_text(plan.overhead_j, problem.base_energy_j)
    plain_s = problem.base_time_s or 1.0
    lines += [
        f"  energy    {si(plan.energy_j, 'J')} a step, overhead {overhead}{_proven(plan)}",
        f"  memory    {plan.peak_bytes} of {plan.budget_bytes} bytes at most, "
        f"{plan.activation_peak_bytes} of them activations",
        f"  time      {si(plan.step_time_s, 's')} a step, {plan.step_time_s / plain_s:.3f} of computing once",
        f"  schedule  {_acts(plan)}",
        f"  costs     {plan.costs_from}",
        f"  planned   in {plan.solve_s:.1f} s{', cut off by the time limit' if plan.cut_off else ''}",
    ]
    return "\n".join(lines)


def _proven(plan: Plan) -> str:
    if plan.status == "optimal":
        return ", the least there is"
    if plan.status == "bounded" and plan.overhead_gap is not None:
        return f", at most {plan.overhead_gap:.2%} of it avoidable"
    return ", nothing proven"


def _acts(plan: Plan) -> str:
    acts = [entry.act for entry in plan.schedule]
    again = acts.count("C") - len({entry.number for entry in plan.schedule if entry.act == "C"})
    return f"{again} ops again, {acts.count('O')} writes, {acts.count('I')} reads"


def overhead_text(joules: float, base_j: float) -> str:
    """Joules and their share of the plain step."""
    return f"{si(joules, 'J')} ({joules / base_j:.4%})" if base_j else si(joules, "J")


def si(value: float, unit: str) -> str:
    """Four digits with a prefix."""
    for factor, prefix in PREFIXES:
        if value >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"
