# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from finetune.graph import Graph, Op, Storage
from finetune.planning.accepted import accept
from finetune.planning.highs import relax
from finetune.planning.hoist import hoisted
from finetune.planning.model import StageEnd
from finetune.planning.stage_end import prove
from finetune.planning.stages import stages_of
from finetune.problem import Costs, Limits, Problem
from finetune.replay import replay
from finetune.schedule import keep_everything
from tests.unit.finetune.exhaustive import exhaustive_overhead_j
from tests.unit.finetune.steps import chain, poet_problems, real_problems

RARE = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def _sound(problem: Problem) -> None:
    least_j = exhaustive_overhead_j(problem)
    proof = prove(problem, effort=5.0)
    if least_j is None:
        assert proof.schedule is None
        return
    assert not proof.infeasible
    assert proof.bound_j <= least_j * (1 + 1e-9)
    if proof.schedule is not None:
        found = accept(problem, proof.schedule)
        assert found is not None
        assert found.replayed.overhead_j >= least_j * (1 - 1e-9)
        if proof.closed:
            assert found.replayed.overhead_j == pytest.approx(least_j, rel=1e-5, abs=1e-9)


@RARE
@given(real_problems(most=4, timed=False))
def test_no_schedule_of_a_real_step_undercuts_the_bound(problem: Problem) -> None:
    """The bound is at most the least overhead there is, found by trying everything; a closed proof has reached it."""
    _sound(problem)


@RARE
@given(poet_problems(most=6))
def test_no_schedule_under_poets_rules_undercuts_the_bound(problem: Problem) -> None:
    """The same where paging takes no time and ops make one output each."""
    _sound(replace(problem, limits=replace(problem.limits, deadline_s=None)))


@RARE
@given(real_problems(most=3, timed=False))
def test_the_relaxation_is_below_every_schedule(problem: Problem) -> None:
    """What the duals prove of the relaxation is at most the least overhead there is, too."""
    least_j = exhaustive_overhead_j(problem)
    program = StageEnd(problem, stages_of(problem, cap_j=float("inf")), 1e-6)
    if least_j is not None:
        assert relax(program.model).bound * program.model.unit_j <= least_j * (1 + 1e-9)


def test_a_long_chain_is_proven_optimal() -> None:
    """A chain of 60 ops at half its memory is closed, and its schedule is accepted."""
    problem = chain(30, 200)
    proof = prove(problem, effort=10.0)
    assert proof.closed
    assert proof.schedule is not None
    assert replay(problem, proof.schedule).overhead_j == pytest.approx(proof.bound_j, rel=1e-5)


def test_the_same_question_has_the_same_answer() -> None:
    """Two proofs of one problem are equal: effort is counted, not timed."""
    problem = chain(12, 90)
    assert prove(problem, effort=2.0) == prove(problem, effort=2.0)


def test_a_hint_is_never_made_worse_and_a_good_one_is_confirmed() -> None:
    """With the optimum as a hint nothing better is found, and the proof is closed all the same."""
    problem = chain(12, 90)
    best = prove(problem, effort=5.0).schedule
    assert best is not None
    again = prove(problem, hint=best, effort=5.0)
    assert again.closed
    assert again.schedule is None


def test_what_fits_as_it_is_costs_nothing() -> None:
    """Where everything can be kept, the bound is zero and that is closed."""
    problem = chain(5, 10_000)
    proof = prove(problem, hint=keep_everything(problem.graph), effort=1.0)
    assert proof.closed
    assert proof.bound_j == 0


@pytest.mark.parametrize(("only", "acts"), [("page", "OI"), ("recompute", "C")])
def test_only_what_is_allowed_is_used(only: str, acts: str) -> None:
    """`page` computes nothing twice, `recompute` moves nothing; neither undercuts both together."""
    problem = chain(12, 120)
    free, bound = prove(problem, effort=5.0), prove(problem, effort=5.0, only=only)  # type: ignore[arg-type]
    assert free.closed
    assert bound.closed
    assert bound.schedule is not None
    computed = [entry.number for entry in bound.schedule if entry.act == "C"]
    assert (len(computed) > len(problem.graph.ops)) == (acts == "C")
    assert any(entry.act in "OI" for entry in bound.schedule) == (acts == "OI")
    assert free.bound_j <= bound.bound_j * (1 + 1e-6)


def test_progress_only_improves() -> None:
    """The best overhead reported never rises, the bound never falls, and the bound never exceeds the best."""
    seen: list[tuple[float | None, float]] = []
    prove(chain(14, 100), effort=3.0, progress=lambda best_j, bound_j: seen.append((best_j, bound_j)))
    best = [best_j for best_j, _ in seen if best_j is not None]
    bounds = [bound_j for _, bound_j in seen]
    assert best == sorted(best, reverse=True)
    assert bounds == sorted(bounds)
    assert bounds[-1] <= best[-1]


def test_a_step_that_cannot_fit_is_infeasible_by_name() -> None:
    """Below the working set the op that does not fit is named."""
    proof = prove(chain(5, 25), effort=1.0)
    assert "op" in proof.infeasible
    assert proof.schedule is None


