# SPDX-License-Identifier: Apache-2.0
"""Planners from the literature: the judge accepts what they return, and each keeps to its own rule."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks.plan_bytes import packed, unpacked
from benchmarks.plan_steps import KINDS, made_up
from benchmarks.planners import poet_milp, simple
from benchmarks.planners.capuchin import capuchin
from benchmarks.planners.chains import blocks
from benchmarks.planners.lowering import NoSchedule, saved, usage
from benchmarks.planners.poet_milp import solve
from benchmarks.planners.pofo import pofo
from finetune.poet.matrices import judge
from finetune.problem import Limits, Problem, Semantics
from finetune.replay import replay
from finetune.schedule import Schedule

PLANNERS: dict[str, Callable[[Problem], Schedule]] = {
    "page_everything": simple.page_everything,
    "chen_any": simple.chen_any,
    "page_greedy": simple.page_greedy,
    "capuchin": capuchin,
    "pofo": pofo,
}


def acts(schedule: Schedule) -> Counter[str]:
    return Counter(entry.act for entry in schedule)


def storage_times(problem: Problem, factor: float) -> Problem:
    """The same problem with transfers that take longer or shorter."""
    costs = problem.costs
    write_s, read_s = (tuple(factor * seconds for seconds in row) for row in (costs.write_s, costs.read_s))
    return dataclasses.replace(problem, costs=dataclasses.replace(costs, write_s=write_s, read_s=read_s))


@pytest.mark.parametrize("semantics", ["poet", "real"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PLANNERS)
def test_accepted(name: str, kind: str, semantics: Semantics) -> None:
    """What a planner returns fits the budget by the judge's count, and costs something when the budget is short."""
    problem = made_up(kind, 60, 0.75, deadline=8.0, semantics=semantics)
    assert replay(problem, PLANNERS[name](problem)).overhead_j > 0


@pytest.mark.parametrize("name", ["page_greedy", "capuchin", "pofo"])
def test_nothing_for_nothing(name: str) -> None:
    """Where everything fits, a planner that looks at the budget does nothing."""
    problem = made_up("residual", 40, 1.0)
    assert replay(problem, PLANNERS[name](problem)).overhead_j == 0


def test_keep_everything_needs_its_peak() -> None:
    """Keeping everything has no schedule below its peak."""
    assert replay(made_up("residual", 60, 1.0), simple.keep(made_up("residual", 60, 1.0))).overhead_j == 0
    with pytest.raises(NoSchedule, match="brings RAM to"):
        simple.keep(made_up("residual", 60, 0.9))


def test_no_backward_pass() -> None:
    """A planner that goes by forward and backward pass says so when it is not told which is which."""
    problem = made_up("chain", 12, 0.9)
    forward = tuple(dataclasses.replace(op, phase="forward") for op in problem.graph.ops)
    graph = dataclasses.replace(problem.graph, ops=forward)
    with pytest.raises(NoSchedule, match="backward pass begins"):
        simple.chen_sqrt(dataclasses.replace(problem, graph=graph))


def test_usage_is_the_judges() -> None:
    """Planned bytes are counted as the judge counts them."""
    problem = made_up("transformer", 60, 0.8, semantics="real", deadline=None)
    schedule = simple.page_greedy(problem)
    assert max(usage(problem, schedule)) <= problem.limits.budget_bytes
    tight = dataclasses.replace(problem, limits=Limits(max(usage(problem, schedule))))
    assert replay(tight, schedule).overhead_j > 0


def test_page_greedy_gives_back() -> None:
    """The greedy computes nothing twice, and without any one of its pages the step no longer fits."""
    problem = made_up("residual", 60, 0.6)
    schedule = simple.page_greedy(problem)
    assert acts(schedule)["C"] == len(problem.graph.ops)
    everything = replay(problem, simple.page_everything(problem))
    assert replay(problem, schedule).overhead_j < everything.overhead_j