def test_no_wall_time_means_no_claim() -> None:
    """Without time the bound is zero or little, and nothing is called closed."""
    proof = prove(chain(20, 120), effort=5.0, until_s=0.0)
    assert not proof.closed


def _updated_step() -> Problem:
    """A weight that never leaves RAM is changed between the last stage in which `kept` may be remade and its use."""
    ops = (
        Op("source", "made up", (), (1,)),
        Op("kept", "made up", (0, 1), (2,)),
        Op("large", "made up", (1,), (3,)),
        Op("gradient", "made up", (3,), (4,)),
        Op("update", "made up", (4,), (), (0,), again=False, phase="update"),
        Op("larger", "made up", (1,), (5,)),
        Op("use", "made up", (2, 5), (6,)),
    )
    sizes = (5, 10, 10, 30, 1, 20, 1)
    storages = tuple(Storage(f"value{number}", size, pageable=number == 2) for number, size in enumerate(sizes))
    ones, none = (1.0,) * 7, (0.0,) * 7
    costs = Costs(none, ones, (0,) * 7, none, (50.0,) * 7, none, (50.0,) * 7)
    return Problem(Graph("updated", ops, storages), costs, Limits(46))


def test_nothing_is_made_again_from_what_has_changed_since() -> None:
    """Between its update and its use a weight's reader cannot run again, though the weight is there all the time."""
    _sound(_updated_step())


def test_hoisted_reads_hide_behind_computing() -> None:
    """Reads on demand stall; moved up where RAM allows they stall less, and the schedule stays valid."""
    problem = chain(12, 120)
    slow = replace(problem, costs=replace(problem.costs, read_s=(0.9,) * 24))
    schedule = prove(replace(slow, semantics="poet"), effort=5.0, only="page").schedule
    assert schedule is not None
    late, early = replay(slow, schedule), replay(slow, hoisted(slow, schedule))
    assert early.step_time_s < late.step_time_s
    assert early.overhead_j == late.overhead_j


def test_ram_inside_a_stage_is_part_of_the_proof() -> None:
    """Where only RAM inside stages forbids a cheaper answer the bound rises, and no higher than the least there is."""
    raised = 0
    for seed in range(300):
        problem = _tight_step(random.Random(seed))
        proof = prove(problem, effort=2.0)
        outside = prove(problem, effort=2.0, inside=False)
        if proof.bound_j > outside.bound_j * (1 + 1e-6):
            raised += 1
            least_j = exhaustive_overhead_j(problem)
            assert least_j is not None
            assert proof.bound_j <= least_j * (1 + 1e-9)
    assert raised >= 3


def _tight_step(draw: random.Random) -> Problem:
    """A few ops that often run again, dear transfers, and hardly more RAM than the largest op needs."""
    ops: list[Op] = []
    storages: list[Storage] = []
    for number in range(draw.randint(5, 7)):
        inputs = tuple(sorted(draw.sample(range(len(storages)), min(len(storages), draw.randint(1, 3)))))
        ops.append(Op(f"op{number}", "made up", inputs, (len(storages),)))
        storages.append(Storage(f"s{number}", draw.randint(1, 4)))
    graph = Graph("tight", tuple(ops), tuple(storages))
    most = max(sum(storages[one].size_bytes for one in (*op.inputs, *op.outputs)) for op in ops)
    free, dear_j = (0.0,) * len(ops), tuple(20.0 * draw.randint(1, 5) for _ in ops)
    costs = Costs(free, tuple(float(draw.randint(1, 9)) for _ in ops), (0,) * len(ops), free, dear_j, free, dear_j)
    return Problem(graph, costs, Limits(most + draw.randint(0, 1)))


def _crowded_step() -> Problem:
    """A step whose cheapest answer writes what POET's rules cannot write in time."""
    inputs = ((), (0,), (0, 1), (0, 1, 2), (1,), (0,), (3, 4, 5))
    sizes = (6, 11, 5, 14, 18, 8, 3)
    ops = tuple(Op(f"op{number}", "made up", needed, (number,)) for number, needed in enumerate(inputs))
    storages = tuple(Storage(f"value{number}", size) for number, size in enumerate(sizes))
    none = (0.0,) * 7
    energy_j, write_j, read_j = (
        (3.0, 5.0, 2.0, 5.0, 1.0, 1.0, 0.0),
        (1.0, 4.5, 1.0, 2.5, 2.5, 0.0, 1.5),
        (1.0, 1.0, 1.0, 0.0, 1.0, 2.5, 1.5),
    )
    costs = Costs(none, energy_j, (0,) * 7, none, write_j, none, read_j)
    return Problem(Graph("crowded", ops, storages), costs, Limits(43), "poet")


def test_a_refused_answer_is_solved_again_until_one_is_accepted() -> None:
    """Where the cheapest answer exceeds the budget inside a stage a dearer one is found, and not called closed."""
    problem = _crowded_step()
    proof = prove(problem, effort=5.0)
    assert proof.schedule is not None
    found = accept(problem, proof.schedule)
    assert found is not None
    assert found.peak_bytes <= 43
    assert found.replayed.overhead_j == pytest.approx(4.5)
    assert proof.bound_j == pytest.approx(2.5)
    assert not proof.closed