def test_chen_runs_a_segment_twice_at_most() -> None:
    """Of n saved storages about sqrt(n) are kept, and no op is computed more than twice."""
    problem = made_up("chain", 60, 1.0)
    runs = Counter(entry.number for entry in simple.chen_sqrt(problem) if entry.act == "C")
    count = len(saved(problem.graph))
    assert max(runs.values()) == 2
    again = sum(times == 2 for times in runs.values())
    assert 0.6 * count <= again <= count - count**0.5 + 1


def test_capuchin_pages_what_is_hidden_and_recomputes_what_is_not() -> None:
    """With a fast channel nothing is computed twice; with one so slow that nothing is hidden, nothing is paged."""
    problem = made_up("residual", 60, 0.8, deadline=8.0)
    fast, slow = (acts(capuchin(storage_times(problem, factor))) for factor in (1e-4, 1e4))
    assert fast["C"] == len(problem.graph.ops)
    assert fast["O"] > 0
    assert slow["C"] > len(problem.graph.ops)
    assert slow["O"] == 0


@pytest.mark.parametrize("share", [0.8, 0.7])
def test_pofo_on_chains(share: float) -> None:
    """On a chain the dynamic programme beats checkpoints at equal distances, and every block is a layer."""
    problem = made_up("chain", 48, share, deadline=8.0)
    assert replay(problem, pofo(problem)).overhead_j <= replay(problem, simple.chen_any(problem)).overhead_j
    assert len(blocks(problem)) == sum(op.phase == "forward" for op in problem.graph.ops)


def test_pofo_by_time_is_no_slower() -> None:
    """Asked for time, the programme's step is no longer than the one it gives when asked for joules."""
    problem = made_up("chain", 40, 0.6, semantics="real", deadline=None)
    quick, frugal = (replay(problem, pofo(problem, by)) for by in ("time", "energy"))
    assert quick.step_time_s <= frugal.step_time_s


@pytest.mark.parametrize("solver", ["cbc", "highs"])
def test_poets_program(solver: poet_milp.Solver) -> None:
    """A solver's optimum is accepted by POET's rules, and no planner undercuts it."""
    problem = made_up("chain", 14, 0.6)
    solved = solve(problem, solver, 60)
    assert solved.ended == "optimal"
    assert solved.schedule is not None
    assert solved.matrices is not None
    overhead_j = replay(problem, solved.schedule).overhead_j
    assert 0 < overhead_j <= replay(problem, simple.page_greedy(problem)).overhead_j * (1 + 1e-9)
    replayed = judge(problem, solved.matrices)
    assert not replayed.broken
    assert replayed.peak_bytes <= problem.limits.budget_bytes


def test_poets_program_below_the_working_set() -> None:
    """A budget that no op fits is infeasible, not a failure."""
    problem = made_up("chain", 10, 0.7)
    tight = dataclasses.replace(problem, limits=Limits(problem.limits.budget_bytes // 4, None))
    assert solve(tight, "highs", 60).ended == "infeasible"


def test_a_solver_is_ended_at_its_limit() -> None:
    """A child that does not stop by itself is killed."""
    assert poet_milp.killed([sys.executable, "-c", "import time; time.sleep(600)"], 0.3)
    assert not poet_milp.killed([sys.executable, "-c", ""], 60)


@pytest.mark.parametrize("name", PLANNERS)
def test_packed(name: str) -> None:
    """A schedule comes back from its bytes entry by entry, and keeping everything takes none."""
    problem = made_up("residual", 60, 0.8, deadline=8.0)
    schedule = PLANNERS[name](problem)
    assert unpacked(problem.graph, packed(schedule)) == schedule
    assert packed(simple.keep(made_up("chain", 12, 1.0))) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_steps(kind: str) -> None:
    """A made-up step is the same each time, has about as many ops as asked for, and a gradient for each result used."""
    problem, again = made_up(kind, 120, 0.5), made_up(kind, 120, 0.5)
    assert problem == again
    assert 0.8 <= len(problem.graph.ops) / 120 <= 1.3
    names = [op.name for op in problem.graph.ops]
    assert len(set(names)) == len(names)
    for op in problem.graph.ops:
        if op.phase == "forward" and any(problem.graph.ops[source].inputs for source in op.inputs):
            assert any(name.startswith(f"d{op.name}.") for name in names)
